//! Writes down every packet: the report's timeline and the pcapng file.

use super::report::{Direction, Event, Packets, Report};
use crate::wire::{Icmp, IcmpKind, PacketLog, Quote, Segment, Tuple, WallTime};
use std::fs::File;
use std::io::{self, BufWriter};

/// What left and what came.
pub(super) struct Recorder {
    at: WallTime,
    pub(super) timeline: Vec<Event>,
    pub(super) dropped: u64,
    pub(super) packets: Packets,
    pub(super) resets: u64,
    /// Sent events whose transmit timestamp is still to come: its number and the event's place.
    pending: Vec<(u32, usize)>,
    pcap: Option<PacketLog<BufWriter<File>>>,
    pcap_error: Option<io::Error>,
}

impl Recorder {
    pub(super) fn new(at: WallTime, pcap: Option<File>, interface: &str) -> io::Result<Self> {
        let pcap = pcap.map(|file| PacketLog::new(BufWriter::new(file), interface)).transpose()?;
        Ok(Self {
            at,
            timeline: Vec::new(),
            dropped: 0,
            packets: Packets::default(),
            resets: 0,
            pending: Vec::new(),
            pcap,
            pcap_error: None,
        })
    }

    /// A segment left; `id` finds its transmit timestamp later.
    pub(super) fn sent(
        &mut self,
        segment: &Segment,
        packet: &[u8],
        now: WallTime,
        id: u32,
        what: &str,
    ) {
        tracing::trace!(%segment, what, "sent");
        self.packets.sent += 1;
        self.log(now, true, packet);
        if self.timeline.len() < Report::TIMELINE_LIMIT {
            self.pending.push((id, self.timeline.len()));
        }
        self.push(event_of(segment, segment.tuple, Direction::Sent, now.ns_since(self.at), what));
    }

    /// The kernel side sent a segment by itself.
    pub(super) fn sent_by_kernel(&mut self, segment: &Segment, at: WallTime, what: &str) {
        tracing::trace!(%segment, what, "sent");
        self.packets.sent += 1;
        self.log(at, true, &segment.to_packet());
        self.push(event_of(segment, segment.tuple, Direction::Sent, at.ns_since(self.at), what));
    }

    /// A probe left.
    pub(super) fn sent_probe(&mut self, packet: &[u8], now: WallTime) {
        self.packets.sent += 1;
        self.log(now, true, packet);
    }

    /// The transmit timestamp of an earlier packet came back.
    pub(super) fn transmitted(&mut self, id: u32, at: WallTime) {
        if let Some(place) = self.pending.iter().position(|(known, _)| *known == id) {
            let (_, event) = self.pending.swap_remove(place);
            self.timeline[event].at_ns = at.ns_since(self.at);
        }
    }

    /// A segment came in.
    pub(super) fn received(&mut self, segment: &Segment, packet: &[u8], at: WallTime, what: &str) {
        tracing::trace!(%segment, what, "received");
        self.packets.received += 1;
        self.resets += u64::from(segment.rst);
        self.log(at, false, packet);
        let tuple = segment.tuple.reversed();
        self.push(event_of(segment, tuple, Direction::Received, at.ns_since(self.at), what));
    }

    /// An ICMP message came in.
    pub(super) fn received_icmp(
        &mut self,
        icmp: &Icmp,
        tuple: Tuple,
        packet: &[u8],
        at: WallTime,
        what: &str,
    ) {
        tracing::trace!(?icmp, what, "received");
        self.packets.received += 1;
        self.log(at, false, packet);
        if let Quote::Echo { .. } = icmp.about {
            return; // probes make the path, not the timeline
        }
        let kind = match icmp.kind {
            IcmpKind::TimeExceeded => "time exceeded".to_owned(),
            IcmpKind::Unreachable(code) => format!("unreachable, code {code}"),
            IcmpKind::EchoReply => "echo reply".to_owned(),
        };
        self.push(Event {
            at_ns: at.ns_since(self.at),
            direction: Direction::Received,
            tuple: tuple.into(),
            flags: "icmp".into(),
            seq: None,
            ack: None,
            ttl: icmp.hop_limit,
            what: format!("{kind} from {}: {what}", icmp.from),
        });
    }

    /// Writes out what is buffered.
    ///
    /// # Errors
    /// The first error of the pcap file, then or before.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        if let Some(error) = self.pcap_error.take() {
            return Err(error);
        }
        self.pcap.as_mut().map_or(Ok(()), PacketLog::flush)
    }

    /// Whether whole packets are written down.
    pub(super) fn keeps_packets(&self) -> bool {
        self.pcap.is_some()
    }

    /// The first segment of many left.
    pub(super) fn wave(&mut self, segment: &Segment, now: WallTime, what: &str) {
        self.push(event_of(segment, segment.tuple, Direction::Sent, now.ns_since(self.at), what));
    }

    /// Writes down a whole packet, where packets are kept.
    pub(super) fn log(&mut self, at: WallTime, outbound: bool, packet: &[u8]) {
        if let Some(pcap) = &mut self.pcap
            && let Err(error) = pcap.write(at, outbound, packet)
        {
            self.pcap_error.get_or_insert(error);
        }
    }

    fn push(&mut self, event: Event) {
        if self.timeline.len() < Report::TIMELINE_LIMIT {
            self.timeline.push(event);
        } else {
            self.dropped += 1;
        }
    }
}

fn event_of(
    segment: &Segment,
    tuple: Tuple,
    direction: Direction,
    at_ns: i64,
    what: &str,
) -> Event {
    Event {
        at_ns,
        direction,
        tuple: tuple.into(),
        flags: segment.flags(),
        seq: Some(segment.seq.0),
        ack: segment.ack.map(|ack| ack.0),
        ttl: segment.hop_limit,
        what: what.to_owned(),
    }
}
