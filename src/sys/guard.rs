//! Keeps our own kernel from answering the peer's segments with resets.

use super::call::{CallFailed, Named, get_option};
use super::filter::Filter;
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket,
    sockopt,
};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};

/// A listening socket on the punch's port whose filter drops everything: the kernel finds a
/// listener, so it sends no reset, and the listener hears nothing. It needs no firewall rule and
/// dies with the process.
#[derive(Debug)]
pub struct Guard {
    socket: OwnedFd,
}

/// Why the port cannot be guarded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GuardError {
    /// Another program has it.
    #[error("local port {0} is in use by another program")]
    PortInUse(u16),
    /// The address is not one of this host's.
    #[error("{0} is not an address of this host")]
    NotOurs(SocketAddr),
    /// Ports below `net.ipv4.ip_unprivileged_port_start` need CAP_NET_BIND_SERVICE.
    #[error("local port {0} needs CAP_NET_BIND_SERVICE")]
    Privileged(u16),
    /// Anything else.
    #[error(transparent)]
    Call(#[from] CallFailed),
}

impl GuardError {
    /// What `call`, a bind(2) to `local`, says.
    pub(super) fn of_bind(errno: Errno, local: SocketAddr, call: &'static str) -> Self {
        match errno {
            Errno::EADDRINUSE => Self::PortInUse(local.port()),
            Errno::EADDRNOTAVAIL => Self::NotOurs(local),
            Errno::EACCES => Self::Privileged(local.port()),
            errno => Self::Call(CallFailed { call, errno }),
        }
    }
}

impl Guard {
    /// Guards `local`.
    ///
    /// # Errors
    /// [`GuardError`]; nothing stays behind.
    pub fn new(local: SocketAddr) -> Result<Self, GuardError> {
        let family = if local.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
        let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
            .named("socket(guard)")?;
        Filter::nothing().attach(&socket)?;
        // TIME_WAIT of the last punch on this port must not stand in the way of the next.
        setsockopt(&socket, sockopt::ReuseAddr, &true).named("setsockopt(SO_REUSEADDR)")?;
        if local.is_ipv6() {
            setsockopt(&socket, sockopt::Ipv6V6Only, &true).named("setsockopt(IPV6_V6ONLY)")?;
        }
        match bind(socket.as_raw_fd(), &SockaddrStorage::from(local)) {
            Ok(()) => {}
            Err(errno) => return Err(GuardError::of_bind(errno, local, "bind(guard)")),
        }
        match Backlog::new(1).and_then(|backlog| listen(&socket, backlog)) {
            // Two sockets with SO_REUSEADDR may bind one port, but only one may listen.
            Err(Errno::EADDRINUSE) => Err(GuardError::PortInUse(local.port())),
            other => Ok(other.named("listen(guard)").map(|()| Self { socket })?),
        }
    }

    /// How many segments it has swallowed, each of which would have drawn a reset.
    pub fn swallowed(&self) -> u64 {
        const SK_MEMINFO_DROPS: usize = 8; // linux/sock_diag.h
        let (level, option) = (libc::SOL_SOCKET, libc::SO_MEMINFO);
        get_option::<[u32; 9]>(&self.socket, level, option, "getsockopt(SO_MEMINFO)")
            .map_or(0, |info| info[SK_MEMINFO_DROPS].into())
    }
}
