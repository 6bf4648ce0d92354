//! Sockets that still hold the connection's endpoints from an earlier run: asked for, and in
//! TIME_WAIT removed, through sock_diag(7).

use super::call::{CallFailed, Named};
use super::netlink;
use crate::wire::Tuple;
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::SockProtocol;
use std::net::IpAddr;
use std::os::fd::AsFd;

/// What holds a connection's endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Predecessor {
    /// Nothing, or a TIME_WAIT that was removed.
    Gone,
    /// A connection that is closing; it will be gone soon.
    Closing,
    /// A connection in use.
    InUse,
}

// linux/sock_diag.h
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
// net/tcp_states.h
const TCP_ESTABLISHED: u8 = 1;
const TCP_TIME_WAIT: u8 = 6;
const TCP_CLOSE_WAIT: u8 = 8;
const TCP_LISTEN: u8 = 10;

/// Looks for a socket with exactly these endpoints. One in TIME_WAIT is removed: it would answer
/// the peer's segments, and keep the new connection from being installed. What it protects from,
/// old segments, cannot pass the handshake's numbers.
///
/// # Errors
/// The kernel's, where it has no sock_diag (CONFIG_INET_DIAG, CONFIG_INET_DIAG_DESTROY).
pub fn clear(tuple: Tuple) -> Result<Predecessor, CallFailed> {
    let netlink = netlink::open(SockProtocol::NetlinkSockDiag)?;
    let connection = connection(tuple);
    let mut state = None;
    let asked = netlink::ask(netlink.as_fd(), SOCK_DIAG_BY_FAMILY, &connection, |_, found| {
        // struct inet_diag_msg: family, state
        state = found.get(1).copied();
    });
    match asked {
        Err(Errno::ENOENT) => return Ok(Predecessor::Gone),
        other => other.named("netlink(SOCK_DIAG_BY_FAMILY)")?,
    }
    match state {
        Some(TCP_TIME_WAIT) => {
            // By now it may have gone by itself.
            match netlink::ask(netlink.as_fd(), SOCK_DESTROY, &connection, |_, _| {}) {
                Ok(()) | Err(Errno::ENOENT) => Ok(Predecessor::Gone),
                Err(errno) => Err(errno).named("netlink(SOCK_DESTROY)"),
            }
        }
        Some(TCP_ESTABLISHED | TCP_CLOSE_WAIT) => Ok(Predecessor::InUse),
        // A listener matches any remote endpoint; whether the port is free is the guard's affair.
        Some(TCP_LISTEN) => Ok(Predecessor::Gone),
        Some(_) => Ok(Predecessor::Closing),
        None => Err(Errno::EPROTO).named("netlink(SOCK_DIAG_BY_FAMILY)"),
    }
}

/// struct inet_diag_req_v2.
fn connection(tuple: Tuple) -> Vec<u8> {
    let family = if tuple.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET } as u8;
    let mut bytes = vec![family, libc::IPPROTO_TCP as u8, 0, 0];
    bytes.extend(u32::MAX.to_ne_bytes()); // every state
    bytes.extend(tuple.local.port().to_be_bytes());
    bytes.extend(tuple.remote.port().to_be_bytes());
    for address in [tuple.local.ip(), tuple.remote.ip()] {
        match address {
            IpAddr::V4(v4) => {
                bytes.extend(v4.octets());
                bytes.extend([0; 12]);
            }
            IpAddr::V6(v6) => bytes.extend(v6.octets()),
        }
    }
    bytes.extend([0; 4]); // any interface
    bytes.extend([0xff; 8]); // INET_DIAG_NOCOOKIE
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_connection_in_use_is_found_and_a_free_tuple_is_free() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let tuple =
            Tuple { local: stream.local_addr().unwrap(), remote: stream.peer_addr().unwrap() };
        assert_eq!(clear(tuple), Ok(Predecessor::InUse));
        let free = Tuple { remote: "192.0.2.1:9".parse().unwrap(), ..tuple };
        assert_eq!(clear(free), Ok(Predecessor::Gone));
    }
}
