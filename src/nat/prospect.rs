//! With which kinds of router a host can punch: the rules of a simultaneous open, applied to what
//! is known of its own routers.

use super::behaviour::{Nat, Passage};
use serde::Serialize;

/// What becomes of a SYN from outside on a mapping that the inside has opened with a SYN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InboundSyn {
    /// It comes in.
    Passes,
    /// Dropped, but the router has noted it, and lets a SYN-ACK out that answers it.
    BlockedTracked,
    /// Dropped, and the router knows nothing of it: a SYN-ACK is invalid to it.
    BlockedUnseen,
    /// Dropped, and the router knows nothing of it, but lets out what the inside sends.
    BlockedLax,
}

/// A router, as far as it matters to whether a punch can succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Class {
    /// Among how many ports a mapping is.
    pub ports: u32,
    /// Whether SYNs that cross pass.
    pub inbound_syn: InboundSyn,
    /// Whether an ACK without a SYN before it makes a mapping.
    pub mid_stream: bool,
}

/// How two ends meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// SYNs cross, or one of them arrives.
    Syn,
    /// One end answers a SYN that it never received. Needs a key.
    SynAck,
    /// ACKs cross. Needs a key.
    MidStream,
}

/// Why two ends cannot meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Obstacle {
    /// More pairs of ports than can be searched.
    #[error("{0} pairs of ports are too many to search")]
    TooManyTuples(u64),
    /// Nothing that opens a connection passes.
    #[error(
        "neither router learns of the other's SYN, so that no SYN-ACK can leave, and not both take \
         up a connection without a SYN"
    )]
    NothingPasses,
}

/// More pairs of ports than this are not searched: the square of the pool of a netfilter router
/// that is opened from privileged ports is 179,776.
const SEARCHABLE: u64 = 1 << 20;

/// How two ends that share a key meet behind such routers, and among how many pairs of ports.
///
/// # Errors
/// [`Obstacle`].
pub fn way(a: &Class, b: &Class) -> Result<(Way, u64), Obstacle> {
    use InboundSyn::{BlockedLax, BlockedTracked, BlockedUnseen, Passes};
    let tuples = u64::from(a.ports) * u64::from(b.ports);
    if tuples > SEARCHABLE {
        return Err(Obstacle::TooManyTuples(tuples));
    }
    let way = match (a.inbound_syn, b.inbound_syn) {
        // One SYN that arrives is enough: its receiver's SYN-ACK passes any router that has seen a
        // SYN go out, and goes out through one that has seen the SYN come in.
        (Passes, _) | (_, Passes) => Way::Syn,
        // The end behind the router that noted the SYN, or does not care, answers what it never
        // received.
        (BlockedTracked | BlockedLax, _) | (_, BlockedTracked | BlockedLax) => Way::SynAck,
        // Neither router will ever take a SYN-ACK from inside for valid: no SYN may be used.
        (BlockedUnseen, BlockedUnseen) if a.mid_stream && b.mid_stream => Way::MidStream,
        (BlockedUnseen, BlockedUnseen) => return Err(Obstacle::NothingPasses),
    };
    Ok((way, tuples))
}

/// A kind of router that a peer may be behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerKind {
    /// One word.
    pub name: &'static str,
    /// A few more.
    pub description: &'static str,
    /// What it does.
    pub class: Class,
}

const KEEPS_PORTS: Class = Class { ports: 1, inbound_syn: InboundSyn::Passes, mid_stream: true };

const fn peer(name: &'static str, description: &'static str, class: Class) -> PeerKind {
    PeerKind { name, description, class }
}

/// From the most frequent to the worst.
pub const PEER_KINDS: [PeerKind; 10] = [
    peer("none", "a public address", KEEPS_PORTS),
    peer("preserving", "keeps the port, or has one for all destinations", KEEPS_PORTS),
    peer(
        "syn-block",
        "keeps the port, lets no SYN in",
        Class { inbound_syn: InboundSyn::BlockedTracked, ..KEEPS_PORTS },
    ),
    peer(
        "raw-syn-block",
        "keeps the port, never sees a SYN from outside",
        Class { inbound_syn: InboundSyn::BlockedUnseen, ..KEEPS_PORTS },
    ),
    peer(
        "raw-strict",
        "likewise, and takes up no connection in mid-stream",
        Class { inbound_syn: InboundSyn::BlockedUnseen, mid_stream: false, ..KEEPS_PORTS },
    ),
    peer("sequential", "the next port for each destination", Class { ports: 33, ..KEEPS_PORTS }),
    peer("block-64", "a random port of a block of 64", Class { ports: 64, ..KEEPS_PORTS }),
    peer("linux-random", "netfilter's random ports", Class { ports: 424, ..KEEPS_PORTS }),
    peer(
        "block-4032",
        "a random port of a block of 4,032, the largest of RFC 7422",
        Class { ports: 4032, ..KEEPS_PORTS },
    ),
    peer("random", "a random port of all", Class { ports: 64_512, ..KEEPS_PORTS }),
];

