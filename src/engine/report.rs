//! What an attempt did, as one JSON document: schema version 1, `docs/report.schema.json`.

use crate::punch::Plan;
use crate::sys::ebpf::Counts;
use crate::wire::{Tuple, WallTime};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// One attempt, from the first packet to the descriptor or to the reason why there is none.
/// All times are nanoseconds relative to the agreed instant unless the name says otherwise.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Version of this document's schema.
    pub schema_version: u32,
    /// How the attempt ended.
    pub outcome: Outcome,
    /// The strategy that the attempt followed.
    pub strategy: Cow<'static, str>,
    /// The connection's endpoints as this host sees them.
    pub tuple: TupleText,
    /// The agreed instant, and when the SYN really left.
    pub fired: Fired,
    /// Every segment and ICMP message of the attempt in order, up to [`Report::TIMELINE_LIMIT`].
    pub timeline: Vec<Event>,
    /// Events left out of `timeline` because it was full.
    pub timeline_dropped: u64,
    /// When the handshake completed.
    pub established_ns: Option<i64>,
    /// When the kernel socket was ready for use.
    pub fd_ns: Option<i64>,
    /// The hand-over into the kernel socket.
    pub handover: Option<Handover>,
    /// Packets of the attempt.
    pub packets: Packets,
    /// Resets.
    pub rst: Resets,
    /// How packets were caught and resets were held back; absent without a punch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datapath: Option<DatapathReport>,
    /// The search; absent where the ports were known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<PlanReport>,
    /// The low-TTL opener.
    pub opener: OpenerReport,
    /// The system clock's own opinion of itself.
    pub clock: ClockReport,
    /// Of a meeting: every way that was tried, best first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ways: Vec<Way>,
    /// What is known of the routers on the way; absent when nothing is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nat: Option<NatReport>,
    /// What happened, one sentence.
    pub verdict: String,
    /// What to do about it, one sentence; empty when nothing needs doing.
    pub advice: String,
}

impl Report {
    /// The schema version that this program writes.
    pub const SCHEMA_VERSION: u32 = 1;
    /// Of a connection that needed no punch, counted from `at`.
    pub(crate) fn without_punch(tuple: Tuple, at: WallTime, established_ns: i64) -> Self {
        Self {
            schema_version: Self::SCHEMA_VERSION,
            outcome: Outcome::Connected,
            strategy: "port mapping".into(),
            tuple: tuple.into(),
            fired: Fired {
                asked_ns: at.unix_ns(),
                sent_ns: None,
                error_ns: None,
                send_cost_ns: None,
            },
            timeline: Vec::new(),
            timeline_dropped: 0,
            established_ns: Some(established_ns),
            fd_ns: Some(established_ns),
            handover: None,
            packets: Packets::default(),
            rst: Resets::default(),
            datapath: None,
            plan: None,
            opener: OpenerReport::default(),
            clock: ClockReport::default(),
            ways: Vec::new(),
            nat: None,
            verdict: "connected through a port mapping".into(),
            advice: String::new(),
        }
    }

    /// The most events a report holds, so that a flood cannot grow it without bound.
    pub const TIMELINE_LIMIT: usize = 10_000;
}

/// One way to the peer, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Way {
    /// What it is: `local network`, `IPv6`, `port mapping`, `both routers`, `hairpin`,
    /// `predicted ports`.
    pub kind: String,
    /// Our end, before any translation.
    pub local: String,
    /// Where we aimed.
    pub remote: String,
    /// Whether it is the connection.
    pub chosen: bool,
    /// What came of it, one sentence.
    pub outcome: String,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The connection stands and was handed over.
    Connected,
    /// Nobody completed the handshake in time.
    TimedOut,
    /// Segments came in time, but only resets or from somebody without the key.
    Refused,
    /// SIGINT or SIGTERM ended the attempt.
    Interrupted,
    /// This host failed: a system call, the hand-over.
    Failed,
}

/// Endpoints as text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TupleText {
    /// Our `address:port`.
    pub local: String,
    /// The peer's `address:port`.
    pub remote: String,
}

impl From<Tuple> for TupleText {
    fn from(tuple: Tuple) -> Self {
        Self { local: tuple.local.to_string(), remote: tuple.remote.to_string() }
    }
}

