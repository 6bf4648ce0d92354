//! The kinds of routers: what they are called, how they are made, and what they are known to do.

/// One kind of router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    /// What tables and pictures call it.
    pub(crate) name: &'static str,
    /// The value of `network.sh --nat-a`.
    pub(crate) network: &'static str,
    /// How it numbers its mappings, for the product (`--nat-model`); `None`: not passed, for it
    /// keeps the port.
    pub(crate) model: Option<&'static str>,
    pub(crate) allocation: Allocation,
    pub(crate) inbound_syn: InboundSyn,
    /// Whether an ACK without a SYN before it makes a mapping.
    pub(crate) mid_stream: bool,
}

/// How external ports are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Allocation {
    /// As the internal one, or there is no translation.
    Preserving,
    /// One of so many for each internal endpoint, whatever the destination.
    Stable { pool: u32 },
    /// One of so many for each destination, from the internal ports that make it least.
    Random { pool: u32 },
}

/// What becomes of a SYN from outside on a mapping that the inside has opened with a SYN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InboundSyn {
    Passes,
    /// Dropped, but the router has noted it.
    BlockedTracked,
    /// Dropped, and the router knows nothing of it.
    BlockedUnseen,
}

impl Kind {
    /// Whether it takes a search to find a port of it: that has the machine to itself.
    pub(crate) fn is_searched(&self) -> bool {
        matches!(self.allocation, Allocation::Random { .. })
    }

    pub(crate) fn named(name: &str) -> Option<&'static Self> {
        KINDS.iter().find(|kind| kind.name == name)
    }
}

const PRESERVING: Kind = Kind {
    name: "masquerade",
    network: "masquerade",
    model: None,
    allocation: Allocation::Preserving,
    inbound_syn: InboundSyn::Passes,
    mid_stream: true,
};

/// netfilter's random ports from source ports 512 to 1023 (nf_nat_core.c).
const LINUX_RANDOM: Kind = Kind {
    model: Some("linux-random"),
    allocation: Allocation::Random { pool: 424 },
    ..PRESERVING
};

/// All of them; a picture shows them in this order.
pub(crate) const KINDS: [Kind; 14] = [
    Kind { name: "none", network: "none", ..PRESERVING },
    PRESERVING,
    Kind { name: "drop", network: "masquerade,drop", ..PRESERVING },
    Kind { name: "reject", network: "masquerade,reject", ..PRESERVING },
    Kind { name: "icmp", network: "masquerade,icmp", ..PRESERVING },
    Kind { name: "listener", network: "masquerade,listener", ..PRESERVING },
    Kind { name: "invalid-drop", network: "masquerade,invalid-drop", ..PRESERVING },
    Kind { name: "strict", network: "masquerade,strict", mid_stream: false, ..PRESERVING },
    Kind {
        name: "syn-block",
        network: "masquerade,syn-block",
        inbound_syn: InboundSyn::BlockedTracked,
        ..PRESERVING
    },
    Kind {
        name: "raw-syn-block",
        network: "masquerade,raw-syn-block",
        inbound_syn: InboundSyn::BlockedUnseen,
        ..PRESERVING
    },
    Kind {
        name: "raw+strict",
        network: "masquerade,raw-syn-block,strict",
        inbound_syn: InboundSyn::BlockedUnseen,
        mid_stream: false,
        ..PRESERVING
    },
    Kind {
        name: "block-64",
        network: "to-ports=41000-41063",
        model: Some("stable-random:41000-41063"),
        allocation: Allocation::Stable { pool: 64 },
        ..PRESERVING
    },
    Kind { name: "random", network: "random", ..LINUX_RANDOM },
    Kind { name: "random-fully", network: "random-fully", ..LINUX_RANDOM },
];
