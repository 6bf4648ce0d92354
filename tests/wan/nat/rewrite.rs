//! The fields of an IPv4 packet that a NAT changes, with checksums kept right by RFC 1624.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::checksum::Sum;
use super::tcp::Flags;

/// What a NAT translates. The identifier of an ICMP query serves as its sender's port (RFC 5508).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
    Query,
}

/// Which endpoint of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Source,
    Destination,
}

/// Where a packet, or one quoted in an error, has what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) protocol: Protocol,
    pub(crate) source: SocketAddrV4,
    pub(crate) destination: SocketAddrV4,
    /// Where the IP header begins.
    ip: usize,
    /// Where the transport's header begins.
    transport: usize,
    /// Where a query has its identifier: at its source when it asks, at its destination in a reply.
    identifier_of: End,
}

/// A packet as a NAT sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Flow(View),
    /// An ICMP error and what it quotes.
    Error {
        source: Ipv4Addr,
        destination: Ipv4Addr,
        icmp: usize,
        quote: View,
    },
}

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn address_at(bytes: &[u8], at: usize) -> Ipv4Addr {
    Ipv4Addr::from(u32_at(bytes, at))
}

/// The version that a packet says it is of.
pub(crate) fn is_v4(bytes: &[u8]) -> bool {
    bytes.first().is_some_and(|octet| octet >> 4 == 4)
}

impl Kind {
    /// `None` for what this NAT does not translate: other protocols, fragments, nonsense.
    pub(crate) fn of(bytes: &[u8]) -> Option<Self> {
        let transport = transport_at(bytes, 0)?;
        if bytes[9] == ICMP && matches!(bytes[transport], 3 | 4 | 5 | 11 | 12) {
            return Some(Self::Error {
                source: address_at(bytes, 12),
                destination: address_at(bytes, 16),
                icmp: transport,
                quote: View::at(bytes, transport + 8)?,
            });
        }
        let view = View::at(bytes, 0)?;
        let whole = view.protocol != Protocol::Tcp
            || bytes.len() >= transport + 20 && bytes.len() >= view.tcp_options(bytes).end;
        whole.then_some(Self::Flow(view))
    }
}

/// Where the transport's header begins, at least eight octets of which are there (RFC 792).
fn transport_at(bytes: &[u8], ip: usize) -> Option<usize> {
    if bytes.len() < ip + 20 || bytes[ip] >> 4 != 4 || u16_at(bytes, ip + 6) & 0x3fff != 0 {
        return None;
    }
    let header = usize::from(bytes[ip] & 15) * 4;
    (header >= 20 && bytes.len() >= ip + header + 8).then_some(ip + header)
}

impl View {
    fn at(bytes: &[u8], ip: usize) -> Option<Self> {
        let transport = transport_at(bytes, ip)?;
        let (protocol, source, destination, identifier_of) = match bytes[ip + 9] {
            TCP => {
                (Protocol::Tcp, u16_at(bytes, transport), u16_at(bytes, transport + 2), End::Source)
            }
            UDP => {
                (Protocol::Udp, u16_at(bytes, transport), u16_at(bytes, transport + 2), End::Source)
            }
            ICMP if bytes[transport] == 8 => {
                (Protocol::Query, u16_at(bytes, transport + 4), 0, End::Source)
            }
            ICMP if bytes[transport] == 0 => {
                (Protocol::Query, 0, u16_at(bytes, transport + 4), End::Destination)
            }
            _ => return None,
        };
        Some(Self {
            protocol,
            source: SocketAddrV4::new(address_at(bytes, ip + 12), source),
            destination: SocketAddrV4::new(address_at(bytes, ip + 16), destination),
            ip,
            transport,
            identifier_of,
        })
    }

    /// Whether it is an echo request.
    pub(crate) fn asks(&self) -> bool {
        self.protocol == Protocol::Query && self.identifier_of == End::Source
    }

    pub(crate) fn flags(&self, bytes: &[u8]) -> Flags {
        Flags::new(bytes[self.transport + 13])
    }

    /// Gives one end another address and port.
    pub(crate) fn set(&self, bytes: &mut [u8], end: End, to: SocketAddrV4) {
        let (address, port) = match end {
            End::Source => (self.ip + 12, self.transport),
            End::Destination => (self.ip + 16, self.transport + 2),
        };
        let mut sum = Sum::default();
        sum.replace(bytes, address, &to.ip().octets());
        sum.apply(bytes, self.ip + 10);
        match self.protocol {
            Protocol::Tcp | Protocol::Udp => sum.replace(bytes, port, &to.port().to_be_bytes()),
            // Its checksum covers no addresses.
            Protocol::Query => {
                sum = Sum::default();
                if end == self.identifier_of {
                    sum.replace(bytes, self.transport + 4, &to.port().to_be_bytes());
                }
            }
        }
        self.apply(sum, bytes);
    }

