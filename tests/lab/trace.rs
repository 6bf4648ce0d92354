//! A capture read as a trace of TCP segments.

use std::net::IpAddr;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use tcp_punch::wire::Segment;

use crate::capture::Captured;

/// Hop limit from which on a segment is meant for the peer and not for the routers on the way.
const WHOLE_WAY: u8 = 32;

/// The TCP segments among packets.
pub(crate) fn segments(packets: &[Captured]) -> Vec<Segment> {
    packets.iter().filter_map(|captured| Segment::parse(&captured.bytes).ok()).collect()
}

/// As tcpdump writes the flags of the segments from `ip`, in order, openers in brackets, up to the
/// first data.
pub(crate) fn handshake_from(ip: IpAddr, segments: &[Segment]) -> Vec<String> {
    segments
        .iter()
        .filter(|segment| segment.tuple.local.ip() == ip)
        .take_while(|segment| segment.payload.is_empty())
        .map(|segment| match is_opener(segment) {
            true => format!("({})", segment.flags()),
            false => segment.flags(),
        })
        .collect()
}

/// Segments from `ip` that take sequence space which an earlier one took already. An opener is not
/// a repetition: its SYN is not to reach anybody.
pub(crate) fn repeated(ip: IpAddr, segments: &[Segment]) -> Vec<&Segment> {
    let mut sent: Vec<&Segment> = Vec::new();
    let mut repeated = Vec::new();
    let takes_space = |it: &&Segment| it.end() != it.seq && !is_opener(it);
    for segment in segments.iter().filter(|it| it.tuple.local.ip() == ip).filter(takes_space) {
        // Our SYN-ACK repeats the number of our SYN and says something new.
        let again = |earlier: &&&Segment| {
            (earlier.tuple, earlier.seq, earlier.syn, earlier.fin, earlier.ack.is_some())
                == (segment.tuple, segment.seq, segment.syn, segment.fin, segment.ack.is_some())
        };
        if sent.iter().any(|earlier| again(&earlier)) {
            repeated.push(segment);
        }
        sent.push(segment);
    }
    repeated
}

fn is_opener(segment: &Segment) -> bool {
    segment.syn && segment.hop_limit < WHOLE_WAY
}

/// The source address of an IP packet.
pub(crate) fn source(packet: &[u8]) -> Option<IpAddr> {
    match SlicedPacket::from_ip(packet).ok()?.net? {
        NetSlice::Ipv4(ip) => Some(ip.header().source_addr().into()),
        NetSlice::Ipv6(ip) => Some(ip.header().source_addr().into()),
        NetSlice::Arp(_) => None,
    }
}

/// Whether a packet is one of the echo requests that look for the routers on the way. The kernel
/// itself sends others, of IPv6.
pub(crate) fn is_probe(packet: &[u8]) -> bool {
    let sliced = SlicedPacket::from_ip(packet).ok();
    matches!(sliced.and_then(|it| it.transport), Some(TransportSlice::Icmpv4(_)))
}

/// Whether a packet is a TCP segment from `ip` on its whole way, as the SYN of the instant is.
pub(crate) fn is_full_syn_from(ip: IpAddr) -> impl Fn(&[u8]) -> bool {
    move |packet| {
        Segment::parse(packet)
            .is_ok_and(|it| it.syn && it.tuple.local.ip() == ip && !is_opener(&it))
    }
}
