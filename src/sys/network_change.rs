//! Word of the kernel that this host's network has changed.

use super::call::{CallFailed, Named};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// A descriptor that is readable when an interface, an address or an IPv4 route has come or gone.
/// What it was is for nobody to know: it is time to look.
#[derive(Debug)]
pub struct NetworkChange(OwnedFd);

/// IPv6 routes are left out: router advertisements renew them every few minutes.
const GROUPS: i32 = libc::RTMGRP_LINK
    | libc::RTMGRP_IPV4_IFADDR
    | libc::RTMGRP_IPV4_ROUTE
    | libc::RTMGRP_IPV6_IFADDR;

impl NetworkChange {
    /// Tells of changes from now on (rtnetlink(7)).
    ///
    /// # Errors
    /// The kernel's, in a sandbox without AF_NETLINK for instance.
    pub fn watch() -> Result<Self, CallFailed> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let protocol = SockProtocol::NetlinkRoute;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)
            .named("socket(NETLINK_ROUTE)")?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUPS.cast_unsigned()))
            .named("bind(NETLINK_ROUTE)")?;
        Ok(Self(socket))
    }

    /// Whether anything has changed since it was asked last.
    pub fn happened(&self) -> bool {
        let mut changed = false;
        loop {
            // A message that does not fit is cut off, which does not matter.
            match recv(self.0.as_raw_fd(), &mut [0; 64], MsgFlags::empty()) {
                Err(Errno::EINTR) => {}
                // Some were lost, so there were some.
                Ok(_) | Err(Errno::ENOBUFS) => changed = true,
                Err(_) => return changed,
            }
        }
    }
}

impl AsFd for NetworkChange {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_has_changed_at_first() {
        assert!(!NetworkChange::watch().unwrap().happened());
    }
}
