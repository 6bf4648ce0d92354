//! What is asked of the router.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::time::Duration;

/// A request for a mapping, after which `PortMapping` asks.
#[derive(Clone, Debug)]
pub struct MapRequest {
    pub(super) local: SocketAddr,
    pub(super) external_port: Option<NonZeroU16>,
    pub(super) lifetime: Duration,
    pub(super) gateway: Option<Ipv4Addr>,
    pub(super) destination: Ipv4Addr,
    pub(super) patience: Duration,
    pub(super) protocols: Vec<MappingProtocol>,
}

/// How a router is asked for a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MappingProtocol {
    /// Port Control Protocol, RFC 6887.
    Pcp,
    /// NAT Port Mapping Protocol, RFC 6886.
    NatPmp,
    /// UPnP Internet Gateway Device.
    UpnpIgd,
}

impl MappingProtocol {
    /// Every one, best first.
    pub const ALL: [Self; 3] = [Self::Pcp, Self::NatPmp, Self::UpnpIgd];
}

impl std::fmt::Display for MappingProtocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Pcp => "PCP",
            Self::NatPmp => "NAT-PMP",
            Self::UpnpIgd => "UPnP-IGD",
        })
    }
}

/// What nobody takes back ends after that. RFC 6887 section 15 has servers keep a mapping for two
/// minutes at least.
const LIFETIME: Duration = Duration::from_secs(120);

/// A router on the local network answers within a few milliseconds, and a small one, whose UPnP
/// program is slow, within a tenth of a second.
const PATIENCE: Duration = Duration::from_millis(250);

/// Stands for the internet where no destination is named: TEST-NET-1 (RFC 5737), to which nothing
/// is sent.
const ANYWHERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

impl MapRequest {
    /// For TCP to `local`, this host's address and port: for two minutes, from the router on the
    /// way out, which has 250 ms.
    #[must_use]
    pub fn new(local: SocketAddr) -> Self {
        Self {
            local,
            external_port: NonZeroU16::new(local.port()),
            lifetime: LIFETIME,
            gateway: None,
            destination: ANYWHERE,
            patience: PATIENCE,
            protocols: MappingProtocol::ALL.into(),
        }
    }

    /// Suggests a port of the router; by default it is the local one. It may choose another.
    #[must_use]
    pub fn external_port(mut self, port: NonZeroU16) -> Self {
        self.external_port = Some(port);
        self
    }

    /// How long it lasts unless it is renewed, in whole seconds. The router may choose otherwise.
    #[must_use]
    pub fn lifetime(mut self, lifetime: Duration) -> Self {
        self.lifetime = lifetime;
        self
    }

    /// Asks the router on the way to this destination; by default that on the way to most.
    #[must_use]
    pub fn towards(mut self, destination: Ipv4Addr) -> Self {
        self.destination = destination;
        self
    }

    /// Asks this router, whatever the routing table says.
    #[must_use]
    pub fn gateway(mut self, router: Ipv4Addr) -> Self {
        self.gateway = Some(router);
        self
    }

    /// How long the router has to offer a mapping.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Asks by these protocols alone.
    #[must_use]
    pub fn protocols(mut self, protocols: impl IntoIterator<Item = MappingProtocol>) -> Self {
        self.protocols = protocols.into_iter().collect();
        self
    }

    /// Whole seconds; zero would remove a mapping (RFC 6887 section 15), or make one for ever.
    pub(super) fn lifetime_seconds(&self) -> u32 {
        u32::try_from(self.lifetime.as_secs()).unwrap_or(u32::MAX).max(1)
    }
}
