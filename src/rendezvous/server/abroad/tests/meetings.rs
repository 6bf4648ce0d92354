//! Peers of different servers that meet.

use super::world::{SECOND, World};
use crate::rendezvous::Refusal;
use crate::rendezvous::server::Word;
use crate::rendezvous::server::tests::client::join;

#[test]
fn each_server_gives_out_numbers_of_its_own_also_when_they_start_at_once() {
    let mut world = World::new(5);
    let late = world.start();
    world.pass(2 * SECOND);
    assert_eq!(late, 5);
    let mut numbers = Vec::new();
    for _ in 0..3 {
        for at in 0..6 {
            let client = world.client(at);
            numbers.push(world.allocates(client));
        }
    }
    numbers.sort_unstable();
    let expected: Vec<u32> = [1..=6, 257..=262, 513..=518].into_iter().flatten().collect();
    assert_eq!(numbers, expected);
}

#[test]
fn peers_of_any_two_servers_meet_whoever_keeps_the_place() {
    let mut world = World::new(3);
    for keeper in 0..3 {
        let ways = [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)];
        for ((first, second), number) in ways.into_iter().zip(world.numbers_of(keeper)) {
            let a = world.waiter_under(first, number);
            world.is_found_from(second, a);
            let late = world.client(first);
            assert_eq!(world.says(late, join(number, b"c")), late.is_refused(Refusal::Occupied));
        }
    }
}

#[test]
fn a_number_that_was_allocated_is_joined_from_elsewhere() {
    let mut world = World::new(2);
    let (a, b) = (world.client(1), world.client(0));
    let number = world.allocates(a);
    assert_eq!(world.says(a, join(number, b"a")), []);
    world.asks(b, join(number, b"b"));
    world.have_met(a, b);
}

#[test]
fn when_a_server_dies_peers_of_its_clients_are_told() {
    let mut world = World::new(3);
    let [a, _] = world.pair([0, 1]);
    world.kill(1);
    world.pass(2 * SECOND);
    assert_eq!(world.heard(), []);
    world.pass(3 * SECOND);
    assert_eq!(world.heard(), [a.is_left()]);
}

#[test]
fn peers_across_a_server_that_lost_the_bus_for_a_moment_are_told() {
    let mut world = World::new(2);
    let [a, b] = world.pair([0, 1]);
    world.cut_off(1);
    world.join(1);
    let mut heard = world.heard();
    heard.sort_unstable_by_key(|(who, _)| *who);
    assert_eq!(heard, [a.is_left(), b.is_left()]);
}

#[test]
fn what_another_server_cannot_know_changes_nothing() {
    let mut world = World::new(2);
    let [a, b] = world.pair([0, 0]);
    let other = world.server(1).node();
    for word in [
        Word::Relay { to: a.id, from: b.id, bytes: vec![1] },
        Word::Left { to: a.id, from: b.id },
        Word::Refused { who: a.id, why: Refusal::Full },
        Word::CallOver { listener: a.id },
        Word::NotHere { caller: a.id, busy: false },
    ] {
        world.hears(0, other, word);
        assert_eq!(world.heard(), []);
    }
    world.talk_and_part(a, b);
}