/// Whether it can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Yes, whatever is still unknown.
    Yes,
    /// No, whatever is still unknown.
    No,
    /// What is unknown decides.
    Unknown,
}

/// Whether this host can punch with a peer behind one kind of router.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Prospect {
    /// [`PeerKind::name`].
    pub peer: &'static str,
    /// [`PeerKind::description`].
    pub description: &'static str,
    /// Whether it can.
    pub verdict: Verdict,
    /// How; `None` where it cannot, or where what is unknown decides.
    pub way: Option<Way>,
    /// Among how many pairs of ports; 1 is no search.
    pub tuples: Option<u64>,
    /// Why not, or what would have to be known; empty for a yes.
    pub because: String,
}

/// The prospects of a host with these routers, in the order of [`PEER_KINDS`].
pub fn prospects(nat: &Nat) -> Vec<Prospect> {
    let worlds = worlds(nat);
    PEER_KINDS.iter().map(|peer| prospect(nat, &worlds, peer)).collect()
}

fn prospect(nat: &Nat, worlds: &[Class], peer: &PeerKind) -> Prospect {
    let outcomes: Vec<_> = worlds.iter().map(|ours| way(ours, &peer.class)).collect();
    let mut ways = outcomes.iter().filter_map(|outcome| outcome.ok());
    let first = ways.next();
    let only = first.filter(|first| ways.all(|other| other == *first));
    let impossible = outcomes.iter().find_map(|outcome| outcome.err());
    let (verdict, because) = match (first, impossible) {
        (Some(_), None) => (Verdict::Yes, String::new()),
        (None, Some(obstacle)) => (Verdict::No, obstacle.to_string()),
        (None, None) => (Verdict::Unknown, String::new()),
        (Some(_), Some(_)) => (Verdict::Unknown, format!("depends on {}", unknowns(nat))),
    };
    let told = only.filter(|_| verdict == Verdict::Yes);
    Prospect {
        peer: peer.name,
        description: peer.description,
        verdict,
        way: told.map(|(way, _)| way),
        tuples: told.map(|(_, tuples)| tuples),
        because,
    }
}

/// Every router that ours may be, as far as is known.
fn worlds(nat: &Nat) -> Vec<Class> {
    use InboundSyn::{BlockedLax, BlockedTracked, BlockedUnseen, Passes};
    let ports = match &nat.allocation.value {
        Some(allocation) => vec![allocation.ports],
        None => vec![1, 64_512],
    };
    let inbound: &[InboundSyn] = match nat.crossed_syn.value {
        Some(Passage::Passes) => &[Passes],
        Some(Passage::Blocked) => &[BlockedTracked, BlockedUnseen, BlockedLax],
        None => &[Passes, BlockedTracked, BlockedUnseen, BlockedLax],
    };
    let mid_stream: &[bool] = match nat.mid_stream.value {
        Some(Passage::Passes) => &[true],
        Some(Passage::Blocked) => &[false],
        None => &[true, false],
    };
    let mut worlds = Vec::new();
    for ports in ports {
        for inbound_syn in inbound {
            for mid_stream in mid_stream {
                worlds.push(Class { ports, inbound_syn: *inbound_syn, mid_stream: *mid_stream });
            }
        }
    }
    worlds
}

fn unknowns(nat: &Nat) -> String {
    let mut unknown = Vec::new();
    if nat.allocation.value.is_none() {
        unknown.push("how ports are chosen");
    }
    match nat.crossed_syn.value {
        None => unknown.push("whether a SYN that crosses ours passes"),
        Some(Passage::Blocked) => unknown.push("whether the router has noted the SYN it drops"),
        Some(Passage::Passes) => {}
    }
    if nat.mid_stream.value.is_none() && nat.crossed_syn.value != Some(Passage::Passes) {
        unknown.push("whether an ACK begins a connection");
    }
    unknown.join(" and ")
}
