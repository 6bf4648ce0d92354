//! What `tcp-punch nat` foretells is what the matrix of real routers is held to.

#[allow(dead_code, reason = "shared with tests/matrix")]
#[path = "matrix/kind.rs"]
mod kind;
#[path = "matrix/oracle.rs"]
mod oracle;

use kind::{KINDS, Kind};
use oracle::{Expectation, expect};
use tcp_punch::nat::{self, Class, Obstacle, Way};

fn class(kind: &Kind) -> Class {
    Class {
        ports: kind.allocation.pool(),
        inbound_syn: match kind.inbound_syn {
            kind::InboundSyn::Passes => nat::InboundSyn::Passes,
            kind::InboundSyn::BlockedTracked => nat::InboundSyn::BlockedTracked,
            kind::InboundSyn::BlockedUnseen => nat::InboundSyn::BlockedUnseen,
            kind::InboundSyn::BlockedLax => nat::InboundSyn::BlockedLax,
        },
        mid_stream: kind.mid_stream,
    }
}

fn name(way: Way) -> &'static str {
    match way {
        Way::Syn => "syn",
        Way::SynAck => "syn-ack",
        Way::MidStream => "mid-stream",
    }
}

#[test]
fn every_pair_of_kinds_is_judged_as_the_matrix_judges_it() {
    let (mut possible, mut impossible) = (0, 0);
    for a in &KINDS {
        for b in &KINDS {
            // Rewritten numbers and stripped options cannot be measured from one end.
            let pair = [a, b];
            if pair.iter().any(|it| it.rewrites_numbers())
                && pair.iter().any(|it| it.strips_options())
            {
                continue;
            }
            let names = (a.name, b.name);
            match (nat::way(&class(a), &class(b)), expect(a, b)) {
                (Ok((way, ours)), Expectation::Possible { strategy, tuples }) => {
                    assert_eq!((name(way), ours), (strategy, tuples), "{names:?}");
                    possible += 1;
                }
                (Err(_), Expectation::Impossible { .. }) => impossible += 1,
                (ours, theirs) => panic!("{names:?}: {ours:?}, {theirs:?}"),
            }
        }
    }
    assert!(possible > 700 && impossible >= 3, "{possible} {impossible}");
}

#[test]
fn too_many_ports_are_an_obstacle() {
    let random = Class { ports: 64_512, ..class(&KINDS[0]) };
    assert_eq!(nat::way(&random, &random), Err(Obstacle::TooManyTuples(64_512 * 64_512)));
    assert_eq!(nat::way(&random, &class(&KINDS[0])), Ok((Way::Syn, 64_512)));
}
