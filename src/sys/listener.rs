//! Listening sockets, and connections that leave from the very ports that they listen on.

use super::call::{CallFailed, Named};
use nix::errno::Errno;
use nix::libc;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket,
    sockopt,
};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd;

/// Why nobody can connect there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListenError {
    /// Another program has it.
    #[error("{0} is in use by another program")]
    InUse(SocketAddr),
    /// The address is not one of this host's.
    #[error("{0} is not an address of this host")]
    NotOurs(SocketAddr),
    /// Ports below `net.ipv4.ip_unprivileged_port_start` need CAP_NET_BIND_SERVICE.
    #[error("port {} needs CAP_NET_BIND_SERVICE", .0.port())]
    Privileged(SocketAddr),
    /// Anything else.
    #[error(transparent)]
    Call(#[from] CallFailed),
}

impl ListenError {
    /// What to do about it, one line without its full stop.
    pub fn advice(&self) -> String {
        match self {
            Self::InUse(address) => format!(
                "see who has it with: ss -tlnp 'sport = :{}', or choose another port",
                address.port()
            ),
            Self::NotOurs(_) => "give one of this host's addresses: ip address".into(),
            Self::Privileged(_) => {
                "choose a port above 1023, or give the service CAP_NET_BIND_SERVICE".into()
            }
            Self::Call(failed) => failed.advice(),
        }
    }
}

/// Listens at `address`, for both IP versions if that is `[::]`. Accepting does not block.
///
/// SO_REUSEPORT is set afterwards: another program cannot listen beside this one, which lacked it
/// when it was bound, but this one can [connect](super::Dial::from_listening_port) from the port.
///
/// # Errors
/// [`ListenError`].
pub fn listen_at(address: SocketAddr) -> Result<TcpListener, ListenError> {
    let family = if address.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(family, SockType::Stream, flags, None).named("socket(listen)")?;
    // What is left of connections to a server before this one is not in the way.
    setsockopt(&socket, sockopt::ReuseAddr, &true).named("setsockopt(SO_REUSEADDR)")?;
    if address.is_ipv6() {
        let only = !address.ip().is_unspecified();
        setsockopt(&socket, sockopt::Ipv6V6Only, &only).named("setsockopt(IPV6_V6ONLY)")?;
    }
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address)).map_err(|errno| match errno {
        Errno::EADDRINUSE => ListenError::InUse(address),
        Errno::EADDRNOTAVAIL => ListenError::NotOurs(address),
        Errno::EACCES => ListenError::Privileged(address),
        errno => CallFailed { call: "bind(listen)", errno }.into(),
    })?;
    // The kernel cuts it at net.core.somaxconn.
    let most = Backlog::new(libc::SOMAXCONN).unwrap_or(Backlog::MAXALLOWABLE);
    listen(&socket, most).map_err(|errno| match errno {
        Errno::EADDRINUSE => ListenError::InUse(address),
        errno => CallFailed { call: "listen(2)", errno }.into(),
    })?;
    setsockopt(&socket, sockopt::ReusePort, &true).named("setsockopt(SO_REUSEPORT)")?;
    Ok(TcpListener::from(socket))
}

/// Lets this process have as many descriptors as it may, and says how many.
///
/// # Errors
/// The kernel's.
pub fn raise_descriptor_limit() -> Result<u64, CallFailed> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).named("getrlimit(RLIMIT_NOFILE)")?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).named("setrlimit(RLIMIT_NOFILE)")?;
    Ok(hard)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::Dial;
    use std::io::ErrorKind;

    #[test]
    fn nobody_listens_twice_at_one_port() {
        let listener = listen_at("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(listen_at(address).map(drop), Err(ListenError::InUse(address)));
    }

    #[test]
    fn a_probe_leaves_from_the_port_that_is_listened_on() {
        let server = listen_at("127.0.0.1:0".parse().unwrap()).unwrap();
        let port = server.local_addr().unwrap();
        let client = TcpListener::bind("127.0.0.1:0").unwrap();
        let probe = Dial::from_listening_port(port, client.local_addr().unwrap()).unwrap();
        assert_eq!(client.accept().unwrap().1, port);
        assert!(probe.outcome().is_ok());
        assert_eq!(server.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    }

    #[test]
    fn likewise_where_one_socket_listens_for_both_ip_versions() {
        let Ok(server) = listen_at("[::]:0".parse().unwrap()) else { return };
        let port = server.local_addr().unwrap().port();
        let client = TcpListener::bind("127.0.0.1:0").unwrap();
        let from = SocketAddr::new("127.0.0.1".parse().unwrap(), port);
        let _probe = Dial::from_listening_port(from, client.local_addr().unwrap()).unwrap();
        assert_eq!(client.accept().unwrap().1, from);
    }
}
