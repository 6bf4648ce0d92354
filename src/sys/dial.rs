//! Ordinary kernel connections, many of them from one local port.

use super::call::{CallFailed, Named, get_option};
use super::guard::GuardError;
use super::predecessor::{self, Predecessor};
use super::route::Route;
use crate::wire::Tuple;
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, SockaddrStorage, bind,
    connect, recvmsg, setsockopt, socket, sockopt,
};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// A connection that is being opened, or is open. Nothing here blocks.
///
/// Any number of them may share a local port: all have SO_REUSEADDR, and none listens.
#[derive(Debug)]
pub struct Dial(TcpStream);

/// Why a connection cannot be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    /// The local port or address cannot be used.
    #[error(transparent)]
    Local(#[from] GuardError),
    /// An earlier connection between the same endpoints is still closing.
    #[error("a connection {0} is still closing")]
    StillClosing(SocketAddr),
    /// The kernel refused to send a SYN.
    #[error(transparent)]
    Call(#[from] CallFailed),
}

impl Dial {
    /// Sends a SYN from `local` to `remote`. What came of it is known when the socket becomes
    /// writable: ask [`Dial::outcome`].
    ///
    /// # Errors
    /// [`DialError`].
    pub fn new(local: SocketAddr, remote: SocketAddr) -> Result<Self, DialError> {
        Self::open(local, remote, false)
    }

    /// Likewise, where this process [listens](super::listen_at) on the local port.
    ///
    /// # Errors
    /// [`DialError`].
    pub fn from_listening_port(local: SocketAddr, remote: SocketAddr) -> Result<Self, DialError> {
        Self::open(local, remote, true)
    }

    fn open(local: SocketAddr, remote: SocketAddr, listening: bool) -> Result<Self, DialError> {
        let family = if remote.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(family, SockType::Stream, flags, None).named("socket(SOCK_STREAM)")?;
        setsockopt(&socket, sockopt::ReuseAddr, &true).named("setsockopt(SO_REUSEADDR)")?;
        if listening {
            setsockopt(&socket, sockopt::ReusePort, &true).named("setsockopt(SO_REUSEPORT)")?;
            if local.is_ipv6() {
                setsockopt(&socket, sockopt::Ipv6RecvErr, &true)
                    .named("setsockopt(IPV6_RECVERR)")?;
            } else {
                setsockopt(&socket, sockopt::Ipv4RecvErr, &true).named("setsockopt(IP_RECVERR)")?;
            }
        }
        if local.is_ipv6() {
            setsockopt(&socket, sockopt::Ipv6V6Only, &true).named("setsockopt(IPV6_V6ONLY)")?;
        }
        bind(socket.as_raw_fd(), &SockaddrStorage::from(local))
            .map_err(|errno| GuardError::of_bind(errno, local, "bind(SOCK_STREAM)"))?;
        let remote_address = SockaddrStorage::from(remote);
        let mut result = connect(socket.as_raw_fd(), &remote_address);
        if result == Err(Errno::EADDRNOTAVAIL) && !listening && make_way(local, remote) {
            result = connect(socket.as_raw_fd(), &remote_address);
        }
        match result {
            Ok(()) | Err(Errno::EINPROGRESS) => Ok(Self(TcpStream::from(socket))),
            Err(Errno::EADDRNOTAVAIL) => Err(DialError::StillClosing(remote)),
            Err(errno) => Err(CallFailed { call: "connect(SOCK_STREAM)", errno }.into()),
        }
    }

    /// Whether the connection stands, or why not.
    ///
    /// # Errors
    /// What the network or the far end said.
    pub fn outcome(&self) -> io::Result<()> {
        self.0.take_error()?.map_or(Ok(()), Err)
    }

    /// Whether the connection stands already.
    ///
    /// # Errors
    /// As [`Dial::outcome`].
    pub fn is_connected(&self) -> io::Result<bool> {
        self.outcome()?;
        match self.0.peer_addr() {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether an ICMP error ended it, of a connection [from a listening
    /// port](Self::from_listening_port): "port unreachable" is ECONNREFUSED, as a reset is.
    pub fn ended_by_icmp(&self) -> bool {
        let mut room = nix::cmsg_space!(libc::sock_extended_err, libc::sockaddr_in6);
        let mut quoted = [0; 128];
        let mut into = [io::IoSliceMut::new(&mut quoted)];
        let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
        let fd = self.0.as_raw_fd();
        let Ok(message) = recvmsg::<()>(fd, &mut into, Some(&mut room), flags) else {
            return false;
        };
        message.cmsgs().is_ok_and(|mut all| {
            all.any(|one| match one {
                ControlMessageOwned::Ipv4RecvErr(error, _)
                | ControlMessageOwned::Ipv6RecvErr(error, _) => {
                    [libc::SO_EE_ORIGIN_ICMP, libc::SO_EE_ORIGIN_ICMP6].contains(&error.ee_origin)
                }
                _ => false,
            })
        })
    }

    /// Our end of it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn local(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Whether the kernel has sent anything twice: a SYN, as long as nothing else was sent.
    pub fn repeated(&self) -> bool {
        // struct tcp_info of linux/tcp.h: two words of bytes, then tcpi_total_retrans as word 23.
        const TOTAL_RETRANS: usize = 2 + 23;
        let (level, option) = (libc::IPPROTO_TCP, libc::TCP_INFO);
        get_option::<[u32; TOTAL_RETRANS + 1]>(&self.0, level, option, "getsockopt(TCP_INFO)")
            .is_ok_and(|info| info[TOTAL_RETRANS] > 0)
    }

    /// Ends the connection with a reset: neither this host nor a router on the way keeps it in
    /// TIME_WAIT.
    pub fn reset(self) {
        let at_once = libc::linger { l_onoff: 1, l_linger: 0 };
        // Where this fails, dropping closes it as usual.
        let _ = setsockopt(&self.0, sockopt::Linger, &at_once);
    }
}

impl AsFd for Dial {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<Dial> for TcpStream {
    fn from(dial: Dial) -> Self {
        dial.0
    }
}

impl From<TcpStream> for Dial {
    fn from(stream: TcpStream) -> Self {
        Self(stream)
    }
}

impl Read for Dial {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into)
    }
}

impl Write for Dial {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether an earlier connection of the same endpoints, in TIME_WAIT, is out of the way now.
fn make_way(local: SocketAddr, remote: SocketAddr) -> bool {
    let ip = if local.ip().is_unspecified() {
        match Route::to(remote.ip(), None) {
            Ok(route) => route.local_ip,
            Err(_) => return false,
        }
    } else {
        local.ip()
    };
    let tuple = Tuple { local: SocketAddr::new(ip, local.port()), remote };
    predecessor::clear(tuple) == Ok(Predecessor::Gone)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn connections_to_several_places_share_a_local_port() {
        let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let first =
            Dial::new("127.0.0.1:0".parse().unwrap(), listeners[0].local_addr().unwrap()).unwrap();
        let local = first.local().unwrap();
        let others = listeners[1..].iter().map(|to| Dial::new(local, to.local_addr().unwrap()));
        let all: Vec<Dial> = std::iter::once(first).chain(others.map(Result::unwrap)).collect();
        for (listener, dial) in listeners.iter().zip(&all) {
            assert_eq!(listener.accept().unwrap().1, local);
            assert!(dial.outcome().is_ok() && !dial.repeated());
        }
    }

    #[test]
    fn after_a_reset_the_same_endpoints_are_free_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let mut local = "127.0.0.1:0".parse().unwrap();
        for _ in 0..3 {
            let dial = Dial::new(local, to).unwrap();
            let (mut accepted, from) = listener.accept().unwrap();
            local = from;
            dial.reset();
            let error = accepted.read(&mut [0]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        }
    }

    #[test]
    fn a_port_that_somebody_listens_on_is_said() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let local = listener.local_addr().unwrap();
        let refused = Dial::new(local, "127.0.0.1:9".parse().unwrap());
        assert_eq!(refused.map(drop), Err(GuardError::PortInUse(local.port()).into()));
    }
}
