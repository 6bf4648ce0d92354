//! Sends whole IP packets, and tells when each really left.

use super::call::{CallFailed, Named};
use crate::wire::WallTime;
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockProtocol, SockType,
    SockaddrStorage, TimestampingFlag, bind, recvmsg, sendto, setsockopt, socket, sockopt,
};
use std::io::IoSliceMut;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// A raw socket with the IP header included: the host's own firewall and connection tracking see
/// what leaves, as they see any other packet.
#[derive(Debug)]
pub struct RawSender {
    socket: OwnedFd,
    to: SockaddrStorage,
    sent: u32,
}

/// When the kernel handed a packet to the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransmitTime {
    /// Which one: what [`RawSender::send`] returned.
    pub id: u32,
    /// The kernel's software transmit timestamp.
    pub at: WallTime,
}

impl RawSender {
    /// A sender from `local` to `peer`. Bound, so that rules which route by source apply.
    ///
    /// # Errors
    /// EPERM without CAP_NET_RAW; EADDRNOTAVAIL where `local` is not ours.
    pub fn new(local: IpAddr, peer: IpAddr) -> Result<Self, CallFailed> {
        let family = if peer.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket =
            socket(family, SockType::Raw, flags, SockProtocol::Raw).named("socket(SOCK_RAW)")?;
        bind(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(local, 0)))
            .named("bind(SOCK_RAW)")?;
        let timestamps = TimestampingFlag::SOF_TIMESTAMPING_TX_SOFTWARE
            | TimestampingFlag::SOF_TIMESTAMPING_SOFTWARE
            | TimestampingFlag::SOF_TIMESTAMPING_OPT_ID
            | TimestampingFlag::SOF_TIMESTAMPING_OPT_TSONLY;
        setsockopt(&socket, sockopt::Timestamping, &timestamps)
            .named("setsockopt(SO_TIMESTAMPING)")?;
        Ok(Self { socket, to: SocketAddr::new(peer, 0).into(), sent: 0 })
    }

    /// Sends one packet that starts at its IP header. Returns the number under which
    /// [`RawSender::transmit_time`] will report it.
    ///
    /// # Errors
    /// ENETDOWN, ENETUNREACH, EPERM (a firewall rule) and the like; the next send may succeed.
    pub fn send(&mut self, packet: &[u8]) -> Result<u32, CallFailed> {
        sendto(self.socket.as_raw_fd(), packet, &self.to, MsgFlags::empty())
            .named("sendto(SOCK_RAW)")?;
        let id = self.sent;
        self.sent = self.sent.wrapping_add(1);
        Ok(id)
    }

    /// Sends one packet to an address of this host, as if it had come in.
    ///
    /// # Errors
    /// As [`RawSender::send`]; ENETDOWN also where the loopback interface is down.
    pub fn deliver_locally(&self, packet: &[u8], local: IpAddr) -> Result<(), CallFailed> {
        let to = SockaddrStorage::from(SocketAddr::new(local, 0));
        sendto(self.socket.as_raw_fd(), packet, &to, MsgFlags::empty())
            .named("sendto(SOCK_RAW, local)")
            .map(drop)
    }

    /// The next transmit timestamp that has come back, if any. Drivers without support never give
    /// one.
    pub fn transmit_time(&self) -> Option<TransmitTime> {
        let mut space =
            nix::cmsg_space!([libc::timespec; 3], libc::sock_extended_err, libc::sockaddr_in6);
        let mut nothing = [0; 1];
        let mut slices = [IoSliceMut::new(&mut nothing)];
        loop {
            let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
            let message = match recvmsg::<()>(
                self.socket.as_raw_fd(),
                &mut slices,
                Some(&mut space),
                flags,
            ) {
                Ok(message) => message,
                Err(Errno::EINTR) => continue,
                Err(_) => return None,
            };
            let (mut id, mut at) = (None, None);
            for control in message.cmsgs().into_iter().flatten() {
                match control {
                    ControlMessageOwned::ScmTimestampsns(times) => {
                        let ns = times.system.tv_sec() * 1_000_000_000 + times.system.tv_nsec();
                        at = Some(WallTime::from_unix_ns(ns));
                    }
                    ControlMessageOwned::Ipv4RecvErr(error, _)
                    | ControlMessageOwned::Ipv6RecvErr(error, _)
                        if error.ee_origin == libc::SO_EE_ORIGIN_TIMESTAMPING =>
                    {
                        id = Some(error.ee_data);
                    }
                    _ => {}
                }
            }
            if let (Some(id), Some(at)) = (id, at) {
                return Some(TransmitTime { id, at });
            }
        }
    }
}

impl AsFd for RawSender {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
