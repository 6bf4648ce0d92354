//! Where an end can be reached.

use crate::wire::{Nonsense, Scope};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// What a candidate is, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CandidateKind {
    /// The host's own address in its own network: for a peer in the same one.
    Lan,
    /// The host's own IPv6 address: no translation, perhaps a firewall.
    Ipv6,
    /// What a router mapped because it was asked to (PCP, NAT-PMP, UPnP-IGD).
    Mapped,
    /// Where a server sees the host's connections come from.
    Reflexive,
}

impl CandidateKind {
    pub(super) const ALL: [Self; 4] = [Self::Lan, Self::Ipv6, Self::Mapped, Self::Reflexive];
}

impl fmt::Display for CandidateKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lan => "local network",
            Self::Ipv6 => "IPv6",
            Self::Mapped => "port mapping",
            Self::Reflexive => "reflexive",
        })
    }
}

/// An endpoint at which a peer may reach an end, and from where that end sends. Ordered best
/// first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Candidate {
    kind: CandidateKind,
    address: SocketAddr,
    base: SocketAddr,
}

impl Candidate {
    /// A candidate; addresses that cannot be a host's, or a host's to another, are refused.
    ///
    /// # Errors
    /// [`Nonsense`].
    pub fn new(
        kind: CandidateKind,
        address: SocketAddr,
        base: SocketAddr,
    ) -> Result<Self, Nonsense> {
        let (address, base) = (checked(address)?, checked(base)?);
        if address.is_ipv4() != base.is_ipv4() {
            return Err(Nonsense::OtherFamily);
        }
        Ok(Self { kind, address, base })
    }

    /// What it is.
    pub fn kind(&self) -> CandidateKind {
        self.kind
    }

    /// Where the peer aims.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where the end itself sends from, before any translation.
    pub fn base(&self) -> SocketAddr {
        self.base
    }
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.address, self.kind)
    }
}

/// As it travels: without the IPv6 zone, which means something to one host only.
fn checked(address: SocketAddr) -> Result<SocketAddr, Nonsense> {
    let address = SocketAddr::new(address.ip().to_canonical(), address.port());
    let scope = Scope::of(address.ip());
    match Nonsense::of(address, address) {
        Some(why) => Err(why),
        None if scope == Scope::Loopback => Err(Nonsense::NarrowerScope(scope)),
        // A link-local IPv6 address says nothing without its zone.
        None if scope == Scope::Link && address.is_ipv6() => Err(Nonsense::NarrowerScope(scope)),
        None => Ok(address),
    }
}

/// How many leading bits two addresses have in common; 0 across families.
pub(super) fn common_prefix(one: IpAddr, other: IpAddr) -> u32 {
    match (one, other) {
        (IpAddr::V4(one), IpAddr::V4(other)) => (one.to_bits() ^ other.to_bits()).leading_zeros(),
        (IpAddr::V6(one), IpAddr::V6(other)) => (one.to_bits() ^ other.to_bits()).leading_zeros(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(address: &str, base: &str) -> Result<Candidate, Nonsense> {
        Candidate::new(CandidateKind::Lan, address.parse().unwrap(), base.parse().unwrap())
    }

    #[test]
    fn addresses_of_nobody_are_refused() {
        let loopback = Nonsense::NarrowerScope(Scope::Loopback);
        for (address, why) in [
            ("0.0.0.0:1", Nonsense::NoHost),
            ("224.0.0.1:1", Nonsense::NoHost),
            ("255.255.255.255:1", Nonsense::NoHost),
            ("127.0.0.1:1", loopback),
            ("192.0.2.1:0", Nonsense::NoPort),
        ] {
            assert_eq!(candidate(address, "192.168.1.2:1"), Err(why), "{address}");
            assert_eq!(candidate("192.168.1.2:1", address), Err(why), "{address}");
        }
        for (address, why) in [
            ("[::]:1", Nonsense::NoHost),
            ("[ff02::1]:1", Nonsense::NoHost),
            ("[::1]:1", loopback),
            ("[fe80::1]:1", Nonsense::NarrowerScope(Scope::Link)),
            ("192.0.2.1:1", Nonsense::OtherFamily),
        ] {
            assert_eq!(candidate(address, "[2001:db8::1]:1"), Err(why), "{address}");
        }
    }

    #[test]
    fn an_address_in_the_other_ones_clothes_is_taken_for_itself() {
        let plain = candidate("203.0.113.7:40000", "192.168.1.2:40000");
        assert_eq!(candidate("[::ffff:203.0.113.7]:40000", "[::ffff:192.168.1.2]:40000"), plain);
    }
}
