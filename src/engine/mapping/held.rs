//! A mapping, whichever protocol made it.

use super::upnp::UpnpMapping;
use super::{MappingError, MappingProtocol};
use crab_nat::{PortMapping, PortMappingType, TimeoutConfig};
use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::time::Duration;

/// A mapping at the router.
#[derive(Debug)]
pub(super) enum Held {
    Pcp(PortMapping),
    NatPmp(PortMapping, Ipv4Addr),
    Upnp(UpnpMapping),
}

/// RFC 6886 section 3.1 waits 250 ms at first and RFC 6887 section 8.1.1 three seconds, for routers
/// anywhere. This one is on the local network, and somebody is waiting.
pub(super) const ASKED_AGAIN: TimeoutConfig = TimeoutConfig {
    initial_timeout: Duration::from_millis(100),
    max_retries: 8,
    max_retry_timeout: Some(Duration::from_secs(1)),
};

/// For one message that is sent and no answer awaited.
pub(super) const NOT_AWAITED: TimeoutConfig = TimeoutConfig {
    initial_timeout: Duration::from_millis(1),
    max_retries: 0,
    max_retry_timeout: None,
};

impl Held {
    pub(super) fn protocol(&self) -> MappingProtocol {
        match self {
            Self::Pcp(_) => MappingProtocol::Pcp,
            Self::NatPmp(..) => MappingProtocol::NatPmp,
            Self::Upnp(_) => MappingProtocol::UpnpIgd,
        }
    }

    /// The outer address and port. A PCP server may name an IPv6 address, which is not what was
    /// asked for.
    pub(super) fn external(&self) -> SocketAddrV4 {
        match self {
            Self::Pcp(mapping) => {
                let ip = match mapping.mapping_type() {
                    PortMappingType::Pcp { external_ip: IpAddr::V4(ip), .. } => ip,
                    _ => Ipv4Addr::UNSPECIFIED,
                };
                SocketAddrV4::new(ip, mapping.external_port().get())
            }
            Self::NatPmp(mapping, ip) => SocketAddrV4::new(*ip, mapping.external_port().get()),
            Self::Upnp(mapping) => mapping.external(),
        }
    }

    pub(super) fn lifetime(&self) -> Duration {
        Duration::from_secs(u64::from(match self {
            Self::Pcp(mapping) | Self::NatPmp(mapping, _) => mapping.lifetime(),
            Self::Upnp(mapping) => mapping.lifetime_seconds(),
        }))
    }

    pub(super) async fn renew(&mut self, gateway: Ipv4Addr) -> Result<(), MappingError> {
        let protocol = self.protocol();
        match self {
            Self::Pcp(mapping) | Self::NatPmp(mapping, _) => {
                mapping.renew().await.map_err(|failure| refused(gateway, protocol, &failure))
            }
            Self::Upnp(mapping) => mapping.renew().await,
        }
    }

    /// Takes it back.
    pub(super) async fn release(self) {
        let external = self.external();
        let failed = match self {
            Self::Pcp(mapping) | Self::NatPmp(mapping, _) => {
                mapping.try_drop().await.err().map(|(failure, _)| words(&failure.to_string()))
            }
            Self::Upnp(mapping) => mapping.release().await.err(),
        };
        match failed {
            None => tracing::debug!("the router took the mapping of {external} back"),
            Some(why) => tracing::warn!("the mapping of {external} stays until it expires: {why}"),
        }
    }
}

/// The router would not.
pub(super) fn refused(
    gateway: Ipv4Addr,
    protocol: MappingProtocol,
    why: &dyn Display,
) -> MappingError {
    MappingError::Refused { gateway, protocol, why: words(&why.to_string()) }
}

/// What a router said, without the crates' words around it, as one line fit to be shown: some of it
/// is the router's own text.
fn words(failure: &str) -> String {
    let said = ["PCP(", "NAT-PMP("]
        .iter()
        .find_map(|name| failure.strip_prefix(name)?.strip_suffix(')'))
        .unwrap_or(failure);
    let said = said.trim_start_matches("Server responded with code: ");
    let line = said.split(char::is_control).next().unwrap_or_default().trim_end();
    line.chars().take(LONGEST).collect::<String>().to_lowercase()
}

/// Characters of what a router said.
const LONGEST: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_routers_words_are_one_short_line() {
        assert_eq!(words("PCP(Server responded with code: Not authorized)"), "not authorized");
        assert_eq!(words("NAT-PMP(Invalid response: (x))"), "invalid response: (x)");
        assert_eq!(
            words("Gateway response error 501: no\x1b[2J\nway"),
            "gateway response error 501: no"
        );
        assert_eq!(words(&"é".repeat(5000)).chars().count(), LONGEST);
        assert_eq!(words(""), "");
    }
}
