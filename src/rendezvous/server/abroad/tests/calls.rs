//! Calls to listeners of other servers.

use super::world::{SECOND, World};
use crate::rendezvous::server::MAX_CALLS;
use crate::rendezvous::server::tests::client::{call, come, home};
use crate::rendezvous::{Answer, Refusal};
use std::time::Duration;

#[test]
fn a_listener_is_called_from_another_server_and_comes_to_a_third() {
    for at in 0..3 {
        let mut world = World::new(3);
        let listener = world.listener(0, &home());
        let caller = world.client(1);
        let ticket = listener.ticket_in(&world.says(caller, call(&home())));
        let comes = world.client(at);
        world.asks(comes, come(ticket, b"a"));
        world.have_met(comes, caller);
        assert!(world.server(0).rung.is_empty());
        let late = world.client(at);
        assert_eq!(world.says(late, come(ticket, b"")), late.is_refused(Refusal::NoSuchPlace));
    }
}

#[test]
fn a_call_to_nobody_is_refused_when_all_have_said_so() {
    let mut world = World::new(3);
    let caller = world.client(1);
    assert_eq!(world.says(caller, call(&home())), caller.is_refused(Refusal::NobodyThere));
    // One that has just died says nothing.
    world.kill(2);
    let caller = world.client(1);
    assert_eq!(world.says(caller, call(&home())), []);
    world.pass(Duration::from_millis(1200));
    assert_eq!(world.heard(), caller.is_refused(Refusal::NobodyThere));
}

#[test]
fn calls_of_a_server_that_died_do_not_count() {
    let mut world = World::new(2);
    let listener = world.listener(0, &home());
    for _ in 0..MAX_CALLS {
        let caller = world.client(1);
        listener.ticket_in(&world.says(caller, call(&home())));
    }
    let more = world.client(1);
    assert_eq!(world.says(more, call(&home())), more.is_refused(Refusal::TooMany));
    world.kill(1);
    world.pass(5 * SECOND);
    let caller = world.client(0);
    listener.ticket_in(&world.says(caller, call(&home())));
}

#[test]
fn callers_of_a_listener_whose_server_died_are_told() {
    let mut world = World::new(2);
    let listener = world.listener(0, &home());
    let caller = world.client(1);
    listener.ticket_in(&world.says(caller, call(&home())));
    world.kill(0);
    world.pass(5 * SECOND);
    assert_eq!(world.heard(), caller.is_refused(Refusal::NobodyThere));
}

#[test]
fn who_listens_anew_on_another_server_takes_the_place_of_the_old_connection() {
    let mut world = World::new(2);
    let old = world.listener(0, &home());
    let new = world.client(1);
    let [refused, closed] = old.is_refused(Refusal::Replaced);
    assert_eq!(world.proves(new, &home()), [new.gets(Answer::Listening), refused, closed]);
    let caller = world.client(0);
    new.ticket_in(&world.says(caller, call(&home())));
}
