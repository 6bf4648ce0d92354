//! What one end of a measurement is told, and what it tells back: JSON between two processes.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use tcp_punch::engine::Report;

/// What one end does.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Job {
    /// The instant, nanoseconds since the Unix epoch.
    pub(crate) at_ns: i64,
    pub(crate) peer: SocketAddr,
    /// Local port.
    pub(crate) port: u16,
    /// Given up this long after the instant.
    pub(crate) patience_ms: u64,
    pub(crate) how: How,
    pub(crate) then: Then,
    /// The secret that both ends share.
    pub(crate) key: Option<[u8; 32]>,
    /// How this end's router numbers its mappings, and the peer's, as the command line has it.
    pub(crate) models: Option<[String; 2]>,
}

/// How the connection comes about.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum How {
    /// The product, as its defaults have it but for the opener.
    Punch { opener: bool },
    /// The product, as it is asked to be.
    Tuned(Tuning),
    /// Sleep until the instant, then `connect()`: what is possible without the product.
    Connect,
    /// Likewise, and once more so long after every failure.
    ConnectLoop { pause_ms: u64 },
    /// Listen, and take the first connection: the other side of `Connect` where nothing is in the
    /// way.
    Accept,
}

impl How {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Punch { .. } | Self::Tuned(_) => "punch",
            Self::Connect => "timed connect()",
            Self::ConnectLoop { .. } => "loop of connect()",
            Self::Accept => "accept()",
        }
    }
}

/// What the product is asked beyond peer, port, instant, key and models.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Tuning {
    /// `syn`, `syn-ack` and `mid-stream`; absent: auto.
    pub(crate) strategies: Option<[bool; 3]>,
    /// Packets, entries and packets a second; absent: the default budget.
    pub(crate) budget: Option<[u32; 3]>,
    /// Whatever the chance.
    pub(crate) anyway: bool,
    /// Absent: auto.
    pub(crate) datapath: Option<Way>,
}

/// How packets are caught.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Way {
    Packet,
    Ebpf,
}

/// What is done with the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Then {
    Close,
    /// Send so many bytes at once, and read as many.
    Exchange {
        bytes: usize,
    },
    /// Send for so long.
    Send {
        ms: u64,
    },
    /// Read until the end.
    Receive,
}

/// How it went at one end.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// When the caller had the descriptor, relative to the instant; absent when it never did.
    pub(crate) fd_ns: Option<i64>,
    pub(crate) error: Option<String>,
    /// The instant had passed before the end was ready: a busy machine's fault, not the method's.
    pub(crate) late: bool,
    /// The product's own report.
    pub(crate) report: Option<Report>,
    /// TCP_INFO's tcpi_total_retrans after everything was read and acknowledged.
    pub(crate) retransmissions: Option<u32>,
    /// Bytes read, and how long that took from the first to the end.
    pub(crate) received: u64,
    pub(crate) receiving_ns: u64,
}
