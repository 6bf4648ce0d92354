//! ICMP errors and the packet that each quotes; echo requests that measure a path.

use super::Tuple;
use etherparse::{
    IcmpEchoHeader, Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, IpNumber, Ipv4Header,
    Ipv6Header, LaxNetSlice, LaxSlicedPacket, TransportSlice,
};
use std::net::{IpAddr, SocketAddr};

/// An ICMP message that concerns an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Icmp {
    /// Who sent it.
    pub from: IpAddr,
    /// Hop limit with which it arrived.
    pub hop_limit: u8,
    /// What it says.
    pub kind: IcmpKind,
    /// What it answers.
    pub about: Quote,
}

/// What an ICMP message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcmpKind {
    /// The quoted packet's hop limit ran out at the sender.
    TimeExceeded,
    /// The quoted packet could not be delivered; the code of RFC 792 or RFC 4443.
    Unreachable(u8),
    /// An echo request reached its destination.
    EchoReply,
}

/// The packet that an ICMP message quotes, as far as it can be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quote {
    /// A TCP segment between these endpoints, as its sender (this host) sent it.
    Tcp(Tuple),
    /// An echo request with this identifier and sequence number.
    Echo {
        /// Identifier of the run of probes.
        id: u16,
        /// Sequence number of the probe.
        seq: u16,
    },
}

impl Icmp {
    /// Reads an IP packet that starts at its IP header; `None` for everything but an error about
    /// a TCP segment or an echo request, or an echo reply.
    pub fn parse(packet: &[u8]) -> Option<Self> {
        let sliced = LaxSlicedPacket::from_ip(packet).ok()?;
        let (from, hop_limit) = match sliced.net.as_ref()? {
            LaxNetSlice::Ipv4(ip) => (IpAddr::V4(ip.header().source_addr()), ip.header().ttl()),
            LaxNetSlice::Ipv6(ip) => {
                (IpAddr::V6(ip.header().source_addr()), ip.header().hop_limit())
            }
            LaxNetSlice::Arp(_) => return None,
        };
        let (kind, quoted) = match sliced.transport.as_ref()? {
            TransportSlice::Icmpv4(icmp) => match icmp.icmp_type() {
                Icmpv4Type::TimeExceeded(_) => (IcmpKind::TimeExceeded, icmp.payload()),
                Icmpv4Type::DestinationUnreachable(_) => {
                    (IcmpKind::Unreachable(icmp.code_u8()), icmp.payload())
                }
                Icmpv4Type::EchoReply(echo) => {
                    return Some(Self::echo_reply(from, hop_limit, echo));
                }
                _ => return None,
            },
            TransportSlice::Icmpv6(icmp) => match icmp.icmp_type() {
                Icmpv6Type::TimeExceeded(_) => (IcmpKind::TimeExceeded, icmp.payload()),
                Icmpv6Type::DestinationUnreachable(_) => {
                    (IcmpKind::Unreachable(icmp.code_u8()), icmp.payload())
                }
                Icmpv6Type::EchoReply(echo) => {
                    return Some(Self::echo_reply(from, hop_limit, echo));
                }
                _ => return None,
            },
            _ => return None,
        };
        Some(Self { from, hop_limit, kind, about: Quote::parse(quoted)? })
    }

    fn echo_reply(from: IpAddr, hop_limit: u8, echo: IcmpEchoHeader) -> Self {
        let about = Quote::Echo { id: echo.id, seq: echo.seq };
        Self { from, hop_limit, kind: IcmpKind::EchoReply, about }
    }
}

impl Quote {
    /// A quote may stop after eight bytes of the quoted payload (RFC 792): ports, but no whole
    /// TCP header, so those are read by hand.
    fn parse(quoted: &[u8]) -> Option<Self> {
        let (source, destination, protocol, rest): (IpAddr, IpAddr, _, _) =
            match quoted.first()? >> 4 {
                4 => {
                    let (ip, rest) = Ipv4Header::from_slice(quoted).ok()?;
                    (ip.source.into(), ip.destination.into(), ip.protocol, rest)
                }
                6 => {
                    let (ip, rest) = Ipv6Header::from_slice(quoted).ok()?;
                    (ip.source.into(), ip.destination.into(), ip.next_header, rest)
                }
                _ => return None,
            };
        let field = |at: usize| Some(u16::from_be_bytes([*rest.get(at)?, *rest.get(at + 1)?]));
        match protocol {
            IpNumber::TCP => Some(Self::Tcp(Tuple {
                local: SocketAddr::new(source, field(0)?),
                remote: SocketAddr::new(destination, field(2)?),
            })),
            IpNumber::ICMP | IpNumber::IPV6_ICMP => {
                Some(Self::Echo { id: field(4)?, seq: field(6)? })
            }
            _ => None,
        }
    }
}