    /// Adds to the sequence number.
    pub(crate) fn add_to_seq(&self, bytes: &mut [u8], offset: u32) {
        self.add_at(bytes, self.transport + 4, offset);
    }

    /// Adds to the acknowledgment number, if there is one.
    pub(crate) fn add_to_ack(&self, bytes: &mut [u8], offset: u32) {
        if bytes.len() > self.transport + 13 && self.flags(bytes).ack() {
            self.add_at(bytes, self.transport + 8, offset);
        }
    }

    fn add_at(&self, bytes: &mut [u8], at: usize, offset: u32) {
        if offset == 0 || bytes.len() < at + 4 {
            return;
        }
        let mut sum = Sum::default();
        let number = u32_at(bytes, at).wrapping_add(offset);
        sum.replace(bytes, at, &number.to_be_bytes());
        self.apply(sum, bytes);
    }

    /// Adds to both edges of every SACK block.
    pub(crate) fn add_to_sack(&self, bytes: &mut [u8], offset: u32) {
        const SACK: u8 = 5;
        if offset == 0 {
            return;
        }
        self.edit_options(bytes, |kind, option| {
            if kind == SACK {
                for edge in option[2..].chunks_exact_mut(4) {
                    let number = u32_at(edge, 0).wrapping_add(offset);
                    edge.copy_from_slice(&number.to_be_bytes());
                }
            }
        });
    }

    /// Overwrites every option but the MSS by NOPs.
    pub(crate) fn strip_options(&self, bytes: &mut [u8]) {
        const NOP: u8 = 1;
        const MSS: u8 = 2;
        self.edit_options(bytes, |kind, option| {
            if kind != MSS {
                option.fill(NOP);
            }
        });
    }

    fn tcp_options(&self, bytes: &[u8]) -> std::ops::Range<usize> {
        let header = usize::from(bytes[self.transport + 12] >> 4) * 4;
        self.transport + 20..self.transport + header.max(20)
    }

    fn edit_options(&self, bytes: &mut [u8], edit: impl Fn(u8, &mut [u8])) {
        let range = self.tcp_options(bytes);
        let mut sum = Sum::default();
        sum.take_away(&bytes[range.clone()]);
        let mut at = range.start;
        while at < range.end {
            let len = match bytes[at] {
                0 => break,
                1 => 1,
                _ => match bytes[at + 1..range.end].first() {
                    Some(len) if (2..=range.end - at).contains(&usize::from(*len)) => {
                        usize::from(*len)
                    }
                    _ => break,
                },
            };
            if len > 1 {
                let kind = bytes[at];
                edit(kind, &mut bytes[at..at + len]);
            }
            at += len;
        }
        sum.add(&bytes[range]);
        self.apply(sum, bytes);
    }

    /// Corrects the transport's checksum, where the packet is long enough to have one.
    fn apply(&self, sum: Sum, bytes: &mut [u8]) {
        let at = self.transport
            + match self.protocol {
                Protocol::Tcp => 16,
                Protocol::Udp => 6,
                Protocol::Query => 2,
            };
        // RFC 768: all zeroes say that the sender made none.
        let absent =
            bytes.len() < at + 2 || self.protocol == Protocol::Udp && u16_at(bytes, at) == 0;
        if !absent {
            sum.apply(bytes, at);
            if self.protocol == Protocol::Udp && u16_at(bytes, at) == 0 {
                bytes[at..at + 2].fill(0xff);
            }
        }
    }

    /// Turns an echo request into its answer.
    pub(crate) fn answer_echo(&self, bytes: &mut [u8]) {
        let mut sum = Sum::default();
        sum.replace(bytes, self.transport, &[0, bytes[self.transport + 1]]);
        sum.apply(bytes, self.transport + 2);
        let (source, destination) = (*self.source.ip(), *self.destination.ip());
        // Swapped within one sum: the header's checksum does not change.
        bytes[self.ip + 12..self.ip + 16].copy_from_slice(&destination.octets());
        bytes[self.ip + 16..self.ip + 20].copy_from_slice(&source.octets());
        set_hop_limit(bytes, 64);
    }

