//! The way to the peer: source address, interface, MTU.

use super::call::{CallFailed, Named, get_option};
use super::interface::{self, OwnAddress};
use nix::errno::Errno;
use nix::libc;
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, getsockname, getsockopt,
    socket, sockopt,
};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;

/// What the routing table says about a peer.
#[derive(Clone, Debug)]
pub struct Route {
    /// Our address towards it.
    pub local_ip: IpAddr,
    /// Name of the interface.
    pub interface: String,
    /// Index of the interface.
    pub interface_index: u32,
    /// Largest packet on the way as far as known, bytes.
    pub mtu: u32,
    /// Whether the peer is on the interface's own network, so that no router is in between.
    pub on_link: bool,
}

/// Why there is no way to the peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// No route.
    #[error("no route to {0}")]
    None(IpAddr),
    /// The peer's address is one of this host's.
    #[error("{0} is this host itself")]
    Ourselves(IpAddr),
    /// The peer's address is its network's broadcast address.
    #[error("{0} is a broadcast address")]
    Broadcast(IpAddr),
    /// The local address asked for is not one of this host's.
    #[error("{0} is not an address of this host")]
    NotOurs(IpAddr),
    /// The interface is down.
    #[error("interface {0} is down")]
    Down(String),
    /// Anything else.
    #[error(transparent)]
    Call(#[from] CallFailed),
}

/// This host's IPv6 addresses that reach beyond its own network, one of each interface: those of
/// 2000::/3 (RFC 4291 section 2.5.4).
pub fn global_ipv6() -> Vec<IpAddr> {
    let global = |it: &OwnAddress| matches!(it.ip, IpAddr::V6(ip) if ip.segments()[0] >> 13 == 1);
    let usable = |it: &OwnAddress| {
        let flags = interface::name(it.interface).and_then(|name| interface::flags(&name).ok());
        let flags = flags.unwrap_or(InterfaceFlags::empty());
        flags.contains(InterfaceFlags::IFF_UP) && !flags.contains(InterfaceFlags::IFF_LOOPBACK)
    };
    let mut one_each: Vec<OwnAddress> = Vec::new();
    for own in OwnAddress::all().unwrap_or_default().into_iter().filter(global).filter(usable) {
        if !one_each.iter().any(|known| known.interface == own.interface) {
            one_each.push(own);
        }
    }
    one_each.into_iter().map(|it| it.ip).collect()
}

impl Route {
    /// The way to `peer`, from `local_ip` if given. Nothing is sent.
    ///
    /// # Errors
    /// [`RouteError`].
    pub fn to(peer: IpAddr, local_ip: Option<IpAddr>) -> Result<Self, RouteError> {
        let ours = OwnAddress::all()?;
        if peer.is_loopback() || ours.iter().any(|own| own.ip == peer) {
            return Err(RouteError::Ourselves(peer));
        }
        let family = if peer.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
        // Connecting a datagram socket asks the routing table and sends nothing.
        let probe = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
            .named("socket(SOCK_DGRAM)")?;
        if let Some(local) = local_ip {
            match bind(probe.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(local, 0))) {
                Err(Errno::EADDRNOTAVAIL) => return Err(RouteError::NotOurs(local)),
                other => other.named("bind(SOCK_DGRAM)")?,
            }
        }
        match connect(probe.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(peer, 9))) {
            Err(Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::EADDRNOTAVAIL) => {
                return Err(RouteError::None(peer));
            }
            Err(Errno::EACCES) => return Err(RouteError::Broadcast(peer)),
            other => other.named("connect(SOCK_DGRAM)")?,
        }
        let own: SockaddrStorage = getsockname(probe.as_raw_fd()).named("getsockname")?;
        let local_ip = own
            .as_sockaddr_in()
            .map(|v4| IpAddr::V4(v4.ip()))
            .or_else(|| own.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
            .ok_or(RouteError::None(peer))?;
        let own =
            ours.iter().find(|own| own.ip == local_ip).ok_or(RouteError::NotOurs(local_ip))?;
        let interface_index = own.interface;
        let interface = interface::name(interface_index).ok_or(RouteError::NotOurs(local_ip))?;
        if !interface::flags(&interface)?.contains(InterfaceFlags::IFF_UP) {
            return Err(RouteError::Down(interface));
        }
        let mtu = if peer.is_ipv6() {
            get_option(&probe, libc::IPPROTO_IPV6, libc::IPV6_MTU, "getsockopt(IPV6_MTU)")?
        } else {
            getsockopt(&probe, sockopt::IpMtu).named("getsockopt(IP_MTU)")?
        };
        Ok(Self {
            local_ip,
            interface,
            interface_index,
            mtu: u32::try_from(mtu).unwrap_or(1500),
            on_link: ours.iter().any(|it| it.interface == interface_index && it.is_near(peer)),
        })
    }
}
