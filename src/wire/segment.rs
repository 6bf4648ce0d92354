//! One TCP segment inside its IP packet: built and read through etherparse.

use super::{Seq, Tuple};
use etherparse::{
    IpNumber, Ipv4Header, Ipv6Header, LaxNetSlice, LaxSlicedPacket, TcpHeader, TcpOptionElement,
    TransportSlice,
};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// Hop limit of everything that is meant to reach the peer: the value RFC 1700 recommends and
/// Linux uses.
pub const DEFAULT_HOP_LIMIT: u8 = 64;

/// A TCP segment and the addresses that it travels between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it comes from (`local`) and goes to (`remote`), as its sender sees them.
    pub tuple: Tuple,
    /// IPv4 TTL or IPv6 hop limit.
    pub hop_limit: u8,
    /// Sequence number.
    pub seq: Seq,
    /// Acknowledgment number; `None` when the ACK bit is clear.
    pub ack: Option<Seq>,
    /// SYN bit.
    pub syn: bool,
    /// FIN bit.
    pub fin: bool,
    /// RST bit.
    pub rst: bool,
    /// Window field as on the wire, not scaled.
    pub window: u16,
    /// The options that matter to a handshake.
    pub options: Options,
    /// What follows the header.
    pub payload: Vec<u8>,
}

/// TCP options of RFC 9293 and RFC 7323; absent ones are `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Maximum segment size, bytes.
    pub mss: Option<u16>,
    /// Window scale shift; a value above 14 reads as 14 (RFC 7323 section 2.3).
    pub window_scale: Option<u8>,
    /// Selective acknowledgment permitted.
    pub sack_permitted: bool,
    /// Timestamp value and echo reply.
    pub timestamps: Option<(u32, u32)>,
}

/// Why bytes are not a TCP segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotASegment {
    /// Not an IP packet, or cut off before its header ends.
    #[error("not an IP packet")]
    Ip,
    /// A fragment: its ports cannot be known.
    #[error("an IP fragment")]
    Fragment,
    /// Another protocol, or a TCP header that is cut off or malformed.
    #[error("no whole TCP header")]
    Tcp,
}

impl Segment {
    /// An empty segment without flags, options or window.
    pub fn new(tuple: Tuple, seq: Seq) -> Self {
        Self {
            tuple,
            hop_limit: DEFAULT_HOP_LIMIT,
            seq,
            ack: None,
            syn: false,
            fin: false,
            rst: false,
            window: 0,
            options: Options::default(),
            payload: Vec::new(),
        }
    }

    /// The segment's place in sequence space just past its last byte, SYN and FIN included.
    pub fn end(&self) -> Seq {
        let payload = u32::try_from(self.payload.len()).unwrap_or(u32::MAX);
        self.seq + payload + u32::from(self.syn) + u32::from(self.fin)
    }

    /// Reads an IP packet that starts at its IP header. Checksums are not looked at: offloads
    /// leave them unfinished on captured packets, and the kernel has judged those it received.
    ///
    /// # Errors
    /// [`NotASegment`] says what the bytes are instead.
    pub fn parse(packet: &[u8]) -> Result<Self, NotASegment> {
        let sliced = LaxSlicedPacket::from_ip(packet).map_err(|_| NotASegment::Ip)?;
        let (source, destination, hop_limit) = match &sliced.net {
            Some(LaxNetSlice::Ipv4(ip)) => (
                IpAddr::V4(ip.header().source_addr()),
                IpAddr::V4(ip.header().destination_addr()),
                ip.header().ttl(),
            ),
            Some(LaxNetSlice::Ipv6(ip)) => (
                IpAddr::V6(ip.header().source_addr()),
                IpAddr::V6(ip.header().destination_addr()),
                ip.header().hop_limit(),
            ),
            _ => return Err(NotASegment::Ip),
        };
        if sliced.ip_payload().is_some_and(|payload| payload.fragmented) {
            return Err(NotASegment::Fragment);
        }
        let Some(TransportSlice::Tcp(tcp)) = &sliced.transport else {
            return Err(NotASegment::Tcp);
        };
        Ok(Self {
            tuple: Tuple {
                local: SocketAddr::new(source, tcp.source_port()),
                remote: SocketAddr::new(destination, tcp.destination_port()),
            },
            hop_limit,
            seq: Seq(tcp.sequence_number()),
            ack: tcp.ack().then(|| Seq(tcp.acknowledgment_number())),
            syn: tcp.syn(),
            fin: tcp.fin(),
            rst: tcp.rst(),
            window: tcp.window_size(),
            options: Options::from_elements(tcp.options_iterator().filter_map(Result::ok)),
            payload: tcp.payload().to_vec(),
        })
    }

