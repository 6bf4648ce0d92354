//! How much one address, one connection and all of them together are granted.

use super::client::{clock, join, relay};
use super::world::{AT, SECOND, World, small};
use crate::rendezvous::server::{MAX_RELAYED_BYTES, MAX_RELAYED_MESSAGES};
use crate::rendezvous::{Refusal, Request};

#[test]
fn an_address_has_so_many_connections_and_others_keep_theirs() {
    let mut world = World::small();
    let [first, ..]: [_; 3] = std::array::from_fn(|_| world.client(AT[0]));
    assert_eq!(world.connect(AT[0]), Err(Refusal::TooMany));
    assert!(world.connect(AT[1]).is_ok());
    world.goes(first);
    assert!(world.connect(AT[0]).is_ok());
}

#[test]
fn two_of_an_address_may_wait() {
    let mut world = World::small();
    let [a, b, c] = std::array::from_fn(|_| world.client(AT[0]));
    assert_eq!(world.says(a, Request::Allocate), [a.is_given(1)]);
    assert_eq!(world.says(b, Request::Allocate), [b.is_given(2)]);
    assert_eq!(world.says(c, Request::Allocate), c.is_refused(Refusal::TooMany));
    let elsewhere = world.client(AT[1]);
    assert_eq!(world.says(elsewhere, Request::Allocate), [elsewhere.is_given(3)]);
    world.goes(a);
    world.goes(c);
    let next = world.client(AT[0]);
    assert_eq!(world.says(next, join(9, b"")), []);
}

#[test]
fn four_of_an_address_may_meet_a_minute_and_who_is_refused_counts() {
    let mut world = World::small();
    let [a, b, c] = std::array::from_fn(|_| world.client(AT[0]));
    assert_eq!(world.says(a, join(7, b"")), []);
    assert_eq!(world.says(b, join(8, b"")), []);
    assert_eq!(world.says(c, join(9, b"")), c.is_refused(Refusal::TooMany), "two may wait");
    world.goes(a);
    world.goes(c);
    let fourth = world.client(AT[0]);
    assert_eq!(world.says(fourth, join(9, b"")), []);
    world.goes(fourth);
    let fifth = world.client(AT[0]);
    assert_eq!(world.says(fifth, join(9, b"")), fifth.is_refused(Refusal::TooMany));
    world.goes(fifth);
    assert_eq!(world.after(16 * SECOND), []);
    let later = world.client(AT[0]);
    assert_eq!(world.says(later, join(9, b"")), []);
}

#[test]
fn a_full_server_says_so() {
    let mut world = World::small();
    let [first, ..]: [_; 10] =
        std::array::from_fn(|host| world.connect(&format!("192.0.2.{host}:1")).unwrap());
    assert_eq!(world.connect("192.0.2.99:1"), Err(Refusal::Full));
    world.goes(first);
    assert!(world.connect("192.0.2.99:1").is_ok());
}

#[test]
fn too_many_requests_end_the_connection() {
    let mut limits = small();
    limits.address.requests = 3;
    let mut world = World::new(limits);
    let a = world.client(AT[0]);
    for _ in 0..3 {
        assert_eq!(world.says(a, clock(0)), [a.gets_clock(0)]);
    }
    assert_eq!(world.says(a, clock(0)), a.is_refused(Refusal::TooMany));
}

#[test]
fn the_server_relays_so_many_messages_and_no_more() {
    let mut world = World::small();
    let [a, b] = world.pair();
    for _ in 0..MAX_RELAYED_MESSAGES {
        assert_eq!(world.says(a, relay(&[0; 900])), [b.hears(&[0; 900])]);
    }
    let [refused, closed] = a.is_refused(Refusal::TooMany);
    assert_eq!(world.says(a, relay(b"")), [b.is_left(), refused, closed]);
}

#[test]
fn the_server_relays_so_many_bytes_and_no_more() {
    let mut world = World::small();
    let [a, b] = world.pair();
    for _ in 0..MAX_RELAYED_BYTES / 4000 {
        assert_eq!(world.says(b, relay(&[0; 4000])), [a.hears(&[0; 4000])]);
    }
    let [refused, closed] = b.is_refused(Refusal::TooMany);
    assert_eq!(world.says(b, relay(&[0; 4000])), [a.is_left(), refused, closed]);
}