/// An echo request from `source` to `destination` as a whole IP packet: a probe that no TCP
/// mapping sees. Addresses of unlike versions give an empty packet.
pub fn echo_request(
    source: IpAddr,
    destination: IpAddr,
    hop_limit: u8,
    id: u16,
    seq: u16,
) -> Vec<u8> {
    // As long as a SYN with its options, so that sending it costs what sending a SYN costs.
    const PAYLOAD: [u8; 32] = [0; 32];
    let echo = IcmpEchoHeader { id, seq };
    let mut packet = Vec::with_capacity(80);
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut ip = Ipv4Header {
                total_len: 60,
                time_to_live: hop_limit,
                protocol: IpNumber::ICMP,
                source: source.octets(),
                destination: destination.octets(),
                dont_fragment: true,
                ..Ipv4Header::default()
            };
            ip.header_checksum = ip.calc_header_checksum();
            packet.extend_from_slice(&ip.to_bytes());
            let icmp = Icmpv4Header::with_checksum(Icmpv4Type::EchoRequest(echo), &PAYLOAD);
            packet.extend_from_slice(&icmp.to_bytes());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let ip = Ipv6Header {
                payload_length: 40,
                next_header: IpNumber::IPV6_ICMP,
                hop_limit,
                source: source.octets(),
                destination: destination.octets(),
                ..Ipv6Header::default()
            };
            packet.extend_from_slice(&ip.to_bytes());
            let kind = Icmpv6Type::EchoRequest(echo);
            // Only a payload of more than 4 GiB has no checksum.
            let icmp = Icmpv6Header::with_checksum(kind, ip.source, ip.destination, &PAYLOAD).ok();
            packet.extend_from_slice(&icmp.map(|icmp| icmp.to_bytes()).unwrap_or_default());
        }
        _ => return Vec::new(),
    }
    packet.extend_from_slice(&PAYLOAD);
    packet
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn time_exceeded_v4(quoted: &[u8]) -> Vec<u8> {
        let mut packet = Vec::new();
        let mut ip = Ipv4Header {
            total_len: u16::try_from(28 + quoted.len()).unwrap(),
            time_to_live: 63,
            protocol: IpNumber::ICMP,
            source: [192, 0, 2, 1],
            destination: [192, 168, 1, 2],
            ..Ipv4Header::default()
        };
        ip.header_checksum = ip.calc_header_checksum();
        packet.extend_from_slice(&ip.to_bytes());
        let kind =
            Icmpv4Type::TimeExceeded(etherparse::icmpv4::TimeExceededCode::TtlExceededInTransit);
        packet.extend_from_slice(&Icmpv4Header::with_checksum(kind, quoted).to_bytes());
        packet.extend_from_slice(quoted);
        packet
    }

    #[test]
    fn an_error_that_quotes_eight_bytes_of_tcp_names_the_tuple() {
        let mut quoted = Ipv4Header {
            total_len: 60,
            protocol: IpNumber::TCP,
            source: [192, 168, 1, 2],
            destination: [203, 0, 113, 1],
            ..Ipv4Header::default()
        }
        .to_bytes()
        .to_vec();
        quoted.extend_from_slice(&[0x9c, 0x40, 0x9c, 0x41, 0, 0, 0, 1]);
        let icmp = Icmp::parse(&time_exceeded_v4(&quoted)).unwrap();
        assert_eq!(icmp.kind, IcmpKind::TimeExceeded);
        assert_eq!(icmp.from, IpAddr::from([192, 0, 2, 1]));
        let Quote::Tcp(tuple) = icmp.about else { panic!("{icmp:?}") };
        assert_eq!(tuple.to_string(), "192.168.1.2:40000 > 203.0.113.1:40001");
    }

    #[test]
    fn an_error_about_a_probe_names_the_probe() {
        let probe = echo_request([192, 168, 1, 2].into(), [203, 0, 113, 1].into(), 3, 77, 3);
        let icmp = Icmp::parse(&time_exceeded_v4(&probe)).unwrap();
        assert_eq!(icmp.about, Quote::Echo { id: 77, seq: 3 });
    }

    #[test]
    fn an_echo_request_is_as_long_as_a_syn() {
        let v6 = echo_request(
            "2001:db8:a::2".parse().unwrap(),
            "2001:db8:b::2".parse().unwrap(),
            3,
            1,
            2,
        );
        assert_eq!(v6.len(), 80);
        let v4 = echo_request([192, 168, 1, 2].into(), [203, 0, 113, 1].into(), 3, 1, 2);
        assert_eq!(v4.len(), 60);
    }

    proptest! {
        #[test]
        fn no_bytes_make_parse_panic(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            let _ = Icmp::parse(&bytes);
            let _ = Icmp::parse(&time_exceeded_v4(&bytes));
        }
    }
}
