//! Clients that listen under a name, and calls to them.

use super::client::{call, come, home};
use super::world::{AT, SECOND, World};
use crate::rendezvous::server::{Limits, MAX_CALLS};
use crate::rendezvous::{Answer, Identity, Refusal, Request};
use std::collections::BTreeSet;

#[test]
fn a_call_leads_to_a_meeting_on_a_new_connection_of_the_listener() {
    let mut world = World::small();
    let listener = world.listener(AT[0], &home());
    let caller = world.client(AT[1]);
    let ticket = listener.ticket_in(&world.says(caller, call(&home())));
    let comes = world.client(AT[0]);
    assert_eq!(world.says(comes, come(ticket, b"")), [caller.meets(b""), comes.meets(b"b")]);
    let late = world.client(AT[2]);
    assert_eq!(
        world.says(late, come(ticket, b"")),
        late.is_refused(Refusal::NoSuchPlace),
        "a ticket is good for one"
    );
}

#[test]
fn only_the_holder_of_a_key_listens_under_it() {
    let mut world = World::small();
    let [thief, caller] = world.clients();
    let stolen = Identity::generate([2; 32]);
    let challenge = thief.challenge_in(&world.says(thief, Request::Listen(stolen.public())));
    let proof = Request::Prove(home().prove(challenge));
    assert_eq!(world.says(thief, proof), thief.is_refused(Refusal::NotYours));
    assert_eq!(world.says(caller, call(&stolen)), caller.is_refused(Refusal::NobodyThere));
}

#[test]
fn every_challenge_is_another() {
    let mut world = World::small();
    let clients: [_; 3] = world.clients();
    let challenges = clients.map(|client| {
        let heard = world.says(client, Request::Listen(home().public()));
        client.challenge_in(&heard)
    });
    assert_eq!(BTreeSet::from(challenges).len(), 3);
}

#[test]
fn who_listens_anew_takes_the_place_of_the_old_connection() {
    let mut world = World::small();
    let old = world.listener(AT[0], &home());
    let new = world.client(AT[1]);
    let [refused, closed] = old.is_refused(Refusal::Replaced);
    assert_eq!(world.proves(new, &home()), [refused, closed, new.gets(Answer::Listening)]);
    assert_eq!(world.goes(old), []);
    let caller = world.client(AT[2]);
    new.ticket_in(&world.says(caller, call(&home())));
}

#[test]
fn a_call_to_one_who_does_not_come_ends_and_a_listener_stays_for_days() {
    let mut world = World::small();
    let listener = world.listener(AT[0], &home());
    assert_eq!(world.after(3 * 86_400 * SECOND), []);
    let caller = world.client(AT[1]);
    listener.ticket_in(&world.says(caller, call(&home())));
    assert_eq!(world.after(29 * SECOND), []);
    assert_eq!(world.after(SECOND), caller.is_refused(Refusal::NobodyThere));
    assert_eq!(world.goes(listener), []);
    let caller = world.client(AT[2]);
    assert_eq!(world.says(caller, call(&home())), caller.is_refused(Refusal::NobodyThere));
    assert_eq!(world.server.counts().listening, 0);
}

#[test]
fn a_listener_is_told_of_so_many_calls_and_of_more_when_callers_have_gone() {
    let mut world = World::new(Limits::default());
    let listener = world.listener(AT[0], &home());
    let [first, ..] = std::array::from_fn::<_, { MAX_CALLS as usize }, _>(|host| {
        let caller = world.client(&format!("192.0.2.{host}:1"));
        listener.ticket_in(&world.says(caller, call(&home())));
        caller
    });
    let more = world.client(AT[2]);
    assert_eq!(world.says(more, call(&home())), more.is_refused(Refusal::TooMany));
    assert_eq!(world.goes(first), []);
    let more = world.client(AT[2]);
    listener.ticket_in(&world.says(more, call(&home())));
}
