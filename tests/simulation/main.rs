//! Two attempts against each other through simulated routers, on one virtual clock: thousands of
//! punches a second, each of which could be drawn as a packet ladder.

mod attack;
mod behaviour;
mod chance;
mod conditions;
mod ends;
mod host;
mod loss;
mod network;
mod nomination;
mod oracle;
mod pairs;
mod random;
mod router;

use behaviour::{Behaviour, MASQUERADE, Unsolicited};
use network::{Conditions, Outcome, punch};
use proptest::prelude::*;
use router::State;
use std::time::Duration;

const ONE_WAY: Duration = Duration::from_millis(10);

fn conditions() -> Conditions {
    Conditions { one_way: ONE_WAY, ..Conditions::default() }
}

/// Two MASQUERADE routers.
fn masquerade(unsolicited: [Unsolicited; 2]) -> [Vec<Behaviour>; 2] {
    unsolicited.map(|unsolicited| vec![Behaviour { unsolicited, ..MASQUERADE }])
}

fn established_ms(outcome: &Outcome) -> u64 {
    let both = outcome.established.iter().all(Option::is_some);
    assert!(both, "both ends connect: {outcome}");
    let latest = outcome.established.iter().flatten().max();
    u64::try_from(latest.expect("there are two ends").as_millis()).expect("a short time")
}

#[test]
fn two_masquerade_routers_are_passed_in_one_round_trip() {
    let outcome = punch(&conditions());
    assert_eq!(established_ms(&outcome), 20, "{outcome}");
    assert_eq!(outcome.resets, 0, "{outcome}");
    assert_eq!(outcome.untranslated, 0, "{outcome}");
    // Opener, SYN, SYN-ACK, ACK, and the ACK after the installation.
    assert_eq!(outcome.sent, [5, 5], "{outcome}");
}

#[test]
fn with_openers_any_skew_within_their_lead_costs_nothing() {
    for skew in [0, 1, 9, 11, 50, 100, 200, 240] {
        let skew = Duration::from_millis(skew);
        let outcome = punch(&Conditions { skew, ..conditions() });
        // The end that is ahead waits for its peer's opener alone, not for its instant.
        assert!(established_ms(&outcome) <= 30, "skew {skew:?}: {outcome}");
        assert_eq!(outcome.resets, 0, "skew {skew:?}: {outcome}");
    }
}

#[test]
fn with_openers_even_a_skew_beyond_their_lead_is_outlived() {
    for skew in (250..3000).step_by(50) {
        let outcome = punch(&Conditions { skew: Duration::from_millis(skew), ..conditions() });
        // The peer's opener leaves at skew - 250 ms; the next SYN comes within 1.25 s.
        assert!(established_ms(&outcome) <= skew - 250 + 1250 + 30, "skew {skew}: {outcome}");
    }
}

#[test]
fn without_openers_only_a_skew_below_the_one_way_delay_meets_at_once() {
    let bare = Conditions { openers: [false; 2], ..conditions() };
    let skewed = |ms| punch(&Conditions { skew: Duration::from_millis(ms), ..bare.clone() });
    assert_eq!(established_ms(&skewed(9)), 29, "the later SYN leaves 9 ms later");
    assert!(skewed(11).resets > 0);
}

/// Where nothing lies between the routers no opener is possible, and SYNs meet only if they cross.
#[test]
fn ends_in_step_meet_without_openers_even_if_the_first_syns_are_lost() {
    for seed in 0..500 {
        let outcome = punch(&Conditions {
            one_way: Duration::from_micros(50),
            skew: Duration::from_micros(20),
            openers: [false; 2],
            loss_percent: 10,
            seed,
            ..conditions()
        });
        established_ms(&outcome);
    }
}

/// The end that is late joins the other one's steps, although nothing tells it when those are but
/// the instant that it has missed.
#[test]
fn an_end_that_is_late_meets_its_peer_at_the_next_step() {
    for late in [1, 5, 30, 79] {
        let outcome = punch(&Conditions {
            one_way: Duration::from_micros(50),
            late: Duration::from_millis(late),
            openers: [false; 2],
            ..conditions()
        });
        // Unless a repetition of its own comes just before a step, which is then the next but one.
        assert!([100, 200, 400].contains(&established_ms(&outcome)), "{late} ms late: {outcome}");
    }
}

#[test]
fn routers_that_drop_an_unsolicited_syn_forgive_any_skew() {
    for skew in [0, 15, 500] {
        let outcome = punch(&Conditions {
            skew: Duration::from_millis(skew),
            openers: [false; 2],
            routers: masquerade([Unsolicited::Drop; 2]),
            ..conditions()
        });
        assert!(established_ms(&outcome) <= skew + 30, "skew {skew}: {outcome}");
    }
}

/// A router that still holds the connection of the last punch on these ports ignores our SYN and
/// meets the peer's with a reset, until that reset has told it that the connection is over.
#[test]
fn what_is_left_of_the_last_connection_is_cleared_away() {
    let left = [None, Some(State::CloseWait), Some(State::Closed)];
    for a in left {
        for b in left {
            for skew in [0, 3, 30, 130, 200] {
                let outcome = punch(&Conditions {
                    stale: [a, b],
                    skew: Duration::from_millis(skew),
                    ..conditions()
                });
                assert!(established_ms(&outcome) <= 2500, "{a:?} {b:?} {skew}: {outcome}");
            }
        }
    }
}

#[test]
fn loss_is_outlived() {
    let mut slowest = 0;
    for seed in 0..2_000 {
        let outcome = punch(&Conditions { loss_percent: 5, seed, ..conditions() });
        slowest = slowest.max(established_ms(&outcome));
    }
    assert!(slowest < 5_000, "{slowest} ms");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the routers' temper, the skew and the loss: with openers both ends connect, to
    /// each other and not to something else, and no more leaves than the schedule allows.
    #[test]
    fn both_ends_connect_to_each_other(
        skew_ms in 0u64..3_000,
        one_way_ms in 1u64..150,
        reactions in prop::array::uniform2(prop::sample::select(vec![Unsolicited::Reset, Unsolicited::Drop])),
        loss_percent in 0u32..16,
        seed: u64,
    ) {
        let outcome = punch(&Conditions {
            one_way: Duration::from_millis(one_way_ms),
            skew: Duration::from_millis(skew_ms),
            routers: masquerade(reactions),
            loss_percent,
            seed,
            ..conditions()
        });
        let [Some(_), Some(_)] = outcome.established else { panic!("{outcome}") };
        prop_assert!(outcome.agree, "{}", outcome);
        prop_assert!(outcome.sent.iter().all(|sent| *sent < 120), "{}", outcome);
    }
}