    /// Turns a segment into the reset that a closed port answers it with (RFC 9293 section
    /// 3.10.7.1), and returns its length.
    pub(crate) fn answer_reset(&self, bytes: &mut [u8]) -> usize {
        let flags = self.flags(bytes);
        let at = self.transport;
        let payload = bytes.len() - self.tcp_options(bytes).end;
        let taken = payload as u32 + u32::from(flags.syn()) + u32::from(flags.fin());
        let (seq, ack, bits) = if flags.ack() {
            (u32_at(bytes, at + 8), 0, 4)
        } else {
            (0, u32_at(bytes, at + 4).wrapping_add(taken), 4 + 16)
        };
        let len = at + 20;
        for (at, end) in [(0, self.destination), (2, self.source)] {
            bytes[self.transport + at..][..2].copy_from_slice(&end.port().to_be_bytes());
        }
        bytes[at + 4..at + 8].copy_from_slice(&seq.to_be_bytes());
        bytes[at + 8..at + 12].copy_from_slice(&ack.to_be_bytes());
        bytes[at + 12..at + 20].copy_from_slice(&[5 << 4, bits, 0, 0, 0, 0, 0, 0]);
        bytes[12..16].copy_from_slice(&self.destination.ip().octets());
        bytes[16..20].copy_from_slice(&self.source.ip().octets());
        bytes[2..4].copy_from_slice(&(len as u16).to_be_bytes());
        bytes[8] = 64;
        bytes[10..12].fill(0);
        let mut header = Sum::default();
        header.add(&bytes[..at]);
        bytes[10..12].copy_from_slice(&header.checksum());
        let mut segment = Sum::default();
        segment.add(&bytes[12..20]);
        segment.add(&[0, TCP, 0, 20]);
        segment.add(&bytes[at..len]);
        bytes[at + 16..at + 18].copy_from_slice(&segment.checksum());
        len
    }
}

/// Gives an error another address at one end, and a right checksum to the message, whose quote has
/// been changed.
pub(crate) fn set_error(bytes: &mut [u8], end: End, to: Ipv4Addr, icmp: usize) {
    let at = if end == End::Source { 12 } else { 16 };
    let mut sum = Sum::default();
    sum.replace(bytes, at, &to.octets());
    sum.apply(bytes, 10);
    bytes[icmp + 2..icmp + 4].fill(0);
    let mut message = Sum::default();
    message.add(&bytes[icmp..]);
    bytes[icmp + 2..icmp + 4].copy_from_slice(&message.checksum());
}

fn set_hop_limit(bytes: &mut [u8], to: u8) {
    let mut sum = Sum::default();
    sum.replace(bytes, 8, &[to, bytes[9]]);
    sum.apply(bytes, 10);
}

#[cfg(test)]
mod tests {
    use etherparse::{IpNumber, PacketBuilder, SlicedPacket, TcpOptionElement, TransportSlice};

    use super::*;

