//! The routers between this host and the peer, as probes with rising hop limits see them, and
//! the hop limit of an opener that follows from them.

use crate::wire::{Icmp, IcmpKind};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// What probes with rising hop limits have drawn.
#[derive(Clone, Debug)]
pub struct Path {
    local: IpAddr,
    hops: BTreeMap<u8, IpAddr>,
    peer_at: Option<u8>,
}

/// Why no hop limit lets a packet open our routers without reaching the peer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoOpener {
    /// Nobody answered a probe, so the distance to the peer is unknown.
    #[error("nobody on the way answered a probe")]
    Silent,
    /// The peer is reached before any hop that could keep an opener from it.
    #[error("no hop lies between the outermost NAT and the peer")]
    TooNear,
}

impl Path {
    /// Nothing known yet on the way from `local`.
    pub fn new(local: IpAddr) -> Self {
        Self { local, hops: BTreeMap::new(), peer_at: None }
    }

    /// What a probe with hop limit `ttl` drew.
    pub fn observe(&mut self, ttl: u8, answer: &Icmp) {
        match answer.kind {
            IcmpKind::TimeExceeded => {
                self.hops.insert(ttl, answer.from);
            }
            IcmpKind::EchoReply | IcmpKind::Unreachable(_) => {
                self.peer_at = Some(self.peer_at.map_or(ttl, |known| known.min(ttl)));
            }
        }
    }

    /// The hop limit at which the peer itself (or its router) answers, if it does.
    pub fn peer_distance(&self) -> Option<u8> {
        self.peer_at
    }

    /// Routers that answered, nearest first.
    pub fn hops(&self) -> impl Iterator<Item = (u8, IpAddr)> + '_ {
        self.hops.iter().map(|(ttl, from)| (*ttl, *from))
    }

    /// NATs on our side as addresses betray them: one if ours is not a public one, another if a
    /// hop stands in the address space that RFC 6598 gives to carrier-grade NAT.
    pub fn nats_on_path(&self) -> u8 {
        let behind_nat = matches!(self.local, IpAddr::V4(_)) && is_inside(self.local);
        let behind_cgn = self.hops.values().any(|hop| is_shared(*hop)) && !is_shared(self.local);
        u8::from(behind_nat) + u8::from(behind_cgn)
    }

    /// The hop limit of an opener: it dies at the first hop past our outermost NAT, and before
    /// the peer.
    ///
    /// The first hop that answers from a public address is past every NAT of ours; the first hop
    /// of all may be the NAT itself whatever its address, hence never 1. A packet whose hop limit
    /// runs out *at* the NAT leaves no mapping. Where every hop has a private address, as inside a
    /// company, the last one before the peer is past our NATs if any is.
    ///
    /// # Errors
    /// [`NoOpener`] when no hop limit is known to do both.
    pub fn opener_hop_limit(&self) -> Result<u8, NoOpener> {
        // Without an answer from the peer, every hop that answered is known to be nearer than it.
        let furthest = self.hops.keys().next_back().map(|furthest| furthest + 1);
        let peer_at = self.peer_at.or(furthest).ok_or(NoOpener::Silent)?;
        let first_public =
            self.hops.iter().find(|(_, from)| !is_inside(**from)).map(|(ttl, _)| *ttl);
        let past_nat = first_public.unwrap_or(peer_at.saturating_sub(1)).max(2);
        if past_nat < peer_at { Ok(past_nat) } else { Err(NoOpener::TooNear) }
    }
}

/// Addresses that no router of the public network answers from: RFC 1918, RFC 6598, RFC 3927,
/// RFC 4193, and the like.
fn is_inside(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            v4.is_private() || v4.is_link_local() || v4.is_loopback() || is_shared(address)
        }
        IpAddr::V6(v6) => v6.is_unique_local() || v6.is_unicast_link_local() || v6.is_loopback(),
    }
}

/// 100.64.0.0/10, RFC 6598.
fn is_shared(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(v4) if v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Quote;

    fn path(local: &str, hops: &[(u8, &str)], peer_at: Option<u8>) -> Path {
        let mut path = Path::new(local.parse().unwrap());
        let answer = |from: &str, kind| Icmp {
            from: from.parse().unwrap(),
            hop_limit: 60,
            kind,
            about: Quote::Echo { id: 1, seq: 1 },
        };
        for (ttl, from) in hops {
            path.observe(*ttl, &answer(from, IcmpKind::TimeExceeded));
        }
        for ttl in peer_at.into_iter().flat_map(|at| at..at + 3) {
            path.observe(ttl, &answer("203.0.113.1", IcmpKind::EchoReply));
        }
        path
    }

    #[test]
    fn behind_one_nat_the_opener_dies_at_the_second_hop() {
        let path =
            path("192.168.1.2", &[(1, "192.168.1.1"), (2, "192.0.2.1"), (3, "192.0.2.2")], Some(5));
        assert_eq!(path.opener_hop_limit(), Ok(2));
        assert_eq!(path.nats_on_path(), 1);
    }

    #[test]
    fn behind_a_carrier_grade_nat_it_dies_past_the_carriers_router() {
        let hops = [
            (1, "192.168.1.1"),
            (2, "100.64.0.1"),
            (3, "10.9.8.7"),
            (4, "192.0.2.1"),
            (5, "192.0.2.2"),
        ];
        let path = path("192.168.1.2", &hops, Some(8));
        assert_eq!(path.opener_hop_limit(), Ok(4));
        assert_eq!(path.nats_on_path(), 2);
    }

    #[test]
    fn a_first_hop_with_a_public_address_may_itself_be_the_nat() {
        let path = path("192.168.1.2", &[(1, "198.51.100.1"), (2, "192.0.2.1")], None);
        assert_eq!(path.opener_hop_limit(), Ok(2));
    }

    #[test]
    fn an_unanswered_hop_is_stepped_over() {
        let path = path("192.168.1.2", &[(3, "192.0.2.2"), (4, "192.0.2.3")], None);
        assert_eq!(path.opener_hop_limit(), Ok(3));
    }

    #[test]
    fn an_opener_never_has_the_hop_limit_that_reaches_the_peer() {
        let private_all_the_way =
            path("192.168.1.2", &[(1, "192.168.1.1"), (2, "10.1.0.1"), (3, "10.2.0.1")], Some(4));
        assert_eq!(private_all_the_way.opener_hop_limit(), Ok(3));
        let two_routers_face_to_face = path("192.168.1.2", &[(1, "192.168.1.1")], Some(2));
        assert_eq!(two_routers_face_to_face.opener_hop_limit(), Err(NoOpener::TooNear));
        let peer_silent = path("192.168.1.2", &[(1, "192.168.1.1")], None);
        assert_eq!(peer_silent.opener_hop_limit(), Err(NoOpener::TooNear));
        assert_eq!(path("192.168.1.2", &[], None).opener_hop_limit(), Err(NoOpener::Silent));
        assert_eq!(path("192.168.1.2", &[], Some(2)).opener_hop_limit(), Err(NoOpener::TooNear));
        assert_eq!(path("192.168.1.2", &[], Some(9)).opener_hop_limit(), Ok(8), "just before it");
    }

    #[test]
    fn a_stateful_ipv6_firewall_is_opened_at_the_hop_behind_it() {
        let hops = [(1, "2001:db8:a::1"), (2, "2001:db8:ffff::1"), (3, "2001:db8:ffff::2")];
        let path = path("2001:db8:a::2", &hops, Some(5));
        assert_eq!(path.opener_hop_limit(), Ok(2));
        assert_eq!(path.nats_on_path(), 0);
    }
}
