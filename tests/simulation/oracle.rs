//! Whether a punch is possible at all: what the product promises, from what routers say of
//! themselves, without looking at how it is done.

use crate::behaviour::{Behaviour, Dependence, OutOfTurn, Pool, Ports, SynIn, Unsolicited};
use std::fmt;

/// What both ends bring, besides their routers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Means {
    /// A shared key, so that both know both initial sequence numbers.
    pub(crate) key: bool,
    /// How either router numbers its mappings is known to both.
    pub(crate) models: bool,
    /// Something lies between the routers, at which a low-TTL SYN dies.
    pub(crate) opener: bool,
    /// Tuples that each end may try.
    pub(crate) tuples: u32,
}

/// Why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Why {
    TableFull,
    PortsUnknown,
    PortsTooMany,
    NumbersRewritten,
    SynsBlocked,
    SearchSynsBlocked,
    SearchResets,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TableFull => "a router has no room for one connection",
            Self::PortsUnknown => "external ports change, and nobody knows how",
            Self::PortsTooMany => "too many external ports for the budget",
            Self::NumbersRewritten => {
                "a router rewrites the sequence numbers by which ends with a key know each other, \
                 and another strips the option that still tells them"
            }
            Self::SynsBlocked => {
                "both routers block SYNs, and nothing else passes: unasked SYN-ACKs take a key and \
                 one router that has seen the blocked SYN, ACKs a key and two routers that pick \
                 connections up"
            }
            Self::SearchSynsBlocked => "both routers block SYNs, by which ports are searched",
            Self::SearchResets => {
                "resets close what SYNs open, and without openers every SYN of a search is too early"
            }
        })
    }
}

/// Where an end's external port is.
enum Place {
    /// Where it is inside.
    Same,
    /// At a known port.
    Known,
    /// At one of about so many ports, for all destinations or for each anew.
    Among(u32),
    /// Next to the one before.
    Next,
}

/// A search that finds fewer pairs than this on average fails more than once in a hundred times.
const ENOUGH_PAIRS: f64 = 4.7;
/// Ports that a sequential router may have reached by the time.
const SEQUENTIAL_WINDOW: u32 = 64;
/// Source ports of one end.
const MOST_SOURCES: u32 = 448;

/// Whether two ends behind such routers can meet.
pub(crate) fn oracle(a: &Behaviour, b: &Behaviour, means: &Means) -> Result<(), Why> {
    if a.entries.min(b.entries) == 0 {
        return Err(Why::TableFull);
    }
    let tuples = means.tuples.min(a.entries).min(b.entries);
    let (place_a, place_b) = (place(a, means)?, place(b, means)?);
    if !in_reach(&place_a, &place_b, tuples) {
        return Err(Why::PortsTooMany);
    }
    let neighbours = matches!((&place_a, &place_b), (Place::Same, Place::Same));
    let told = place_a.is_known() && place_b.is_known();

    let rewritten = a.rewrites_sequence || b.rewrites_sequence;
    // A connection without SYNs, on neighbouring ports, which have to be known as well.
    if neighbours && means.key && !rewritten && a.loose && b.loose && tuples > 1 {
        return Ok(());
    }
    // One SYN that comes in is enough: the other end gets an ordinary SYN-ACK.
    let syn = a.syn_in == SynIn::Allowed || b.syn_in == SynIn::Allowed;
    // A router that rewrites numbers does not know its own SYN in an unasked SYN-ACK.
    let unasked = |out: &Behaviour, into: &Behaviour| {
        means.key && told && lets_syn_ack_out(out) && !into.rewrites_sequence
    };
    // What rewrites numbers leaves the one in the timestamps alone, if those pass.
    if means.key && rewritten && (a.strips_options || b.strips_options) {
        return Err(Why::NumbersRewritten);
    }
    match (syn || unasked(a, b) || unasked(b, a), told) {
        (false, true) => return Err(Why::SynsBlocked),
        (false, false) => return Err(Why::SearchSynsBlocked),
        (true, _) => {}
    }
    // A known tuple is tried until SYNs cross; a searched one that is closed comes back elsewhere.
    let closes = |far: &Behaviour, near: &Behaviour| {
        far.unsolicited == Unsolicited::Reset && near.reset_kills
    };
    let (closes_a, closes_b) = (closes(b, a), closes(a, b));
    let lost = closes_a && !place_a.is_known() || closes_b && !place_b.is_known();
    if !told && !means.opener && (lost || closes_a && closes_b) {
        return Err(Why::SearchResets);
    }
    Ok(())
}

/// A SYN-ACK for a SYN that the host never got.
fn lets_syn_ack_out(router: &Behaviour) -> bool {
    let has_seen_syn = router.syn_in != SynIn::BlockedBeforeTracking;
    has_seen_syn || router.out_of_turn == OutOfTurn::Unnoticed
}

fn place(router: &Behaviour, means: &Means) -> Result<Place, Why> {
    let size = |(first, last): Pool| u32::from(last - first) + 1;
    match router.ports {
        Ports::Preserving => Ok(Place::Same),
        _ if !means.models => Err(Why::PortsUnknown),
        _ if router.mapping == Dependence::Endpoint => Ok(Place::Known),
        Ports::Sequential { .. } => Ok(Place::Next),
        Ports::Random(pool) => Ok(Place::Among(size(pool))),
        Ports::Parity(pool) => Ok(Place::Among(size(pool) / 2)),
        // 600–1023, from source ports below 1024.
        Ports::LinuxRandom => Ok(Place::Among(424)),
    }
}

impl Place {
    fn is_known(&self) -> bool {
        matches!(self, Self::Same | Self::Known)
    }
}

/// Whether so many tuples of either end hold a matching pair.
fn in_reach(a: &Place, b: &Place, tuples: u32) -> bool {
    let tried = f64::from(tuples);
    let offered = f64::from(tuples.min(MOST_SOURCES));
    match (a, b) {
        (Place::Same | Place::Known, Place::Same | Place::Known) => true,
        // One tries ports of the pool, the other one offers some.
        (Place::Same | Place::Known, Place::Among(pool)) => {
            tuples >= *pool || tried * offered >= ENOUGH_PAIRS * f64::from(*pool)
        }
        (Place::Among(a), Place::Among(b)) => {
            tried * tried >= ENOUGH_PAIRS * f64::from(*a) * f64::from(*b)
        }
        // A sequence has each port once, and to one destination alone.
        (Place::Next, Place::Among(pool)) => tried >= ENOUGH_PAIRS * f64::from(*pool),
        (Place::Next, Place::Next) | (Place::Same | Place::Known, Place::Next) => {
            tuples >= SEQUENTIAL_WINDOW
        }
        (Place::Among(_) | Place::Next, _) => in_reach(b, a, tuples),
    }
}
