//! Sends one segment on many tuples, as fast as the kernel takes it.
#![allow(unsafe_code)]

use super::call::{CallFailed, Named, set_option};
use super::route::Route;
use crate::wire::Template;
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, connect, socket,
};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// Sends a [`Template`] on many tuples through a raw socket, whose packets the host's own firewall
/// and connection tracking see. Memory is one batch of packets, however many tuples there are.
#[derive(Debug)]
pub struct Spray {
    socket: OwnedFd,
    /// One slot for each packet of a batch.
    buffer: Vec<u8>,
}

/// Packets per system call: past so many a larger batch is not faster.
const BATCH: usize = 64;
/// How often a batch is tried again while the kernel says that its queues are full.
const RETRIES: u32 = 8;

impl Spray {
    /// A spray from `local` to `peer`, which `route` leads to.
    ///
    /// # Errors
    /// EPERM without CAP_NET_RAW; EADDRNOTAVAIL where `local` is not ours.
    pub fn new(_route: &Route, local: IpAddr, peer: IpAddr) -> Result<Self, CallFailed> {
        let ipv6 = peer.is_ipv6();
        let family = if ipv6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket =
            socket(family, SockType::Raw, flags, SockProtocol::Raw).named("socket(SOCK_RAW)")?;
        bind(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(local, 0)))
            .named("bind(SOCK_RAW)")?;
        connect(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(peer, 0)))
            .named("connect(SOCK_RAW)")?;
        // Otherwise a raw socket is not told that a queue dropped its packet (raw(7), ENOBUFS).
        let (level, option) = if ipv6 {
            (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)
        } else {
            (libc::IPPROTO_IP, libc::IP_RECVERR)
        };
        set_option(&socket, level, option, &1i32, "setsockopt(RECVERR)")?;
        Ok(Self { socket, buffer: Vec::new() })
    }

    /// Sends the template on the tuples (local port, remote port), in order, and returns how many
    /// packets went out: fewer than there are tuples where queues stayed full or where a packet
    /// was refused. The tuples past that number were not sent.
    ///
    /// # Errors
    /// Only if not one packet went out, and not for full queues: EPERM (a firewall rule),
    /// ENETUNREACH, ENETDOWN and the like.
    pub fn send(
        &mut self,
        template: &Template,
        tuples: impl Iterator<Item = (u16, u16)>,
    ) -> Result<u32, CallFailed> {
        let length = template.len();
        if length == 0 {
            return Ok(0);
        }
        self.buffer.resize(BATCH * length, 0);
        let mut tuples = tuples.peekable();
        let mut total = 0;
        while tuples.peek().is_some() {
            let mut filled = 0;
            for (slot, (local, remote)) in self.buffer.chunks_exact_mut(length).zip(tuples.by_ref())
            {
                template.write(local, remote, slot);
                filled += 1;
            }
            let sent = match self.flush(length, filled) {
                Ok(sent) => sent,
                Err(error) if total == 0 => return Err(error),
                Err(_) => 0,
            };
            total += sent as u32;
            if sent < filled {
                break;
            }
        }
        Ok(total)
    }

    /// Sends the first packets of the buffer. Returns how many went out; an error only if none did.
    fn flush(&self, length: usize, count: usize) -> Result<usize, CallFailed> {
        // SAFETY: all zero is a valid iovec and a valid mmsghdr.
        let mut slices: [libc::iovec; BATCH] = unsafe { std::mem::zeroed() };
        // SAFETY: as above.
        let mut messages: [libc::mmsghdr; BATCH] = unsafe { std::mem::zeroed() };
        for ((slice, message), packet) in
            slices.iter_mut().zip(&mut messages).zip(self.buffer.chunks_exact(length))
        {
            slice.iov_base = packet.as_ptr().cast_mut().cast();
            slice.iov_len = length;
            message.msg_hdr.msg_iov = slice;
            message.msg_hdr.msg_iovlen = 1;
        }
        let (mut sent, mut retries) = (0, 0);
        while sent < count {
            // SAFETY: the messages from `sent` to `count` point to slices and packets that outlive
            // the call, and the kernel only reads what they point to.
            let result = unsafe {
                libc::sendmmsg(
                    self.socket.as_raw_fd(),
                    messages[sent..].as_mut_ptr(),
                    (count - sent) as u32,
                    0,
                )
            };
            match Errno::result(result) {
                Ok(more) => sent += more as usize,
                Err(Errno::EINTR) => {}
                Err(Errno::ENOBUFS | Errno::EAGAIN) if retries == RETRIES => break,
                Err(Errno::ENOBUFS | Errno::EAGAIN) => {
                    retries += 1;
                    self.wait();
                }
                Err(_) if sent > 0 => break,
                Err(errno) => return Err(errno).named("sendmmsg(SOCK_RAW)"),
            }
        }
        Ok(sent)
    }

    /// Until the socket takes more, for a millisecond at most: what a full queue of the device
    /// needs to drain is not told to anybody.
    fn wait(&self) {
        let mut ready = [PollFd::new(self.socket.as_fd(), PollFlags::POLLOUT)];
        let _ = poll(&mut ready, PollTimeout::from(1u8));
    }
}
