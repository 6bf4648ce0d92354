//! An interface, as the programs need to know it.

use super::super::call::{CallFailed, Named};
use super::error::EbpfError;
use super::hook;
use nix::errno::Errno;
use nix::libc;

/// Bytes before the IP header.
pub(super) type LinkHeader = u32;

static ETHERNET: LinkHeader = 14;
static NONE: LinkHeader = 0;

/// An interface.
pub(super) struct Link {
    pub(super) name: String,
    /// 14, or none where the link layer is not Ethernet's.
    pub(super) header: &'static LinkHeader,
}

impl Link {
    pub(super) fn of(interface: u32) -> Result<Self, EbpfError> {
        let name = hook::name(interface)?;
        let family = family(&name).map_err(|failed| match failed.errno {
            Errno::ENODEV => EbpfError::NoInterface(interface),
            _ => EbpfError::Call(failed),
        })?;
        let ethernet = matches!(family, libc::ARPHRD_ETHER | libc::ARPHRD_LOOPBACK);
        Ok(Self { name, header: if ethernet { &ETHERNET } else { &NONE } })
    }
}

/// The kind of hardware, ARPHRD_*.
fn family(interface: &str) -> Result<u16, CallFailed> {
    const CALL: &str = "ioctl(SIOCGIFHWADDR)";
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    use std::os::fd::AsRawFd;
    let probe = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None);
    let probe = probe.named("socket(SOCK_DGRAM)")?;
    // SAFETY: all zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // One byte less, so that the name ends.
    let room = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name.iter_mut().take(room).zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    // SAFETY: the request is one of this ioctl's and lives as long as the call, which fills the
    // field that is read then.
    unsafe {
        let result = libc::ioctl(probe.as_raw_fd(), libc::SIOCGIFHWADDR as _, &raw mut request);
        Errno::result(result).named(CALL)?;
        Ok(request.ifr_ifru.ifru_hwaddr.sa_family)
    }
}
