//! Catches the packets of an attempt before the kernel's TCP sees them.
#![allow(unsafe_code)]

use super::call::{CallFailed, Named, bind_packet, set_option};
use super::filter::Filter;
use crate::wire::WallTime;
use nix::errno::Errno;
use nix::libc;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// A packet socket on one interface that shows only what concerns the punch. Packets start at
/// their IP header, whatever the link layer.
#[derive(Debug)]
pub struct Capture {
    socket: OwnedFd,
    buffer: Box<[u8]>,
}

/// One packet as it came in.
#[derive(Debug)]
pub struct Captured<'a> {
    /// From the IP header on. With receive offload it may be larger than the MTU.
    pub packet: &'a [u8],
    /// The kernel's receive timestamp.
    pub at: WallTime,
    /// Whether the transport checksum may be looked at: offload leaves it unfinished on packets
    /// that never crossed a wire, and has checked it on others.
    pub checksum: Checksum,
    /// This host's firewall and TCP do not see it; see [`super::Ebpf`].
    pub stolen: bool,
    /// The kernel has answered it with a SYN-ACK with this timestamp value; see
    /// [`super::Ebpf::arm`].
    pub answered: Option<u32>,
}

/// What the kernel knows about a transport checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// Never written, or already found right: nothing to check.
    Settled,
    /// Nobody has looked at it yet.
    Unchecked,
}

const LARGEST_PACKET: usize = 65_536;
/// Room for a window of segments that all come at once.
const RECEIVE_BUFFER: i32 = 1 << 20;
/// Room for 10,000 segments that all answer at once or are forged, a kilobyte of the kernel's
/// memory each.
const SEARCH_BUFFER: i32 = 10 << 20;

impl Capture {
    /// Catches what comes in on the interface with this index for a punch from these local `ports`
    /// to `peer`.
    /// The filter stands before the socket is bound, so nothing else is ever queued.
    ///
    /// # Errors
    /// EPERM without CAP_NET_RAW; ENODEV where the interface is gone.
    pub fn new(interface: u32, ports: &[u16], peer: IpAddr) -> Result<Self, CallFailed> {
        Self::open(interface, peer.is_ipv6(), &Filter::punch(ports, peer))
    }

    /// Catches what comes in on the interface with this index for a search from many local ports:
    /// the peer's segments but its resets, see [`Filter::search`].
    ///
    /// # Errors
    /// As [`Capture::new`].
    pub fn search(interface: u32, locals: &[u16], peer: IpAddr) -> Result<Self, CallFailed> {
        let capture = Self::open(interface, peer.is_ipv6(), &Filter::search(locals, peer))?;
        let (level, option) = (libc::SOL_SOCKET, libc::SO_RCVBUFFORCE);
        if set_option(&capture.socket, level, option, &SEARCH_BUFFER, "").is_err() {
            // Without CAP_NET_ADMIN: as much of it as net.core.rmem_max grants.
            let (option, call) = (libc::SO_RCVBUF, "setsockopt(SO_RCVBUF)");
            set_option(&capture.socket, level, option, &SEARCH_BUFFER, call)?;
        }
        Ok(capture)
    }

    /// Hears nothing more. What waits can still be taken. Cheaper than closing, which waits for an
    /// RCU grace period.
    pub fn stop(&self) {
        if let Err(error) = Filter::nothing().attach(&self.socket) {
            tracing::debug!("{error}");
        }
    }

    fn open(interface: u32, ipv6: bool, filter: &Filter) -> Result<Self, CallFailed> {
        let protocol = if ipv6 { libc::ETH_P_IPV6 } else { libc::ETH_P_IP } as u16;
        // SAFETY: plain system call; protocol 0 receives nothing until bind.
        let fd = unsafe {
            libc::socket(
                libc::AF_PACKET,
                libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK,
                0,
            )
        };
        let fd = Errno::result(fd).named("socket(AF_PACKET)")?;
        // SAFETY: a descriptor that was just made and that nobody else owns.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        filter.attach(&socket)?;
        let options = [
            (libc::SOL_SOCKET, libc::SO_RCVBUF, RECEIVE_BUFFER, "setsockopt(SO_RCVBUF)"),
            (libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1, "setsockopt(SO_TIMESTAMPNS)"),
            (libc::SOL_PACKET, libc::PACKET_AUXDATA, 1, "setsockopt(PACKET_AUXDATA)"),
        ];
        for (level, option, value, call) in options {
            set_option(&socket, level, option, &value, call)?;
        }
        // Linux 4.20. Without it our own packets come back too; their source gives them away.
        let _ = set_option(&socket, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &1i32, "");
        bind_packet(&socket, interface, protocol)?;
        Ok(Self { socket, buffer: vec![0; LARGEST_PACKET].into_boxed_slice() })
    }

    /// The next packet, if one has come in.
    ///
    /// # Errors
    /// ENETDOWN once when the interface went down; packets come again after it is up.
    pub fn receive(&mut self) -> Result<Option<Captured<'_>>, CallFailed> {
        #[repr(C, align(8))]
        struct Control([u8; 128]);
        let mut control = Control([0; 128]);
        let mut slice =
            libc::iovec { iov_base: self.buffer.as_mut_ptr().cast(), iov_len: self.buffer.len() };
        // SAFETY: all zero is a valid msghdr; its pointers are set below to buffers that outlive it.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = &raw mut slice;
        message.msg_iovlen = 1;
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = size_of::<Control>() as _;
        let length = loop {
            // SAFETY: the message and what it points to are valid for the call.
            let result = unsafe { libc::recvmsg(self.socket.as_raw_fd(), &raw mut message, 0) };
            match Errno::result(result) {
                Ok(length) => break length as usize,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(None),
                Err(errno) => return Err(errno).named("recvmsg(AF_PACKET)"),
            }
        };
        let (mut at, mut checksum) = (None, Checksum::Unchecked);
        // SAFETY: the kernel filled the control buffer; CMSG_* walk within its length, and the
        // payloads are read unaligned at the types that their level and type name.
        unsafe {
            let mut header = libc::CMSG_FIRSTHDR(&raw const message);
            while !header.is_null() {
                let data = libc::CMSG_DATA(header);
                match ((*header).cmsg_level, (*header).cmsg_type) {
                    (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => {
                        let time: libc::timespec = data.cast::<libc::timespec>().read_unaligned();
                        at = Some(WallTime::from_unix_ns(
                            time.tv_sec * 1_000_000_000 + time.tv_nsec,
                        ));
                    }
                    (libc::SOL_PACKET, libc::PACKET_AUXDATA) => {
                        let status = data.cast::<u32>().read_unaligned();
                        // linux/if_packet.h: TP_STATUS_CSUMNOTREADY 1 << 3, TP_STATUS_CSUM_VALID 1 << 7
                        if status & ((1 << 3) | (1 << 7)) != 0 {
                            checksum = Checksum::Settled;
                        }
                    }
                    _ => {}
                }
                header = libc::CMSG_NXTHDR(&raw const message, header);
            }
        }
        let at = at.unwrap_or_else(super::clock::now);
        let packet = &self.buffer[..length.min(LARGEST_PACKET)];
        Ok(Some(Captured { packet, at, checksum, stolen: false, answered: None }))
    }
}

impl AsFd for Capture {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
