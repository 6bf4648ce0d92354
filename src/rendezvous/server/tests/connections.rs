//! How connections begin, what comes at the wrong point, and how the server goes down.

use super::client::{clock, join, relay};
use super::world::{AT, World};
use crate::rendezvous::server::{Limits, MAX_OPENING, StreamError};
use crate::rendezvous::{Answer, FrameError, Refusal, Request};

#[test]
fn the_welcome_tells_where_the_client_comes_from_and_where_else_the_server_is() {
    let mut world = World::small();
    let a = world.connect("[::ffff:198.51.100.1]:40000").unwrap();
    let welcome = Answer::Welcome {
        observed: "198.51.100.1:40000".parse().unwrap(),
        other_port: "203.0.113.2:3479".parse().ok(),
        other_address: ["203.0.113.3:3478", "203.0.113.3:3479"]
            .map(|it| it.parse().unwrap())
            .to_vec(),
    };
    assert_eq!(world.greets(a), [a.gets(welcome)]);
}

#[test]
fn a_request_before_the_greeting_is_none() {
    let mut world = World::small();
    let a = world.connect(AT[0]).unwrap();
    assert_eq!(world.says(a, Request::Allocate), a.is_refused(Refusal::NotUnderstood));
}

#[test]
fn stun_and_meetings_do_not_mix() {
    let mut world = World::small();
    let a = world.connect(AT[0]).unwrap();
    let ends = world.server.stun(a.id, world.now).unwrap();
    assert_eq!(ends.observed, AT[0].parse().unwrap());
    assert_eq!(ends.other, "203.0.113.3:3479".parse().ok());
    assert_eq!(world.says(a, Request::Allocate), a.is_refused(Refusal::NotUnderstood));
}

#[test]
fn clocks_are_answered_at_every_point() {
    let mut world = World::small();
    let [a, b] = world.clients();
    assert_eq!(world.says(a, clock(5)), [a.gets_clock(5)]);
    assert_eq!(world.says(a, Request::Allocate), [a.is_given(1)]);
    assert_eq!(world.says(a, clock(6)), [a.gets_clock(6)]);
    assert_eq!(world.says(b, join(1, b"")), [a.meets(b""), b.meets(b"")]);
    assert_eq!(world.says(b, clock(7)), [b.gets_clock(7)]);
}

#[test]
fn what_comes_at_the_wrong_point_ends_the_connection() {
    let mut world = World::new(Limits::default());
    for request in [relay(b""), Request::Prove([0; 32]), join(9, &[0; MAX_OPENING + 1])] {
        let a = world.client(AT[0]);
        assert_eq!(world.says(a, request), a.is_refused(Refusal::NotUnderstood));
        assert_eq!(world.says(a, clock(0)), [], "it is heard no more");
    }
}

#[test]
fn who_is_refused_while_it_waits_waits_no_longer() {
    let mut world = World::small();
    let [a, b] = world.clients();
    assert_eq!(world.says(a, Request::Allocate), [a.is_given(1)]);
    assert_eq!(world.says(a, Request::Allocate), a.is_refused(Refusal::NotUnderstood));
    assert_eq!(world.says(b, join(1, b"b")), []);
}

#[test]
fn when_one_is_refused_its_peer_is_told_that_it_left() {
    let mut world = World::small();
    let [a, b] = world.pair();
    let nonsense = StreamError::Frame(FrameError::Malformed);
    world.server.handle_nonsense(a.id, &nonsense, world.now);
    let [refused, closed] = a.is_refused(Refusal::NotUnderstood);
    assert_eq!(world.heard(), [b.is_left(), refused, closed]);
}

#[test]
fn at_the_end_everybody_is_told_once() {
    let mut world = World::small();
    let [a, b] = world.pair();
    let silent = world.connect(AT[2]).unwrap();
    world.server.shut_down();
    let [to_a, to_b] = [a, b].map(|it| it.is_refused(Refusal::GoingDown));
    assert_eq!(world.heard(), [&to_a[..], &to_b, &[silent.is_closed()]].concat());
    for client in [a, b, silent] {
        assert_eq!(world.goes(client), []);
    }
}
