//! How a router behaves, in the words of RFC 4787 and RFC 5382. Needs nothing else, so that
//! whoever builds routers, simulated or real, can state theirs.

#![allow(dead_code, reason = "shared by test programs that use it in part")]

/// What a router does, as far as it matters to a punch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Behaviour {
    pub(crate) name: &'static str,
    /// RFC 4787 section 4.1: for which destinations one internal endpoint keeps its external port.
    pub(crate) mapping: Dependence,
    /// RFC 4787 section 5: who may send to an external port.
    pub(crate) filtering: Dependence,
    pub(crate) ports: Ports,
    pub(crate) syn_in: SynIn,
    /// What becomes of segments out of turn.
    pub(crate) out_of_turn: OutOfTurn,
    /// Whether a connection whose SYN it has not seen gets a mapping (netfilter's tcp_loose).
    pub(crate) loose: bool,
    pub(crate) unsolicited: Unsolicited,
    /// Whether an inbound reset ends the mapping of a connection that is not established.
    pub(crate) reset_kills: bool,
    pub(crate) rewrites_sequence: bool,
    pub(crate) strips_options: bool,
    /// Connections that it holds at once.
    pub(crate) entries: u32,
}

/// RFC 4787: endpoint-independent, address-dependent, address- and port-dependent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Dependence {
    Endpoint,
    Address,
    AddressAndPort,
}

/// First and last.
pub(crate) type Pool = (u16, u16);

/// Which external port a new mapping gets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Ports {
    Preserving,
    /// The one before plus `step`; others take `rate` a second.
    Sequential {
        step: i16,
        rate: f64,
        pool: Pool,
    },
    /// Random, even for even and odd for odd.
    Parity(Pool),
    /// Random; a port block or set is a small pool.
    Random(Pool),
    /// netfilter's: 1–511, 600–1023 or 1024–65535, as the internal port.
    LinuxRandom,
}

/// An inbound SYN to a mapping whose own SYN has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SynIn {
    Allowed,
    /// Dropped, but the router has seen it (netfilter's FORWARD chain).
    BlockedAfterTracking,
    /// Dropped unseen (netfilter's raw table).
    BlockedBeforeTracking,
}

/// A segment that the states of RFC 9293, as netfilter follows them, have no place for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OutOfTurn {
    /// States are not followed: it passes.
    Unnoticed,
    Dropped,
    /// Forwarded with its private source address, to be lost upstream.
    Leaked,
}

/// The answer to a SYN for nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unsolicited {
    Drop,
    Reset,
    Icmp,
    /// RFC 5382 REQ-4: nothing for six seconds, ICMP then.
    Held,
}

const POOL: Pool = (4096, 4159);

/// iptables MASQUERADE with netfilter's defaults.
pub(crate) const MASQUERADE: Behaviour = Behaviour {
    name: "masquerade",
    mapping: Dependence::AddressAndPort,
    filtering: Dependence::AddressAndPort,
    ports: Ports::Preserving,
    syn_in: SynIn::Allowed,
    out_of_turn: OutOfTurn::Leaked,
    loose: true,
    unsolicited: Unsolicited::Reset,
    reset_kills: true,
    rewrites_sequence: false,
    strips_options: false,
    entries: 65_536,
};

/// A router in software or silicon that follows no states.
pub(crate) const PLAIN: Behaviour = Behaviour {
    name: "plain",
    out_of_turn: OutOfTurn::Unnoticed,
    loose: false,
    unsolicited: Unsolicited::Drop,
    ..MASQUERADE
};