    const INSIDE: [u8; 4] = [192, 168, 1, 2];
    const REMOTE: [u8; 4] = [203, 0, 113, 1];
    const EXTERNAL: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 51, 100, 1), 61_234);

    /// Every checksum is what it would be if the packet had been built like this.
    pub(crate) fn assert_checksums(bytes: &[u8]) {
        let sliced = SlicedPacket::from_ip(bytes).unwrap();
        let Some(etherparse::NetSlice::Ipv4(ip)) = &sliced.net else { panic!("{sliced:?}") };
        let header = ip.header().to_header();
        assert_eq!(header.header_checksum, header.calc_header_checksum());
        match sliced.transport.unwrap() {
            TransportSlice::Tcp(tcp) => {
                let right = tcp.calc_checksum_ipv4(header.source, header.destination);
                assert_eq!(Ok(tcp.checksum()), right);
            }
            TransportSlice::Udp(udp) => {
                let right = udp.to_header().calc_checksum_ipv4_raw(
                    header.source,
                    header.destination,
                    udp.payload(),
                );
                assert_eq!(Ok(udp.checksum()), right);
            }
            TransportSlice::Icmpv4(icmp) => {
                assert_eq!(header.protocol, IpNumber::ICMP);
                let right = icmp.icmp_type().calc_checksum(icmp.payload());
                assert_eq!(icmp.checksum(), right);
            }
            TransportSlice::Icmpv6(_) | TransportSlice::Igmp(_) => panic!("not here"),
        }
    }

    fn view(bytes: &[u8]) -> View {
        match Kind::of(bytes) {
            Some(Kind::Flow(view)) => view,
            other => panic!("{other:?}"),
        }
    }

    fn segment(options: &[TcpOptionElement]) -> Vec<u8> {
        let mut bytes = Vec::new();
        PacketBuilder::ipv4(INSIDE, REMOTE, 64)
            .tcp(40_000, 443, 0xffff_fff0, 65_535)
            .ack(77)
            .options(options)
            .unwrap()
            .write(&mut bytes, b"odd")
            .unwrap();
        bytes
    }

    #[test]
    fn both_ends_of_every_protocol() {
        let mut datagram = Vec::new();
        PacketBuilder::ipv4(INSIDE, REMOTE, 64)
            .udp(40_000, 9)
            .write(&mut datagram, b"odd")
            .unwrap();
        let mut query = Vec::new();
        PacketBuilder::ipv4(INSIDE, REMOTE, 64)
            .icmpv4_echo_request(40_000, 1)
            .write(&mut query, b"odd")
            .unwrap();
        for mut bytes in [segment(&[]), datagram, query] {
            let there = view(&bytes);
            assert_eq!(there.source, SocketAddrV4::new(INSIDE.into(), 40_000));
            there.set(&mut bytes, End::Source, EXTERNAL);
            assert_checksums(&bytes);
            assert_eq!(view(&bytes).source, EXTERNAL);
            there.set(&mut bytes, End::Destination, there.source);
            assert_checksums(&bytes);
        }
    }

    #[test]
    fn numbers_wrap_and_sack_follows() {
        let sack =
            TcpOptionElement::SelectiveAcknowledgement((10, 20), [Some((30, 40)), None, None]);
        // An odd place is allowed, and the checksum right there too.
        for before in [vec![], vec![TcpOptionElement::Noop]] {
            let mut bytes = segment(&[before, vec![sack.clone()]].concat());
            let it = view(&bytes);
            it.add_to_seq(&mut bytes, 0x20);
            it.add_to_ack(&mut bytes, 0x20_u32.wrapping_neg());
            it.add_to_sack(&mut bytes, 5);
            assert_checksums(&bytes);
            let sliced = SlicedPacket::from_ip(&bytes).unwrap();
            let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { panic!() };
            assert_eq!(tcp.sequence_number(), 0x10);
            assert_eq!(tcp.acknowledgment_number(), 77 - 0x20);
            let moved =
                TcpOptionElement::SelectiveAcknowledgement((15, 25), [Some((35, 45)), None, None]);
            assert!(tcp.options_iterator().any(|option| option == Ok(moved.clone())));
        }
    }

    #[test]
    fn only_the_mss_is_left() {
        let mut bytes = segment(&[
            TcpOptionElement::Timestamp(1, 2),
            TcpOptionElement::MaximumSegmentSize(1460),
            TcpOptionElement::WindowScale(7),
            TcpOptionElement::SelectiveAcknowledgementPermitted,
        ]);
        view(&bytes).strip_options(&mut bytes);
        assert_checksums(&bytes);
        let sliced = SlicedPacket::from_ip(&bytes).unwrap();
        let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { panic!() };
        let left: Vec<_> = tcp.options_iterator().map(Result::unwrap).collect();
        assert!(left.contains(&TcpOptionElement::MaximumSegmentSize(1460)));
        assert!(left.iter().all(|option| matches!(
            option,
            TcpOptionElement::MaximumSegmentSize(_) | TcpOptionElement::Noop
        )));
    }

    #[test]
    fn options_that_lie_about_their_length_do_no_harm() {
        let mut bytes = segment(&[TcpOptionElement::Timestamp(1, 2)]);
        for len in [0, 1, 11, 255] {
            bytes[41] = len;
            view(&bytes).strip_options(&mut bytes);
            view(&bytes).add_to_sack(&mut bytes, 5);
        }
        bytes[40 - 8] = 0xf0;
        assert_eq!(Kind::of(&bytes), None, "a header longer than its packet");
        for len in 0..bytes.len() {
            let _ = Kind::of(&bytes[..len]);
        }
    }

    #[test]
    fn a_reset_answers_as_a_closed_port_does() {
        let mut bytes = segment(&[TcpOptionElement::Timestamp(1, 2)]);
        let len = view(&bytes).answer_reset(&mut bytes);
        bytes.truncate(len);
        assert_checksums(&bytes);
        let sliced = SlicedPacket::from_ip(&bytes).unwrap();
        let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { panic!() };
        assert_eq!((tcp.source_port(), tcp.destination_port()), (443, 40_000));
        assert!(tcp.rst() && !tcp.ack());
        assert_eq!(tcp.sequence_number(), 77);
    }

    #[test]
    fn an_echo_is_answered() {
        let mut bytes = Vec::new();
        PacketBuilder::ipv4(INSIDE, REMOTE, 5)
            .icmpv4_echo_request(7, 1)
            .write(&mut bytes, b"payload")
            .unwrap();
        let it = view(&bytes);
        assert!(it.asks());
        it.answer_echo(&mut bytes);
        assert_checksums(&bytes);
        assert!(!view(&bytes).asks());
        assert_eq!(view(&bytes).destination, SocketAddrV4::new(INSIDE.into(), 7));
    }
}