    /// Whether a packet that reads as a segment carries the right TCP checksum.
    pub fn has_right_checksum(packet: &[u8]) -> bool {
        let Ok(sliced) = LaxSlicedPacket::from_ip(packet) else { return false };
        let Some(TransportSlice::Tcp(tcp)) = &sliced.transport else { return false };
        let computed = match &sliced.net {
            Some(LaxNetSlice::Ipv4(ip)) => {
                tcp.calc_checksum_ipv4(ip.header().source(), ip.header().destination())
            }
            Some(LaxNetSlice::Ipv6(ip)) => {
                tcp.calc_checksum_ipv6(ip.header().source(), ip.header().destination())
            }
            _ => return false,
        };
        computed == Ok(tcp.checksum())
    }

    /// Whether the TCP checksum of a packet is the sum of its pseudo header alone, which is all that
    /// a kernel writes where a device is to do the rest.
    pub fn has_unfinished_checksum(packet: &[u8]) -> bool {
        let Ok(sliced) = LaxSlicedPacket::from_ip(packet) else { return false };
        let Some(TransportSlice::Tcp(tcp)) = &sliced.transport else { return false };
        let length = tcp.slice().len() as u32;
        let addresses = match &sliced.net {
            Some(LaxNetSlice::Ipv4(ip)) => {
                [ip.header().source(), ip.header().destination()].concat()
            }
            Some(LaxNetSlice::Ipv6(ip)) => {
                [ip.header().source(), ip.header().destination()].concat()
            }
            _ => return false,
        };
        let words = addresses.chunks_exact(2).map(|two| u32::from(two[0]) << 8 | u32::from(two[1]));
        let mut sum = words.sum::<u32>() + 6 + (length >> 16) + (length & 0xffff);
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        u32::from(tcp.checksum()) == sum
    }

    /// The whole IP packet, checksums finished. IPv4 leaves with DF set, as Linux sends TCP.
    /// Endpoints of unlike IP versions give an empty packet; [`Tuple`]s never mix them.
    pub fn to_packet(&self) -> Vec<u8> {
        let mut tcp = TcpHeader::new(
            self.tuple.local.port(),
            self.tuple.remote.port(),
            self.seq.0,
            self.window,
        );
        tcp.syn = self.syn;
        tcp.fin = self.fin;
        tcp.rst = self.rst;
        tcp.psh = !self.payload.is_empty();
        if let Some(ack) = self.ack {
            tcp.ack = true;
            tcp.acknowledgment_number = ack.0;
        }
        // The four options take 20 of the 40 bytes there are, so this cannot fail.
        let _ = tcp.set_options(&self.options.elements());
        let tcp_len = tcp.header_len() + self.payload.len();
        let mut packet = Vec::with_capacity(40 + tcp_len);
        match (self.tuple.local.ip(), self.tuple.remote.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut ip = Ipv4Header {
                    total_len: u16::try_from(20 + tcp_len).unwrap_or(u16::MAX),
                    time_to_live: self.hop_limit,
                    protocol: IpNumber::TCP,
                    source: source.octets(),
                    destination: destination.octets(),
                    dont_fragment: true,
                    ..Ipv4Header::default()
                };
                ip.header_checksum = ip.calc_header_checksum();
                tcp.checksum = tcp.calc_checksum_ipv4(&ip, &self.payload).unwrap_or(0);
                packet.extend_from_slice(&ip.to_bytes());
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let ip = Ipv6Header {
                    payload_length: u16::try_from(tcp_len).unwrap_or(u16::MAX),
                    next_header: IpNumber::TCP,
                    hop_limit: self.hop_limit,
                    source: source.octets(),
                    destination: destination.octets(),
                    ..Ipv6Header::default()
                };
                tcp.checksum = tcp.calc_checksum_ipv6(&ip, &self.payload).unwrap_or(0);
                packet.extend_from_slice(&ip.to_bytes());
            }
            _ => return Vec::new(),
        }
        packet.extend_from_slice(&tcp.to_bytes());
        packet.extend_from_slice(&self.payload);
        packet
    }

    /// Flags as tcpdump writes them: `S`, `S.`, `.`, `F.`, `R`.
    pub fn flags(&self) -> String {
        let mut flags = String::new();
        for (set, letter) in [
            (self.syn, 'S'),
            (self.fin, 'F'),
            (self.rst, 'R'),
            (!self.payload.is_empty(), 'P'),
            (self.ack.is_some(), '.'),
        ] {
            if set {
                flags.push(letter);
            }
        }
        flags
    }
}

