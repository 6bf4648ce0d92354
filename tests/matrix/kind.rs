//! The kinds of routers: what they are called, how they are made, and what they are known to do.

use tcp_punch::wire::WallTime;

/// One kind of router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    /// What tables and pictures call it.
    pub(crate) name: &'static str,
    /// The value of `network.sh --nat-a`.
    pub(crate) network: &'static str,
    /// The value of `network.sh --outer-a`, of a second router behind it.
    pub(crate) outer: Option<&'static str>,
    /// How it numbers its mappings, for the product (`--nat-model`); `None`: not passed, for it
    /// keeps the port. `{restart}` stands for the Unix time at which the router began anew.
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
    /// One of so many for each internal endpoint, whatever the peer's port.
    Stable { pool: u32 },
    /// Among so many for each destination: the pool, from the internal ports that make it least,
    /// or the places where a counter may stand.
    PerDestination { pool: u32 },
}

/// What becomes of a SYN from outside on a mapping that the inside has opened with a SYN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InboundSyn {
    Passes,
    /// Dropped, but the router has noted it, and lets a SYN-ACK out that answers it.
    BlockedTracked,
    /// Dropped, and the router knows nothing of it: a SYN-ACK is invalid to it.
    BlockedUnseen,
    /// Dropped, and the router knows nothing of it, but lets out what the inside sends.
    BlockedLax,
}

impl Allocation {
    /// Among how many ports one is.
    pub(crate) fn pool(self) -> u32 {
        match self {
            Self::Preserving => 1,
            Self::Stable { pool } | Self::PerDestination { pool } => pool,
        }
    }
}

impl Kind {
    /// Whether a port of it has to be searched: that meets other trials' mappings, too.
    pub(crate) fn is_searched(&self) -> bool {
        self.model.is_some()
    }

    /// The model of a router that began anew at this time.
    pub(crate) fn model_since(&self, restart: WallTime) -> Option<String> {
        let seconds = format!("{:.6}", restart.unix_ns() as f64 / 1e9);
        self.model.map(|model| model.replace("{restart}", &seconds))
    }

    /// Whether numbers from inside are others outside.
    pub(crate) fn rewrites_numbers(&self) -> bool {
        self.network.contains("rewrite-seq=yes")
    }

    /// Whether no option but the MSS passes.
    pub(crate) fn strips_options(&self) -> bool {
        self.network.contains("strip-options=yes")
    }

    pub(crate) fn named(name: &str) -> Option<&'static Self> {
        KINDS.iter().find(|kind| kind.name == name)
    }
}

const PRESERVING: Kind = Kind {
    name: "masquerade",
    network: "masquerade",
    outer: None,
    model: None,
    allocation: Allocation::Preserving,
    inbound_syn: InboundSyn::Passes,
    mid_stream: true,
};

/// netfilter's random ports from source ports 512 to 1023 (nf_nat_core.c).
const LINUX_RANDOM: Kind = Kind {
    model: Some("linux-random"),
    allocation: Allocation::PerDestination { pool: 424 },
    ..PRESERVING
};

/// Six standard deviations and eight places either way (punch/plan/course.rs) of a counter that
/// one echo request has moved.
const COUNTER: Allocation = Allocation::PerDestination { pool: 33 };

/// All of them; a picture shows them in this order. The first ones are netfilter's, the others the
/// program wan's.
pub(crate) const KINDS: [Kind; 28] = [
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
        name: "to-ports",
        network: "to-ports=41000-41063,reject",
        model: Some("stable-random:41000-41063"),
        allocation: Allocation::Stable { pool: 64 },
        ..PRESERVING
    },
    Kind { name: "random", network: "random", ..LINUX_RANDOM },
    Kind { name: "random-fully", network: "random-fully", ..LINUX_RANDOM },
    Kind { name: "random+drop", network: "random-fully,drop,invalid-drop", ..LINUX_RANDOM },
    Kind {
        name: "random+block",
        network: "random-fully,syn-block",
        inbound_syn: InboundSyn::BlockedTracked,
        ..LINUX_RANDOM
    },
    Kind { name: "cgn", outer: Some("user:unsolicited=rst"), ..PRESERVING },
    Kind { name: "full-cone", network: "user:filtering=eif,unsolicited=icmp", ..PRESERVING },
    Kind { name: "adf", network: "user:filtering=adf,unsolicited=rst", ..PRESERVING },
    Kind { name: "hold", network: "user:unsolicited=hold,rst-kills=no", ..PRESERVING },
    Kind {
        name: "adm",
        network: "user:mapping=adm,filtering=adf,ports=block,pool=52000-52063",
        model: Some("stable-random:52000-52063"),
        allocation: Allocation::Stable { pool: 64 },
        ..PRESERVING
    },
    Kind {
        name: "sequential",
        network: "user:mapping=apdm,ports=sequential,pool=1024-65535,first=30000",
        // The echo requests that look for the opener's hop limit have had the first one.
        model: Some("sequential:next=30001"),
        allocation: COUNTER,
        ..PRESERVING
    },
    Kind {
        name: "busy-step-2",
        network: "user:mapping=apdm,ports=sequential,pool=1024-65535,first=30000,step=2,rate=50",
        model: Some("sequential:next=30002,step=2,rate=50,at={restart}"),
        allocation: Allocation::PerDestination { pool: 80 },
        ..PRESERVING
    },
    Kind {
        name: "parity",
        network: "user:mapping=apdm,ports=parity,pool=40000-40999",
        model: Some("parity:40000-40999"),
        allocation: Allocation::PerDestination { pool: 500 },
        ..PRESERVING
    },
    Kind {
        name: "block-64",
        network: "user:mapping=apdm,ports=block,pool=50000-50063,unsolicited=rst",
        model: Some("random:50000-50063"),
        allocation: Allocation::PerDestination { pool: 64 },
        ..PRESERVING
    },
    Kind {
        name: "syn-ignored",
        network: "user:syn-in=ignore,loose=no",
        inbound_syn: InboundSyn::BlockedLax,
        mid_stream: false,
        ..PRESERVING
    },
    Kind { name: "rewrite-seq", network: "user:rewrite-seq=yes", ..PRESERVING },
    Kind { name: "strip-options", network: "user:strip-options=yes", ..PRESERVING },
];
