//! Interfaces and this host's own addresses, asked for without the kernel's lock of all interfaces:
//! whoever makes a namespace or hangs a program in holds that for tens of milliseconds, and
//! getifaddrs(3) waits for it.
#![allow(unsafe_code)]

use super::call::{CallFailed, Named};
use super::netlink;
use nix::errno::Errno;
use nix::libc;
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};

/// An address of this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OwnAddress {
    pub(super) ip: IpAddr,
    /// So many bits of it are its network's.
    prefix: u8,
    /// Index of the interface that has it.
    pub(super) interface: u32,
}

/// `ifaddrmsg` (linux/if_addr.h).
const ADDRESS: usize = 8;

impl OwnAddress {
    /// All of them (RTM_GETADDR). Linux answers without that lock from 6.9 on, for one family at a
    /// time.
    ///
    /// # Errors
    /// The kernel's, in a sandbox without AF_NETLINK for instance.
    pub(super) fn all() -> Result<Vec<Self>, CallFailed> {
        let netlink = netlink::open(SockProtocol::NetlinkRoute)?;
        let mut all = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            let mut body = [0; ADDRESS];
            body[0] = family as u8;
            let each = |_, message: &[u8]| all.extend(own_address(message));
            netlink::list(netlink.as_fd(), libc::RTM_GETADDR, &body, each)
                .named("netlink(RTM_GETADDR)")?;
        }
        Ok(all)
    }

    /// Whether this is on the address's own network.
    pub(super) fn is_near(&self, peer: IpAddr) -> bool {
        let differing = match (self.ip, peer) {
            (IpAddr::V4(own), IpAddr::V4(peer)) => (own.to_bits() ^ peer.to_bits()).leading_zeros(),
            (IpAddr::V6(own), IpAddr::V6(peer)) => (own.to_bits() ^ peer.to_bits()).leading_zeros(),
            _ => return false,
        };
        self.prefix > 0 && differing >= u32::from(self.prefix)
    }
}

fn own_address(message: &[u8]) -> Option<OwnAddress> {
    let [family, prefix, _, _, a, b, c, d] = *message.first_chunk::<ADDRESS>()?;
    // Of a point-to-point interface IFA_ADDRESS is the other end's.
    let (mut local, mut other) = (None, None);
    for (kind, value) in netlink::attributes(message.get(ADDRESS..)?) {
        match kind {
            libc::IFA_LOCAL => local = address(family, value),
            libc::IFA_ADDRESS => other = address(family, value),
            _ => {}
        }
    }
    let interface = u32::from_ne_bytes([a, b, c, d]);
    Some(OwnAddress { ip: local.or(other)?, prefix, interface })
}

fn address(family: u8, value: &[u8]) -> Option<IpAddr> {
    match libc::c_int::from(family) {
        libc::AF_INET => Some(IpAddr::from(*value.first_chunk::<4>()?)),
        libc::AF_INET6 => Some(IpAddr::from(*value.first_chunk::<16>()?)),
        _ => None,
    }
}

/// What the interface is called.
pub(super) fn name(index: u32) -> Option<String> {
    nix::net::if_::if_indextoname(index).ok()?.into_string().ok()
}

/// Whether it is up, a loopback, and so on.
///
/// # Errors
/// ENODEV if it is gone.
pub(super) fn flags(interface: &str) -> Result<InterfaceFlags, CallFailed> {
    let request = ask(interface, libc::SIOCGIFFLAGS as _, "ioctl(SIOCGIFFLAGS)")?;
    // SAFETY: the kernel has filled this field.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    Ok(InterfaceFlags::from_bits_truncate(flags.into()))
}

/// The kind of its hardware, ARPHRD_*.
///
/// # Errors
/// ENODEV if it is gone.
pub(super) fn hardware(interface: &str) -> Result<u16, CallFailed> {
    let request = ask(interface, libc::SIOCGIFHWADDR as _, "ioctl(SIOCGIFHWADDR)")?;
    // SAFETY: the kernel has filled this field.
    Ok(unsafe { request.ifr_ifru.ifru_hwaddr.sa_family })
}

fn ask(interface: &str, what: libc::Ioctl, call: &'static str) -> Result<libc::ifreq, CallFailed> {
    let probe = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None);
    let probe = probe.named("socket(SOCK_DGRAM)")?;
    // SAFETY: all zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // One byte less, so that the name ends.
    let room = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name.iter_mut().take(room).zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    // SAFETY: the request is one of this ioctl's and lives as long as the call.
    let result = unsafe { libc::ioctl(probe.as_raw_fd(), what, &raw mut request) };
    Errno::result(result).named(call)?;
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_addresses_are_those_that_getifaddrs_tells() {
        let told = pnet::datalink::interfaces();
        let mut told: Vec<_> = told
            .iter()
            .flat_map(|it| it.ips.iter().map(|ip| (ip.ip(), ip.prefix(), it.index)))
            .collect();
        let own = OwnAddress::all().unwrap();
        let mut own: Vec<_> = own.iter().map(|it| (it.ip, it.prefix, it.interface)).collect();
        told.sort();
        own.sort();
        assert!(!own.is_empty());
        assert_eq!(own, told);
        let (_, _, index) = own[0];
        let name = name(index).unwrap();
        assert!(flags(&name).is_ok() && hardware(&name).is_ok());
    }

    #[test]
    fn the_network_of_an_address_ends_where_its_prefix_says() {
        let own = |ip: &str, prefix| OwnAddress { ip: ip.parse().unwrap(), prefix, interface: 1 };
        let near = |own: OwnAddress, peer: &str| own.is_near(peer.parse().unwrap());
        assert!(near(own("192.168.1.2", 24), "192.168.1.254"));
        assert!(!near(own("192.168.1.2", 24), "192.168.0.254"));
        assert!(!near(own("192.168.1.2", 24), "::ffff:192.168.1.3"));
        assert!(near(own("2001:db8::2", 64), "2001:db8::9"));
        assert!(!near(own("2001:db8::2", 64), "2001:db8:0:1::9"));
        assert!(!near(own("10.0.0.1", 0), "10.0.0.2"), "a tunnel that is everybody's");
        assert!(near(own("10.0.0.1", 32), "10.0.0.1"));
    }

    #[test]
    fn our_end_of_a_tunnel_is_told_from_the_other_and_nonsense_ends_the_reading() {
        let head = [2, 32, 0, 0, 7, 0, 0, 0];
        let (other, local) = ([8, 0, 1, 0, 10, 0, 0, 9], [8, 0, 2, 0, 10, 0, 0, 1]);
        let message = [&head[..], &other, &local].concat();
        let expected = OwnAddress { ip: [10, 0, 0, 1].into(), prefix: 32, interface: 7 };
        assert_eq!(own_address(&message), Some(expected));
        assert_eq!(own_address(&message[..14]), None);
        assert_eq!(own_address(&[255; 64]), None);
    }
}
