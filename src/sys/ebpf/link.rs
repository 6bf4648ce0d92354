//! An interface, as the programs need to know it.

use super::super::interface;
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
        let family = interface::hardware(&name).map_err(|failed| match failed.errno {
            Errno::ENODEV => EbpfError::NoInterface(interface),
            _ => EbpfError::Call(failed),
        })?;
        let ethernet = matches!(family, libc::ARPHRD_ETHER | libc::ARPHRD_LOOPBACK);
        Ok(Self { name, header: if ethernet { &ETHERNET } else { &NONE } })
    }
}
