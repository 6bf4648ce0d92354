//! What the peers of two servers are told of the clock that they have in common.

use super::world::World;
use crate::rendezvous::Answer;
use crate::rendezvous::server::tests::client::{Heard, join};

#[test]
fn the_second_peer_is_told_how_far_the_first_ones_clock_is_ahead() {
    let mut world = World::new(3);
    let (first, second, keeper) = (2, 0, 1);
    let a = world.waiter(first, keeper);
    let b = world.client(second);
    let heard = world.says(b, join(a.number, b"b"));
    let to_b: Vec<_> = heard.iter().filter(|(it, _)| *it == b).map(|(_, it)| it).collect();
    let [Heard::Answer(Answer::Shifted(shift)), Heard::Answer(Answer::Met { .. })] = to_b[..]
    else {
        panic!("{heard:?}")
    };
    assert_eq!(heard.len(), 3, "{heard:?}");
    let truth = world.ahead_ns[first] - world.ahead_ns[second];
    assert!(shift.ahead_ns.abs_diff(truth) <= shift.bound_ns, "{shift:?}, {truth}");
    assert!(shift.bound_ns < 10_000_000 && shift.likely_ns <= shift.bound_ns, "{shift:?}");
}

#[test]
fn one_server_tells_of_no_other_clock() {
    let mut world = World::new(2);
    for keeper in 0..2 {
        let a = world.waiter(0, keeper);
        let b = world.client(0);
        let heard = world.says(b, join(a.number, b"b"));
        assert_eq!(heard, [a.client.meets(b"b"), b.meets(b"a")]);
    }
}
