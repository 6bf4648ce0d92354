//! What a router on the way does: count the hop limit down, and say so when it reaches zero.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::icmpv4::{DestUnreachableHeader as UnreachableV4, TimeExceededCode as ExceededV4};
use etherparse::icmpv6::{DestUnreachableCode as UnreachableV6, TimeExceededCode as ExceededV6};
use etherparse::{Icmpv4Type, Icmpv6Type, PacketBuilder};

use crate::packet::Packet;

/// Length of a whole error over IPv4 (RFC 1812 section 4.3.2.3) and over IPv6 (RFC 4443 section
/// 2.4 (c): the minimum MTU).
const MAX_ERROR_V4: usize = 576;
const MAX_ERROR_V6: usize = 1280;
const ICMP_HEADERS_V4: usize = 20 + 8;
const ICMP_HEADERS_V6: usize = 40 + 8;

/// The hop limit that routers start with.
const HOP_LIMIT: u8 = 64;

/// Why a packet went no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    TimeExceeded,
    NoRoute,
    PortUnreachable,
}

/// Takes `count` off the hop limit, which must be greater, and keeps the checksum right.
pub(crate) fn count_down(packet: &mut Packet, count: u8) {
    let bytes = packet.bytes_mut();
    match bytes.first().map(|byte| byte >> 4) {
        Some(4) if bytes.len() >= 20 => {
            bytes[8] -= count;
            // RFC 1624: the hop limit is the upper half of its 16-bit word, so the sum of words
            // fell by count * 256 and its complement rises by as much, carry put back in.
            let sum = u32::from(u16::from_be_bytes([bytes[10], bytes[11]]));
            let sum = sum + (u32::from(count) << 8);
            let sum = (sum & 0xffff) + (sum >> 16);
            bytes[10..12].copy_from_slice(&(sum as u16).to_be_bytes());
        }
        Some(6) if bytes.len() >= 40 => bytes[7] -= count,
        _ => {}
    }
}

/// The address that router `number` of the wide area network answers from.
pub(crate) fn address(number: u8, to: IpAddr) -> IpAddr {
    match to {
        IpAddr::V4(_) => Ipv4Addr::new(192, 0, 2, number).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, number.into()).into(),
    }
}

/// Writes the ICMP error about `refused` to its sender `to`, from a router `distance` hops away
/// from where it enters the sender's own router. Fails only for mixed IP versions.
pub(crate) fn answer(
    refusal: Refusal,
    refused: &[u8],
    router: IpAddr,
    to: IpAddr,
    distance: u8,
    error: &mut Packet,
) -> Option<()> {
    let hop_limit = HOP_LIMIT.saturating_sub(distance.saturating_sub(1));
    let room = error.room_mut();
    let mut writer = &mut room[..];
    let before = writer.len();
    match (router, to) {
        (IpAddr::V4(router), IpAddr::V4(to)) => {
            let quote = &refused[..refused.len().min(MAX_ERROR_V4 - ICMP_HEADERS_V4)];
            let kind = match refusal {
                Refusal::TimeExceeded => Icmpv4Type::TimeExceeded(ExceededV4::TtlExceededInTransit),
                Refusal::NoRoute => Icmpv4Type::DestinationUnreachable(UnreachableV4::Network),
                Refusal::PortUnreachable => Icmpv4Type::DestinationUnreachable(UnreachableV4::Port),
            };
            PacketBuilder::ipv4(router.octets(), to.octets(), hop_limit)
                .icmpv4(kind)
                .write(&mut writer, quote)
                .ok()?;
        }
        (IpAddr::V6(router), IpAddr::V6(to)) => {
            let quote = &refused[..refused.len().min(MAX_ERROR_V6 - ICMP_HEADERS_V6)];
            let kind = match refusal {
                Refusal::TimeExceeded => Icmpv6Type::TimeExceeded(ExceededV6::HopLimitExceeded),
                Refusal::NoRoute => Icmpv6Type::DestinationUnreachable(UnreachableV6::NoRoute),
                Refusal::PortUnreachable => Icmpv6Type::DestinationUnreachable(UnreachableV6::Port),
            };
            PacketBuilder::ipv6(router.octets(), to.octets(), hop_limit)
                .icmpv6(kind)
                .write(&mut writer, quote)
                .ok()?;
        }
        _ => return None,
    }
    let written = before - writer.len();
    error.set_len(written);
    Some(())
}

#[cfg(test)]
mod tests {
    use etherparse::{Ipv4HeaderSlice, PacketHeaders};

    use super::*;

    fn syn(ttl: u8) -> Packet {
        crate::packet::syn([198, 51, 100, 1], [203, 0, 113, 1], ttl)
    }

    #[test]
    fn the_checksum_stays_right() {
        for ttl in 2..=255 {
            for count in 1..ttl {
                let mut packet = syn(ttl);
                count_down(&mut packet, count);
                let header = Ipv4HeaderSlice::from_slice(packet.bytes()).unwrap().to_header();
                assert_eq!(header.time_to_live, ttl - count);
                assert_eq!(header.header_checksum, header.calc_header_checksum());
            }
        }
    }

    #[test]
    fn an_error_quotes_what_it_is_about() {
        let refused = syn(1);
        let mut error = Packet::new();
        answer(
            Refusal::TimeExceeded,
            refused.bytes(),
            [192, 0, 2, 2].into(),
            [198, 51, 100, 1].into(),
            2,
            &mut error,
        )
        .unwrap();
        let headers = PacketHeaders::from_ip_slice(error.bytes()).unwrap();
        assert_eq!(headers.payload.slice(), refused.bytes());
        let summary = error.summary().unwrap();
        assert_eq!(summary.source, IpAddr::from([192, 0, 2, 2]));
        assert_eq!(summary.destination, IpAddr::from([198, 51, 100, 1]));
        assert_eq!(summary.hop_limit, 63);
        assert!(!summary.may_be_answered);
    }
}
