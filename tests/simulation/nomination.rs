//! The worst that could happen: both ends hold a connection, and they are two different ones.

use crate::behaviour::{Behaviour, Dependence, MASQUERADE, PLAIN, Ports, SynIn, Unsolicited};
use crate::network::{Conditions, punch};
use proptest::prelude::*;
use std::time::Duration;
use tcp_punch::punch::Budget;

/// Routers behind which several tuples may lead to the peer.
fn router() -> impl Strategy<Value = Behaviour> {
    let pool = (4096, 4111);
    prop::sample::select(vec![
        PLAIN,
        MASQUERADE,
        Behaviour { unsolicited: Unsolicited::Drop, ..MASQUERADE },
        Behaviour { syn_in: SynIn::BlockedAfterTracking, ..MASQUERADE },
        Behaviour { rewrites_sequence: true, ..PLAIN },
        Behaviour { ports: Ports::Random(pool), ..PLAIN },
        Behaviour { ports: Ports::Random(pool), filtering: Dependence::Endpoint, ..PLAIN },
        Behaviour { ports: Ports::Random(pool), ..MASQUERADE },
    ])
}

/// A peer that has answered on two tuples, one of them by a probe, and starts anew in between.
#[test]
fn a_late_end_is_met_on_one_tuple() {
    for (key, seed) in [false, true].into_iter().flat_map(|key| (0..300).map(move |it| (key, it))) {
        let outcome = punch(&Conditions {
            one_way: Duration::from_millis(101),
            skew: Duration::from_millis(350),
            routers: [vec![PLAIN], vec![MASQUERADE]],
            openers: [false; 2],
            key,
            models: true,
            spread: 2,
            timeout: Duration::from_secs(6),
            seed,
            ..Conditions::default()
        });
        if outcome.established.iter().all(Option::is_some) {
            assert!(outcome.agreed, "key {key}, seed {seed}: {outcome}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is lost, late, repeated or out of order, and however often.
    #[test]
    fn the_ends_never_hold_different_connections(
        a in router(),
        b in router(),
        key: bool,
        spread in 1u16..5,
        equal_windows in prop::bool::weighted(0.2),
        openers: bool,
        one_way_ms in 1u64..400,
        jitter_ms in prop_oneof![Just(0u64), 1u64..2_000],
        skew_ms in 0u64..1_000,
        loss_percent in 0u32..70,
        duplicate_percent in 0u32..50,
        seed: u64,
    ) {
        let outcome = punch(&Conditions {
            one_way: Duration::from_millis(one_way_ms),
            jitter: Duration::from_millis(jitter_ms),
            skew: Duration::from_millis(skew_ms),
            routers: [vec![a], vec![b]],
            openers: [openers; 2],
            key,
            models: true,
            spread,
            equal_windows,
            budget: Budget { packets: 400, entries: 200, rate: 10_000 },
            loss_percent,
            duplicate_percent,
            timeout: Duration::from_secs(6),
            seed,
            ..Conditions::default()
        });
        if outcome.established.iter().all(Option::is_some) {
            prop_assert!(outcome.agreed, "{}", outcome);
        }
    }
}
