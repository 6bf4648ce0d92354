//! UPnP-IGD. The crate's calls block, so each runs on one of the runtime's threads for that.
//!
//! The crate's HTTP client goes through a proxy that the environment names (`http_proxy`), without
//! a way to tell it otherwise; there UPnP finds nothing unless `no_proxy` has the router's address.

use super::request::MapRequest;
use super::{MappingError, MappingProtocol, held};
use igd_next::{
    AddPortError, Gateway, GetExternalIpError, PortMappingProtocol, RequestError, SearchOptions,
};
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use tokio::task::spawn_blocking;

/// Where devices are searched for (UPnP Device Architecture 1.1 section 1.3.2).
pub(super) const GROUP: Ipv4Addr = Ipv4Addr::new(239, 255, 255, 250);
const SSDP_PORT: u16 = 1900;

/// What the router's list of mappings shows.
const DESCRIPTION: &str = "tcp-punch";

/// A router that offers mappings.
#[derive(Clone, Debug)]
pub(super) struct Igd {
    gateway: Gateway,
    pub(super) external: Ipv4Addr,
}

/// A mapping at it.
#[derive(Clone, Debug)]
pub(super) struct UpnpMapping {
    igd: Igd,
    local: SocketAddrV4,
    external_port: u16,
    lifetime_seconds: u32,
}

impl Igd {
    /// Searches for the router at `address`, its own or the group's, and learns its outer address.
    /// No error where it does not answer. Makes nothing at the router.
    pub(super) fn search(
        asked: &MapRequest,
        router: Ipv4Addr,
        address: Ipv4Addr,
    ) -> Result<Self, Option<MappingError>> {
        let mut options = SearchOptions::default();
        // The address decides on which network the group is asked.
        options.bind_addr = (asked.local.ip(), 0).into();
        options.broadcast_address = (address, SSDP_PORT).into();
        options.timeout = Some(asked.patience);
        options.single_search_timeout = Some(asked.patience);
        let gateway = igd_next::search_gateway(options).map_err(|error| {
            tracing::debug!("UPnP at {address}: {error}");
            None
        })?;
        if gateway.addr.ip() != IpAddr::V4(router) {
            // Anybody on the network may answer. The router on the way is the one that translates.
            tracing::debug!("UPnP: {} calls itself a gateway, and is not ours", gateway.addr);
            return Err(None);
        }
        match gateway.get_external_ip() {
            Ok(IpAddr::V4(external)) => Ok(Self { gateway, external }),
            // An empty text, while it is offline or has an address that it thinks nothing of.
            Ok(IpAddr::V6(_))
            | Err(GetExternalIpError::RequestError(RequestError::InvalidResponse(_))) => {
                Ok(Self { gateway, external: Ipv4Addr::UNSPECIFIED })
            }
            Err(error) => Err(Some(refused(router, &error))),
        }
    }

    /// Asks for the mapping: with the port suggested, or any.
    pub(super) async fn map(
        self,
        asked: &MapRequest,
        router: Ipv4Addr,
        local: SocketAddrV4,
    ) -> Result<UpnpMapping, MappingError> {
        let lifetime_seconds = asked.lifetime_seconds();
        let wanted = asked.external_port.map_or(local.port(), std::num::NonZeroU16::get);
        on_thread(move || {
            let Self { gateway, .. } = &self;
            let only_permanent = MappingError::OnlyPermanent { gateway: router };
            let (tcp, local_v4) = (PortMappingProtocol::TCP, local.into());
            let made = gateway.add_port(tcp, wanted, local_v4, lifetime_seconds, DESCRIPTION);
            let external_port = match made {
                Ok(()) => wanted,
                Err(AddPortError::OnlyPermanentLeasesSupported) => return Err(only_permanent),
                Err(AddPortError::PortInUse | AddPortError::SamePortValuesRequired) => gateway
                    .add_any_port(tcp, local_v4, lifetime_seconds, DESCRIPTION)
                    .map_err(|error| match error {
                        igd_next::AddAnyPortError::OnlyPermanentLeasesSupported => only_permanent,
                        error => refused(router, &error),
                    })?,
                Err(error) => return Err(refused(router, &error)),
            };
            Ok(UpnpMapping { igd: self, local, external_port, lifetime_seconds })
        })
        .await?
    }
}

impl UpnpMapping {
    pub(super) fn external(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.igd.external, self.external_port)
    }

    pub(super) fn lifetime_seconds(&self) -> u32 {
        self.lifetime_seconds
    }

    pub(super) async fn renew(&self) -> Result<(), MappingError> {
        let Self { igd, local, external_port, lifetime_seconds } = self.clone();
        on_thread(move || {
            igd.gateway
                .add_port(
                    PortMappingProtocol::TCP,
                    external_port,
                    local.into(),
                    lifetime_seconds,
                    DESCRIPTION,
                )
                .map_err(|error| match igd.gateway.addr.ip() {
                    IpAddr::V4(router) => refused(router, &error),
                    IpAddr::V6(router) => MappingError::Ipv6(router.into()),
                })
        })
        .await?
    }

    pub(super) async fn release(self) -> Result<(), String> {
        let Self { igd, external_port, .. } = self;
        on_thread(move || igd.gateway.remove_port(PortMappingProtocol::TCP, external_port))
            .await
            .map_err(|error| error.to_string())?
            .map_err(|error| error.to_string())
    }
}

async fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, MappingError> {
    spawn_blocking(work).await.map_err(|_| MappingError::Ended)
}

fn refused(gateway: Ipv4Addr, error: &dyn std::error::Error) -> MappingError {
    // The crate's own words come first, and the router's in what caused it.
    match error.source() {
        Some(cause) => held::refused(gateway, MappingProtocol::UpnpIgd, &cause),
        None => held::refused(gateway, MappingProtocol::UpnpIgd, &error),
    }
}
