//! Connections and messages that take too long.

use super::client::clock;
use super::world::{AT, SECOND, World};
use crate::rendezvous::{Refusal, Request};
use std::time::Duration;

#[test]
fn silence_and_unfinished_messages_end_after_ten_seconds() {
    let mut world = World::small();
    let (silent, slow) = (world.connect(AT[0]).unwrap(), world.client(AT[1]));
    assert_eq!(world.says(slow, Request::Allocate), [slow.is_given(1)]);
    world.begins_message(slow);
    assert_eq!(world.after(Duration::from_millis(9999)), []);
    // More of the message gives it no more time.
    world.begins_message(slow);
    let [refused, closed] = slow.is_refused(Refusal::WaitedTooLong);
    assert_eq!(world.after(Duration::from_millis(1)), [silent.is_closed(), refused, closed]);
}

#[test]
fn a_finished_message_leaves_the_old_deadline() {
    let mut world = World::small();
    let a = world.client(AT[1]);
    assert_eq!(world.says(a, Request::Allocate), [a.is_given(1)]);
    world.begins_message(a);
    world.ends_message(a);
    assert_eq!(world.after(3599 * SECOND), []);
    assert_eq!(world.after(SECOND), a.is_refused(Refusal::WaitedTooLong));
}

#[test]
fn who_asks_nothing_is_ended_and_who_asks_stays() {
    let mut world = World::small();
    let [idle, busy] = world.clients();
    for _ in 0..2 {
        assert_eq!(world.after(89 * SECOND), []);
        assert_eq!(world.says(busy, clock(0)), [busy.gets_clock(0)]);
    }
    assert_eq!(world.after(2 * SECOND), [idle.is_closed()]);
}
