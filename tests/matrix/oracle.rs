//! Whether two routers can be punched through at all, from what they are known to do. Both ends
//! have a key and send what they like when they like; neither can change its router.

use serde::{Deserialize, Serialize};

use crate::kind::{Allocation, InboundSyn, Kind};

/// What can be expected of a pair.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub(crate) enum Expectation {
    /// There is a way, by this strategy, among so many pairs of ports.
    Possible { strategy: &'static str, tuples: u64 },
    /// There is none, and why.
    Impossible { why: String },
}

/// More pairs of ports than this are not searched: the square of the pool of a Linux router that is
/// opened from privileged ports is 179,776.
const SEARCHABLE: u64 = 1 << 20;

pub(crate) fn expect(a: &Kind, b: &Kind) -> Expectation {
    let tuples = pool(a.allocation) * pool(b.allocation);
    if tuples > SEARCHABLE {
        return impossible(format!("{tuples} pairs of ports are too many to search"));
    }
    let both = [a, b];
    if both.iter().any(|it| it.rewrites_numbers()) && both.iter().any(|it| it.strips_options()) {
        return impossible(
            "one router rewrites the sequence numbers by which ends with a key know each other, \
             and the other one strips the option that still says them"
                .to_owned(),
        );
    }
    match strategy(a, b) {
        Ok(strategy) => Expectation::Possible { strategy, tuples },
        Err(why) => impossible(why),
    }
}

fn strategy(a: &Kind, b: &Kind) -> Result<&'static str, String> {
    use InboundSyn::{BlockedLax, BlockedTracked, BlockedUnseen, Passes};
    match (a.inbound_syn, b.inbound_syn) {
        // One SYN that arrives is enough: its receiver's SYN-ACK passes any router that has seen a
        // SYN go out, and goes out through one that has seen the SYN come in.
        (Passes, _) | (_, Passes) => Ok("syn"),
        // The end behind the router that noted the peer's SYN, or does not care, answers what it
        // never received.
        (BlockedTracked | BlockedLax, _) | (_, BlockedTracked | BlockedLax) => Ok("syn-ack"),
        // Neither router will ever take a SYN-ACK from inside for valid: no SYN may be used.
        (BlockedUnseen, BlockedUnseen) => match [a, b].iter().find(|it| !it.mid_stream) {
            None => Ok("mid-stream"),
            Some(strict) => Err(format!(
                "neither router learns of the other's SYN, so that no SYN-ACK can leave, and \
                 {} takes up no connection without a SYN",
                strict.name
            )),
        },
    }
}

fn pool(allocation: Allocation) -> u64 {
    match allocation {
        Allocation::Preserving => 1,
        Allocation::Stable { pool } | Allocation::PerDestination { pool } => pool.into(),
    }
}

fn impossible(why: String) -> Expectation {
    Expectation::Impossible { why }
}
