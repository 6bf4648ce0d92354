//! Any behaviour, delay, skew and loss: the oracle is right wherever ports are known.

use crate::behaviour::{Behaviour, Dependence, OutOfTurn, PLAIN, Ports, SynIn, Unsolicited};
use crate::network::{Conditions, punch};
use crate::oracle::{Means, oracle};
use proptest::prelude::*;
use std::time::Duration;

fn router() -> impl Strategy<Value = Behaviour> {
    let ports = (
        prop::sample::select(vec![
            (Dependence::AddressAndPort, Ports::Preserving),
            (Dependence::Address, Ports::Preserving),
            (Dependence::Endpoint, Ports::Preserving),
            (Dependence::Endpoint, Ports::Random((4096, 8191))),
        ]),
        prop::sample::select(vec![
            Dependence::Endpoint,
            Dependence::Address,
            Dependence::AddressAndPort,
        ]),
    );
    let refusals = (
        prop::sample::select(vec![
            SynIn::Allowed,
            SynIn::BlockedAfterTracking,
            SynIn::BlockedBeforeTracking,
        ]),
        prop::sample::select(vec![OutOfTurn::Unnoticed, OutOfTurn::Dropped, OutOfTurn::Leaked]),
        prop::sample::select(vec![
            Unsolicited::Drop,
            Unsolicited::Reset,
            Unsolicited::Icmp,
            Unsolicited::Held,
        ]),
    );
    let habits =
        (any::<bool>(), any::<bool>(), prop::bool::weighted(0.1), prop::bool::weighted(0.1));
    (ports, refusals, habits).prop_map(
        |(
            ((mapping, ports), filtering),
            (syn_in, out_of_turn, unsolicited),
            (loose, reset_kills, rewrites_sequence, strips_options),
        )| Behaviour {
            name: "any",
            mapping,
            filtering,
            ports,
            syn_in,
            out_of_turn,
            loose,
            unsolicited,
            reset_kills,
            rewrites_sequence,
            strips_options,
            ..PLAIN
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn ends_with_known_ports_meet_exactly_where_the_oracle_says_so(
        a in router(),
        b in router(),
        key: bool,
        one_way_ms in 1u64..100,
        jitter_ms in 0u64..10,
        skew_ms in 0u64..200,
        loss_percent in 0u32..6,
        seed: u64,
    ) {
        // Where a router blocks SYNs, a SYN-ACK that is lost after the ACK behind it has passed the
        // other router comes back no more: loss is outlived where SYNs pass.
        let blocks = |router: &Behaviour| router.syn_in != SynIn::Allowed;
        let (loss_percent, jitter_ms) =
            if blocks(&a) || blocks(&b) { (0, 0) } else { (loss_percent, jitter_ms) };
        let conditions = Conditions {
            one_way: Duration::from_millis(one_way_ms),
            jitter: Duration::from_millis(jitter_ms),
            skew: Duration::from_millis(skew_ms),
            routers: [vec![a], vec![b]],
            key,
            models: true,
            loss_percent,
            seed,
            ..Conditions::default()
        };
        let verdict = oracle(&a, &b, &Means { key, models: true, opener: true, tuples: 1_999 });
        let outcome = punch(&conditions);
        match verdict {
            Ok(()) => {
                prop_assert!(outcome.established.iter().all(Option::is_some), "{}", outcome);
                prop_assert!(outcome.agree, "{}", outcome);
            }
            Err(why) => {
                let none = outcome.established.iter().all(Option::is_none);
                prop_assert!(none, "{}, but {}", why, outcome);
            }
        }
    }
}
