//! Why there is no mapping: what happened, and what to do.

use super::MappingProtocol;
use crate::sys::CallFailed;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// Why there is no mapping.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MappingError {
    /// Only IPv4 is translated, so only for IPv4 are there mappings.
    #[error("{0} is an IPv6 address, and ports are mapped for IPv4 alone")]
    Ipv6(IpAddr),
    /// Not an address of this host's, or no port.
    #[error("{0} is not an address and port of this host")]
    NotOurs(std::net::SocketAddr),
    /// No router is on the way, so none translates.
    #[error("there is no router on the way from {0} to the internet")]
    NoRouter(Ipv4Addr),
    /// The router offers no protocol.
    #[error("router {gateway} offers no port mapping: no answer within {within:.1?}")]
    Silent {
        /// Which.
        gateway: Ipv4Addr,
        /// How long it was waited for.
        within: Duration,
    },
    /// It offers one, and would not.
    #[error("router {gateway} refuses a port mapping by {protocol}: {why}")]
    Refused {
        /// Which.
        gateway: Ipv4Addr,
        /// How it was asked.
        protocol: MappingProtocol,
        /// What it said.
        why: String,
    },
    /// Its outer address is private or shared: no mapping of its is reached from the internet.
    #[error("router {gateway} is itself behind a NAT: its outer address is {external}")]
    SecondNat {
        /// Which.
        gateway: Ipv4Addr,
        /// How it was asked.
        protocol: MappingProtocol,
        /// What it called its outer address.
        external: Ipv4Addr,
    },
    /// It has no outer address, or names one that no router can have.
    #[error("router {gateway} has no public address to map a port of: it names {external}")]
    NoOuterAddress {
        /// Which.
        gateway: Ipv4Addr,
        /// How it was asked.
        protocol: MappingProtocol,
        /// What it called its outer address; unspecified if nothing.
        external: Ipv4Addr,
    },
    /// It makes mappings for ever, which would be left behind after a kill.
    #[error("router {gateway} makes only port mappings that never end")]
    OnlyPermanent {
        /// Which.
        gateway: Ipv4Addr,
    },
    /// Nothing had come by the deadline.
    #[error("the router's port mapping did not come in time")]
    Late,
    /// The thread that asks could not be made.
    #[error("no thread to ask the router on: {0}")]
    NoThread(std::io::ErrorKind),
    /// The thread that asks is gone.
    #[error("the thread that asks the router has ended")]
    Ended,
    /// A system call failed.
    #[error(transparent)]
    Call(#[from] CallFailed),
}

impl MappingError {
    /// What to do about it, one line without its full stop.
    pub fn advice(&self) -> String {
        match self {
            Self::Ipv6(_) => "nothing is needed: by IPv6 both hosts are called at their own \
                              addresses"
                .into(),
            Self::NotOurs(_) => "name an address of this host (ip address) and a port".into(),
            Self::NoRouter(_) => "check the default route (ip route)".into(),
            Self::Silent { .. } => "turn on UPnP, NAT-PMP or PCP in the router's settings, or \
                                    forward a port there by hand"
                .into(),
            Self::Refused { .. } => "see what the router's settings allow this host to map, or \
                                     forward a port there by hand"
                .into(),
            Self::SecondNat { .. } => "ask the provider for a public address, or use IPv6".into(),
            Self::NoOuterAddress { .. } => "check that the router is online and its outer address \
                                            public; behind a provider's NAT use IPv6"
                .into(),
            Self::OnlyPermanent { .. } => "forward a port in the router's settings by hand".into(),
            Self::Late => "give the router more time, or do without".into(),
            Self::NoThread(_) => "see how many threads may run (ulimit -u)".into(),
            Self::Ended => "report this, with what RUST_LOG=debug shows".into(),
            Self::Call(failed) => failed.advice(),
        }
    }

    /// How much it tells: of what several protocols say the most is reported.
    pub(super) fn weight(&self) -> u8 {
        match self {
            Self::SecondNat { .. } => 3,
            Self::OnlyPermanent { .. } | Self::NoOuterAddress { .. } => 2,
            Self::Refused { .. } => 1,
            _ => 0,
        }
    }
}
