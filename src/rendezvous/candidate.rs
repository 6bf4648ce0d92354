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
