//! Two who meet under a number, and what they tell each other.

use super::client::{join, relay};
use super::world::{AT, World};
use crate::rendezvous::{Refusal, Request};

#[test]
fn two_meet_under_a_number_and_tell_each_other() {
    let mut world = World::small();
    let [a, b] = world.clients();
    assert_eq!(world.says(a, Request::Allocate), [a.is_given(1)]);
    assert_eq!(world.says(a, join(1, b"a")), []);
    assert_eq!(world.says(b, join(1, b"b")), [a.meets(b"b"), b.meets(b"a")]);
    assert_eq!(world.says(a, relay(b"report of a")), [b.hears(b"report of a")]);
    assert_eq!(world.says(b, relay(b"report of b")), [a.hears(b"report of b")]);
    assert_eq!(world.goes(a), [b.is_left()]);
    assert_eq!(world.says(b, relay(b"too late")), []);
    assert_eq!(world.goes(b), []);
    let counts = world.server.counts();
    assert_eq!((counts.meetings, counts.waiting, counts.open), (1, 0, 0));
    assert_eq!(counts.relayed_bytes, 22);
}

#[test]
fn either_may_come_first_to_a_number_that_both_know() {
    let mut world = World::small();
    let [a, b] = world.clients();
    assert_eq!(world.says(a, join(7, b"a")), []);
    assert_eq!(world.says(b, join(7, b"b")), [a.meets(b"b"), b.meets(b"a")]);
}

#[test]
fn a_third_is_told_that_the_code_was_used_also_after_both_have_gone() {
    let mut world = World::small();
    let [a, b] = world.pair();
    let c = world.client(AT[2]);
    assert_eq!(world.says(c, join(1, b"c")), c.is_refused(Refusal::Occupied));
    assert_eq!(world.goes(a), [b.is_left()], "the pair was not disturbed");
    assert_eq!(world.goes(b), []);
    let d = world.client(AT[2]);
    assert_eq!(world.says(d, join(1, b"d")), d.is_refused(Refusal::Occupied));
    assert_eq!(world.server.counts().meetings, 1);
}
