//! Somebody who knows all addresses and ports, but not the key, sends what he likes.

use crate::behaviour::{Behaviour, MASQUERADE, PLAIN, Ports, SynIn, Unsolicited};
use crate::network::{Conditions, punch};

fn survive(kind: Behaviour, forged: u32, seeds: u64) {
    for seed in 0..seeds {
        let outcome = punch(&Conditions {
            routers: [vec![kind], vec![kind]],
            key: true,
            models: true,
            forged,
            seed,
            ..Conditions::default()
        });
        assert!(outcome.established.iter().all(Option::is_some), "{}: {outcome}", kind.name);
        assert!(outcome.agree, "{}: {outcome}", kind.name);
    }
}

#[test]
fn a_flood_of_forged_segments_neither_keeps_the_ends_apart_nor_completes() {
    for kind in [
        MASQUERADE,
        PLAIN,
        Behaviour { name: "drop", unsolicited: Unsolicited::Drop, ..MASQUERADE },
        Behaviour { name: "blocked", syn_in: SynIn::BlockedAfterTracking, ..MASQUERADE },
        Behaviour { name: "raw", syn_in: SynIn::BlockedBeforeTracking, ..MASQUERADE },
        Behaviour { name: "unmoved", reset_kills: false, ..PLAIN },
    ] {
        survive(kind, 30, 300);
        survive(kind, 3_000, 40);
    }
}

#[test]
fn a_search_finds_the_peer_among_forged_segments() {
    for kind in [MASQUERADE, PLAIN] {
        survive(Behaviour { ports: Ports::Random((4096, 4159)), ..kind }, 3_000, 40);
    }
}
