//! Sends one segment on many tuples, as fast as the kernel takes it.
#![allow(unsafe_code)]

use super::call::{CallFailed, Named, set_option};
use super::link::Link;
use super::route::Route;
use crate::wire::Template;
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, connect, socket,
};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Sends a [`Template`] on many tuples. Memory is one batch of packets, however many tuples there
/// are.
///
/// The first packet leaves through a raw socket, as a [`super::RawSender`]'s do. The frame in which
/// the kernel sends it tells the link-layer header, and the others leave in frames of their own at
/// twice the rate. These keep to the device's queueing discipline but bypass what lies before it:
/// this host's netfilter output chains and connection tracking, IPsec policies and later changes of
/// the route. A stateful firewall of this host therefore knows nothing of their flows: send one
/// packet of the flow that succeeds through a raw socket. Where the header cannot be learnt, all
/// packets go through the raw socket: on devices without one (tun, ppp, WireGuard), and where this
/// host's firewall drops or alters the first packet.
///
/// The kernel takes ten milliseconds to close it, as any packet socket.
#[derive(Debug)]
pub struct Spray {
    raw: OwnedFd,
    link: Option<Link>,
    /// One slot for each packet of a batch.
    buffer: Vec<u8>,
}

/// Packets per system call: past so many a larger batch is not faster, as measured on a veth with
/// batches of 1 to 1024.
const BATCH: usize = 64;
/// How often a batch is tried again while the kernel says that its queues are full.
const RETRIES: u32 = 8;

impl Spray {
    /// A spray from `local` to `peer`, which `route` leads to.
    ///
    /// # Errors
    /// EPERM without CAP_NET_RAW; EADDRNOTAVAIL where `local` is not ours; ENODEV where the
    /// route's interface is gone.
    pub fn new(route: &Route, local: IpAddr, peer: IpAddr) -> Result<Self, CallFailed> {
        let link = Link::unknown(route.interface_index, peer)?;
        Ok(Self { link: Some(link), ..Self::through_host(local, peer)? })
    }

    /// A spray of which every packet goes through the raw socket, so that this host's firewall and
    /// connection tracking see all of them. Half as fast, and an entry of this host's own
    /// connection tracking for each tuple.
    ///
    /// # Errors
    /// EPERM without CAP_NET_RAW; EADDRNOTAVAIL where `local` is not ours.
    pub fn through_host(local: IpAddr, peer: IpAddr) -> Result<Self, CallFailed> {
        let ipv6 = peer.is_ipv6();
        let family = if ipv6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let raw =
            socket(family, SockType::Raw, flags, SockProtocol::Raw).named("socket(SOCK_RAW)")?;
        bind(raw.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(local, 0)))
            .named("bind(SOCK_RAW)")?;
        connect(raw.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(peer, 0)))
            .named("connect(SOCK_RAW)")?;
        // Otherwise a raw socket is not told that a queue dropped its packet (raw(7), ENOBUFS).
        let (level, option) = if ipv6 {
            (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)
        } else {
            (libc::IPPROTO_IP, libc::IP_RECVERR)
        };
        set_option(&raw, level, option, &1i32, "setsockopt(RECVERR)")?;
        Ok(Self { raw, link: None, buffer: Vec::new() })
    }

    /// Whether packets leave in frames of our own, past this host's firewall.
    pub fn bypasses_host(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.header().is_some())
    }

    /// Sends the template on the tuples (local port, remote port), in order, and returns how many
    /// packets went out: fewer than there are tuples where queues stayed full or where a packet
    /// was refused. The tuples past that number were not sent. The first packet of a spray may
    /// take ten milliseconds, while the kernel asks for the next hop's link-layer address.
    ///
    /// # Errors
    /// Only if not one packet went out, and not for full queues: EPERM (a firewall rule),
    /// ENETUNREACH, ENETDOWN and the like.
    pub fn send(
        &mut self,
        template: &Template,
        tuples: impl Iterator<Item = (u16, u16)>,
    ) -> Result<u32, CallFailed> {
        let mut total = 0;
        if template.len() == 0 {
            return Ok(total);
        }
        let mut tuples = tuples.peekable();
        while let Some(&(local, remote)) = tuples.peek() {
            let single = self.link.as_ref().is_some_and(Link::is_fresh);
            let header = self.link.as_mut().and_then(Link::learnt);
            let offset = header.map_or(0, |header| header.len());
            let stride = offset + template.len();
            self.buffer.resize(BATCH * stride, 0);
            let mut filled = 0;
            let slots = self.buffer.chunks_exact_mut(stride).take(if single { 1 } else { BATCH });
            for (slot, (local, remote)) in slots.zip(tuples.by_ref()) {
                if let Some(header) = &header {
                    slot[..offset].copy_from_slice(header);
                }
                template.write(local, remote, &mut slot[offset..]);
                filled += 1;
            }
            let by = match &self.link {
                Some(link) if header.is_some() => link.as_fd(),
                _ => self.raw.as_fd(),
            };
            let sent = match self.flush(by, stride, filled) {
                Ok(sent) => sent,
                Err(error) if total == 0 => return Err(error),
                Err(_) => 0,
            };
            total += sent as u32;
            if sent < filled {
                break;
            }
            if let Some(link) = self.link.as_mut().filter(|_| single) {
                let mut packet = vec![0; template.len()];
                template.write(local, remote, &mut packet);
                link.learn_from(packet);
            }
        }
        Ok(total)
    }

    /// Sends the first packets of the buffer. Returns how many went out; an error only if none did.
    fn flush(&self, by: BorrowedFd<'_>, stride: usize, count: usize) -> Result<usize, CallFailed> {
        // SAFETY: all zero is a valid iovec and a valid mmsghdr.
        let mut slices: [libc::iovec; BATCH] = unsafe { std::mem::zeroed() };
        // SAFETY: as above.
        let mut messages: [libc::mmsghdr; BATCH] = unsafe { std::mem::zeroed() };
        for ((slice, message), packet) in
            slices.iter_mut().zip(&mut messages).zip(self.buffer.chunks_exact(stride)).take(count)
        {
            slice.iov_base = packet.as_ptr().cast_mut().cast();
            slice.iov_len = stride;
            message.msg_hdr.msg_iov = slice;
            message.msg_hdr.msg_iovlen = 1;
        }
        let (mut sent, mut retries) = (0, 0);
        while sent < count {
            // SAFETY: the messages from `sent` to `count` point to slices and packets that outlive
            // the call, and the kernel only reads what they point to.
            let result = unsafe {
                libc::sendmmsg(
                    by.as_raw_fd(),
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
                    pause();
                }
                Err(_) if sent > 0 => break,
                Err(errno) => return Err(errno).named("sendmmsg"),
            }
        }
        Ok(sent)
    }
}

/// A millisecond, in which queues drain: the kernel tells nobody when one of a device has room.
fn pause() {
    let _ = poll(&mut [] as &mut [PollFd<'_>], PollTimeout::from(1u8));
}
