//! Sockets that still hold the connection's endpoints from an earlier run: asked for, and in
//! TIME_WAIT removed, through sock_diag(7).

use super::call::{CallFailed, Named};
use crate::wire::Tuple;
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};
use std::net::IpAddr;
use std::os::fd::AsRawFd;

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
const HEADER: usize = 16;

/// Looks for a socket with exactly these endpoints. One in TIME_WAIT is removed: it would answer
/// the peer's segments, and keep the new connection from being installed. What it protects from,
/// old segments, cannot pass the handshake's numbers.
///
/// # Errors
/// The kernel's, where it has no sock_diag (CONFIG_INET_DIAG, CONFIG_INET_DIAG_DESTROY).
pub fn clear(tuple: Tuple) -> Result<Predecessor, CallFailed> {
    let netlink = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkSockDiag,
    )
    .named("socket(NETLINK_SOCK_DIAG)")?;
    let ask = |kind, flags| {
        let request = request(tuple, kind, flags);
        sendto(netlink.as_raw_fd(), &request, &NetlinkAddr::new(0, 0), MsgFlags::empty())
            .named("sendto(NETLINK_SOCK_DIAG)")?;
        let mut answer = [0; 512];
        let length = recv(netlink.as_raw_fd(), &mut answer, MsgFlags::empty())
            .named("recv(NETLINK_SOCK_DIAG)")?;
        Ok(Answer::parse(&answer[..length]))
    };
    match ask(SOCK_DIAG_BY_FAMILY, libc::NLM_F_REQUEST)? {
        Answer::State(TCP_TIME_WAIT) => {
            ask(SOCK_DESTROY, libc::NLM_F_REQUEST | libc::NLM_F_ACK)?;
            Ok(Predecessor::Gone)
        }
        Answer::State(TCP_ESTABLISHED | TCP_CLOSE_WAIT) => Ok(Predecessor::InUse),
        // A listener matches any remote endpoint; whether the port is free is the guard's affair.
        Answer::State(TCP_LISTEN) | Answer::Error(Errno::ENOENT) => Ok(Predecessor::Gone),
        Answer::State(_) => Ok(Predecessor::Closing),
        Answer::Error(errno) => Err(errno).named("SOCK_DIAG_BY_FAMILY"),
    }
}

enum Answer {
    State(u8),
    Error(Errno),
}

impl Answer {
    fn parse(bytes: &[u8]) -> Self {
        let field = |at: usize, len: usize| bytes.get(at..at + len);
        let kind = field(4, 2).and_then(|kind| kind.try_into().ok()).map_or(0, u16::from_ne_bytes);
        if i32::from(kind) == libc::NLMSG_ERROR {
            let code = field(HEADER, 4)
                .and_then(|code| code.try_into().ok())
                .map_or(0, i32::from_ne_bytes);
            return Self::Error(Errno::from_raw(-code));
        }
        // struct inet_diag_msg: family, state
        bytes.get(HEADER + 1).map_or(Self::Error(Errno::EPROTO), |state| Self::State(*state))
    }
}

/// struct nlmsghdr and struct inet_diag_req_v2.
fn request(tuple: Tuple, kind: u16, flags: libc::c_int) -> Vec<u8> {
    const LENGTH: u32 = 16 + 56;
    let mut bytes = Vec::with_capacity(LENGTH as usize);
    bytes.extend(LENGTH.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((flags as u16).to_ne_bytes());
    bytes.extend([0; 8]); // sequence, port
    let family = if tuple.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET } as u8;
    bytes.extend([family, libc::IPPROTO_TCP as u8, 0, 0]);
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