impl Options {
    fn from_elements(elements: impl Iterator<Item = TcpOptionElement>) -> Self {
        let mut options = Self::default();
        for element in elements {
            match element {
                TcpOptionElement::MaximumSegmentSize(mss) => options.mss = Some(mss),
                TcpOptionElement::WindowScale(shift) => options.window_scale = Some(shift.min(14)),
                TcpOptionElement::SelectiveAcknowledgementPermitted => {
                    options.sack_permitted = true
                }
                TcpOptionElement::Timestamp(value, echo) => {
                    options.timestamps = Some((value, echo))
                }
                TcpOptionElement::Noop | TcpOptionElement::SelectiveAcknowledgement(..) => {}
            }
        }
        options
    }

    /// In the order and with the padding that Linux uses, so that the segment looks ordinary.
    fn elements(&self) -> Vec<TcpOptionElement> {
        let mut elements = Vec::with_capacity(6);
        if let Some(mss) = self.mss {
            elements.push(TcpOptionElement::MaximumSegmentSize(mss));
        }
        if self.sack_permitted {
            elements.push(TcpOptionElement::SelectiveAcknowledgementPermitted);
        } else if self.timestamps.is_some() {
            elements.extend([TcpOptionElement::Noop, TcpOptionElement::Noop]);
        }
        if let Some((value, echo)) = self.timestamps {
            elements.push(TcpOptionElement::Timestamp(value, echo));
        }
        if let Some(shift) = self.window_scale {
            elements.extend([TcpOptionElement::Noop, TcpOptionElement::WindowScale(shift)]);
        }
        elements
    }
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}] seq {}", self.tuple, self.flags(), self.seq)?;
        if let Some(ack) = self.ack {
            write!(f, " ack {ack}")?;
        }
        write!(f, " win {} ttl {} length {}", self.window, self.hop_limit, self.payload.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn syn() -> Segment {
        let tuple = Tuple {
            local: "192.168.1.2:40000".parse().unwrap(),
            remote: "203.0.113.1:40000".parse().unwrap(),
        };
        Segment {
            syn: true,
            window: 64240,
            options: Options {
                mss: Some(1460),
                window_scale: Some(7),
                sack_permitted: true,
                timestamps: Some((1000, 0)),
            },
            ..Segment::new(tuple, Seq(0x0102_0304))
        }
    }

    /// IP 192.168.1.2.40000 > 203.0.113.1.40000: Flags [S], seq 16909060, win 64240,
    /// options [mss 1460,sackOK,TS val 1000 ecr 0,nop,wscale 7], length 0
    #[test]
    fn golden_syn() {
        let packet = syn().to_packet();
        let text: String = packet.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            text,
            "4500003c0000400040063d10c0a80102cb007101\
             9c409c400102030400000000a002faf00ef40000\
             020405b40402080a000003e80000000001030307"
        );
    }

    #[test]
    fn a_packet_reads_back_as_it_was_built_in_both_ip_versions() {
        let v4 = syn();
        assert_eq!(Segment::parse(&v4.to_packet()).unwrap(), v4);
        let v6 = Segment {
            tuple: Tuple {
                local: "[2001:db8:a::2]:40000".parse().unwrap(),
                remote: "[2001:db8:b::2]:40000".parse().unwrap(),
            },
            payload: b"hello".to_vec(),
            ack: Some(Seq(7)),
            syn: false,
            options: Options { timestamps: Some((5, 6)), ..Options::default() },
            ..v4
        };
        assert_eq!(Segment::parse(&v6.to_packet()).unwrap(), v6);
        assert_eq!(v6.flags(), "P.");
    }

    #[test]
    fn a_flipped_bit_shows_in_the_checksum() {
        let mut packet = syn().to_packet();
        assert!(Segment::has_right_checksum(&packet));
        packet[25] ^= 4;
        assert!(!Segment::has_right_checksum(&packet));
    }

    #[test]
    fn a_fragment_is_refused_by_name() {
        let mut packet = syn().to_packet();
        packet[6] = 0x20; // MF
        assert_eq!(Segment::parse(&packet), Err(NotASegment::Fragment));
    }

    #[test]
    fn a_window_scale_above_fourteen_reads_as_fourteen() {
        let mut packet = syn().to_packet();
        let last = packet.len() - 1;
        packet[last] = 15;
        assert_eq!(Segment::parse(&packet).unwrap().options.window_scale, Some(14));
    }

    proptest! {
        #[test]
        fn no_bytes_make_parse_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Segment::parse(&bytes);
        }

        #[test]
        fn a_segment_damaged_anywhere_never_panics(at in 0usize..60, to: u8, cut in 0usize..=60) {
            let mut packet = syn().to_packet();
            packet[at] = to;
            packet.truncate(cut);
            let _ = Segment::parse(&packet);
        }
    }
}