/// The instant and the truth about it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Fired {
    /// The agreed instant, nanoseconds since the Unix epoch.
    pub asked_ns: i64,
    /// The kernel's transmit timestamp of the SYN, nanoseconds since the Unix epoch; absent when
    /// the SYN never left or the device gives no timestamp.
    pub sent_ns: Option<i64>,
    /// `sent_ns - asked_ns`.
    pub error_ns: Option<i64>,
    /// The send path's own cost as measured beforehand and subtracted.
    pub send_cost_ns: Option<i64>,
}

/// Which way a packet went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// From this host.
    Sent,
    /// To this host.
    Received,
}

/// One packet.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Event {
    /// Relative to the instant: when the packet was sent, or the kernel's receive timestamp.
    pub at_ns: i64,
    /// Which way it went.
    pub direction: Direction,
    /// The connection it belongs to.
    pub tuple: TupleText,
    /// TCP flags as tcpdump writes them (`S`, `S.`, `.`, `R`), or `icmp`.
    pub flags: String,
    /// Sequence number; absent for ICMP.
    pub seq: Option<u32>,
    /// Acknowledgment number, when the ACK bit is set.
    pub ack: Option<u32>,
    /// Hop limit with which it left or arrived.
    pub ttl: u8,
    /// What it was, in words: `opener`, `SYN at the instant`, `peer's SYN`, …
    pub what: String,
}

/// Installing the connection in the kernel.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Handover {
    /// From the last handshake segment's receive timestamp to the usable descriptor.
    pub took_ns: i64,
    /// Bytes of the peer that waited in the receive queue by then.
    pub early_bytes: u64,
}

/// Packets of the attempt, probes included.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Packets {
    /// Sent by us.
    pub sent: u64,
    /// Received for the attempt.
    pub received: u64,
}

/// Resets of the attempt.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Resets {
    /// Segments that our own kernel would have answered with a reset and did not, thanks to guard
    /// and datapath.
    pub own_suppressed: u64,
    /// Resets that came in and were outlived.
    pub foreign: u64,
}

/// How packets were caught.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DatapathReport {
    /// `packet` or `ebpf`.
    pub name: Cow<'static, str>,
    /// Why this one.
    pub why: String,
    /// What the eBPF programs did, by verdict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts: Option<Counts>,
}

impl DatapathReport {
    /// Segments that drew no reset because our kernel never saw them, and resets that it sent all
    /// the same and that did not leave.
    pub(super) fn held_back(&self) -> u64 {
        let held =
            |counts: &Counts| counts.stolen.saturating_sub(counts.resets) + counts.resets_held_back;
        self.counts.as_ref().map_or(0, held)
    }
}

/// The low-TTL opener.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct OpenerReport {
    /// Hop limit used; absent when no opener was sent.
    pub ttl: Option<u8>,
    /// Why this hop limit, or why none.
    pub why: String,
    /// Routers that answered on the way, nearest first: `[hop, address]`.
    pub path: Vec<(u8, String)>,
}

/// What a search was planned to be.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PlanReport {
    /// Tuples, each an entry in our router.
    pub tuples: u32,
    /// Local ports.
    pub sources: u32,
    /// Ports of the peer.
    pub targets: u32,
    /// The probability that at least one pair matches, from 0 to 1.
    pub chance: f64,
    /// Pairs that match on average.
    pub expected_matches: f64,
}

impl From<&Plan> for PlanReport {
    fn from(plan: &Plan) -> Self {
        Self {
            tuples: plan.len(),
            sources: plan.sources.count().into(),
            targets: u32::try_from(plan.targets.len()).unwrap_or(u32::MAX),
            chance: plan.chance,
            expected_matches: plan.expected_matches,
        }
    }
}

/// The state of the system clock.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ClockReport {
    /// Whether the kernel says that something disciplines the clock.
    pub synchronised: bool,
    /// The kernel's own estimate of the clock's error (adjtimex(2) `esterror`; `maxerror` while
    /// nothing disciplines it), microseconds.
    pub estimated_error_us: Option<i64>,
    /// Half of the longest round trip that probes towards the peer have shown, microseconds.
    pub one_way_delay_us: Option<i64>,
}

/// What is known of the routers on the way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NatReport {
    /// NATs between this host and the public network, as far as the path shows.
    pub nats_on_path: u8,
}
