//! What passes an interface, with the kernel's time stamps.
//!
//! Not tcpdump, because that gives up in a user namespace, where its change of user is refused.

use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::cmsg_space;
use nix::net::if_::if_nametoindex;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType,
    recvmsg, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeSpec, TimeValLike};

use crate::network::{Host, PATIENCE};

/// Bytes that a capture holds.
const ROOM: usize = 16 << 20;

/// An open packet socket; it holds what has passed until that is read.
pub(crate) struct Capture {
    socket: OwnedFd,
    interface: usize,
}

/// One packet, from its IP header on.
#[derive(Debug)]
pub(crate) struct Captured {
    /// Wall clock, which all hosts of a network share.
    pub(crate) at: Duration,
    pub(crate) bytes: Vec<u8>,
}

impl Capture {
    pub(crate) fn start(host: &Host, interface: &str) -> Self {
        host.run(|| {
            let socket = socket(
                AddressFamily::Packet,
                SockType::Datagram,
                SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC,
                SockProtocol::EthAll,
            )
            .expect("a packet socket");
            setsockopt(&socket, sockopt::ReceiveTimestampns, &true).expect("time stamps");
            // In a user namespace only the system's limit, some 500 small packets, is granted.
            setsockopt(&socket, sockopt::RcvBuf, &ROOM).expect("some room");
            let _ = setsockopt(&socket, sockopt::RcvBufForce, &ROOM);
            let interface = if_nametoindex(interface).expect("the interface is there") as usize;
            Self { socket, interface }
        })
    }

    /// All IP packets so far that `wanted` accepts.
    pub(crate) fn packets(&self, wanted: impl Fn(&[u8]) -> bool) -> Vec<Captured> {
        std::iter::from_fn(|| self.next())
            .filter_map(|(interface, captured)| {
                (interface == self.interface && wanted(&captured.bytes)).then_some(captured)
            })
            .collect()
    }

    /// Waits for the first packet that `wanted` accepts; those before it are gone then.
    pub(crate) fn first(&self, wanted: impl Fn(&[u8]) -> bool) -> Captured {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(first) = self.packets_until(&wanted) {
                return first;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no such packet within {PATIENCE:?}");
            let mut readable = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            poll(&mut readable, PollTimeout::try_from(left).expect("some seconds")).expect("poll");
        }
    }

    fn packets_until(&self, wanted: impl Fn(&[u8]) -> bool) -> Option<Captured> {
        std::iter::from_fn(|| self.next())
            .find(|(interface, captured)| *interface == self.interface && wanted(&captured.bytes))
            .map(|(_, captured)| captured)
    }

    fn next(&self) -> Option<(usize, Captured)> {
        let mut bytes = vec![0; 2048];
        let mut control = cmsg_space!(TimeSpec);
        let mut slices = [IoSliceMut::new(&mut bytes)];
        let message = recvmsg::<LinkAddr>(
            self.socket.as_raw_fd(),
            &mut slices,
            Some(&mut control),
            MsgFlags::empty(),
        )
        .ok()?;
        let stamp = message.cmsgs().ok()?.find_map(|control| match control {
            ControlMessageOwned::ScmTimestampns(stamp) => Some(stamp.num_nanoseconds()),
            _ => None,
        })?;
        let interface = message.address?.ifindex();
        let len = message.bytes;
        bytes.truncate(len);
        let at = Duration::from_nanos(stamp as u64);
        Some((interface, Captured { at, bytes }))
    }
}