/// Every kind worth telling apart.
pub(crate) const KINDS: [Behaviour; 34] = {
    use Dependence::{Address, AddressAndPort, Endpoint};
    use OutOfTurn::Dropped;
    use SynIn::{BlockedAfterTracking, BlockedBeforeTracking};
    use Unsolicited::{Drop, Held, Icmp, Reset};
    let m = MASQUERADE;
    let p = PLAIN;
    [
        m,
        Behaviour { name: "masquerade drop", unsolicited: Drop, ..m },
        Behaviour { name: "masquerade icmp", unsolicited: Icmp, ..m },
        Behaviour { name: "masquerade invalid dropped", out_of_turn: Dropped, ..m },
        Behaviour { name: "masquerade strict", loose: false, ..m },
        Behaviour { name: "masquerade SYN blocked", syn_in: BlockedAfterTracking, ..m },
        Behaviour {
            name: "masquerade SYN blocked strict",
            syn_in: BlockedAfterTracking,
            loose: false,
            out_of_turn: Dropped,
            ..m
        },
        Behaviour { name: "masquerade raw SYN blocked", syn_in: BlockedBeforeTracking, ..m },
        Behaviour {
            name: "masquerade raw SYN blocked, invalid dropped",
            syn_in: BlockedBeforeTracking,
            out_of_turn: Dropped,
            ..m
        },
        Behaviour {
            name: "masquerade raw SYN blocked strict",
            syn_in: BlockedBeforeTracking,
            loose: false,
            ..m
        },
        Behaviour { name: "masquerade random", ports: Ports::LinuxRandom, ..m },
        Behaviour {
            name: "masquerade random drop",
            ports: Ports::LinuxRandom,
            unsolicited: Drop,
            ..m
        },
        Behaviour { name: "masquerade to-ports", ports: Ports::Random(POOL), ..m },
        Behaviour {
            name: "masquerade to-ports SYN blocked",
            ports: Ports::Random(POOL),
            syn_in: BlockedAfterTracking,
            ..m
        },
        Behaviour { name: "full cone", mapping: Endpoint, filtering: Endpoint, ..p },
        Behaviour { name: "restricted cone", mapping: Endpoint, filtering: Address, ..p },
        Behaviour { name: "port-restricted cone", mapping: Endpoint, ..p },
        Behaviour {
            name: "cone with random ports",
            mapping: Endpoint,
            ports: Ports::Random((1024, 65_535)),
            ..p
        },
        Behaviour {
            name: "cone with random ports, reset",
            mapping: Endpoint,
            ports: Ports::Random((1024, 65_535)),
            unsolicited: Reset,
            ..p
        },
        Behaviour {
            name: "a port an address",
            mapping: Address,
            filtering: Address,
            ports: Ports::Random(POOL),
            ..p
        },
        Behaviour { name: "symmetric", ports: Ports::Random(POOL), ..p },
        Behaviour { name: "symmetric, reset", ports: Ports::Random(POOL), unsolicited: Reset, ..p },
        Behaviour {
            name: "symmetric, resets harmless",
            ports: Ports::Random(POOL),
            unsolicited: Reset,
            reset_kills: false,
            ..p
        },
        Behaviour { name: "symmetric, open", filtering: Endpoint, ports: Ports::Random(POOL), ..p },
        Behaviour { name: "parity", ports: Ports::Parity((4000, 4127)), unsolicited: Held, ..p },
        Behaviour {
            name: "sequential",
            ports: Ports::Sequential { step: 1, rate: 0.0, pool: (1024, 65_535) },
            ..p
        },
        Behaviour {
            name: "sequential busy, reset",
            ports: Ports::Sequential { step: 1, rate: 50.0, pool: (1024, 65_535) },
            unsolicited: Reset,
            ..p
        },
        Behaviour {
            name: "sequential by two",
            ports: Ports::Sequential { step: 2, rate: 10.0, pool: (1024, 65_535) },
            unsolicited: Held,
            ..p
        },
        Behaviour { name: "holds SYNs", unsolicited: Held, ..p },
        Behaviour { name: "rewrites numbers", rewrites_sequence: true, ..p },
        Behaviour {
            name: "rewrites numbers, SYN blocked",
            rewrites_sequence: true,
            syn_in: BlockedBeforeTracking,
            ..p
        },
        Behaviour { name: "strips options", strips_options: true, ..m },
        Behaviour { name: "full", entries: 0, mapping: AddressAndPort, ..m },
        Behaviour { name: "small table", entries: 8, ports: Ports::Random(POOL), ..p },
    ]
};

impl Behaviour {
    /// The two in a row, as the outside sees them.
    pub(crate) fn behind(self, outer: Self) -> Self {
        let syn_in = match (self.syn_in, outer.syn_in) {
            (_, SynIn::BlockedBeforeTracking) => SynIn::BlockedBeforeTracking,
            (inner, SynIn::Allowed) => inner,
            (SynIn::Allowed, blocked) => blocked,
            // What the outer one drops the inner one never sees.
            (_, SynIn::BlockedAfterTracking) => SynIn::BlockedBeforeTracking,
        };
        let out_of_turn = match (self.out_of_turn, outer.out_of_turn) {
            (OutOfTurn::Unnoticed, other) | (other, OutOfTurn::Unnoticed) => other,
            _ => OutOfTurn::Dropped,
        };
        Self {
            name: "two in a row",
            mapping: match (self.ports, outer.ports) {
                (Ports::Preserving, _) => outer.mapping,
                (_, Ports::Preserving) => self.mapping,
                _ => self.mapping.max(outer.mapping),
            },
            filtering: self.filtering.max(outer.filtering),
            ports: match outer.ports {
                Ports::Preserving => self.ports,
                // The outer one's pool follows from the port that the inner one has chosen.
                Ports::LinuxRandom
                    if !matches!(self.ports, Ports::Preserving | Ports::LinuxRandom) =>
                {
                    Ports::Random((1024, 65_535))
                }
                ports => ports,
            },
            syn_in,
            out_of_turn,
            loose: self.loose && outer.loose,
            unsolicited: outer.unsolicited,
            reset_kills: self.reset_kills || outer.reset_kills,
            rewrites_sequence: self.rewrites_sequence || outer.rewrites_sequence,
            strips_options: self.strips_options || outer.strips_options,
            entries: self.entries.min(outer.entries),
        }
    }
}
