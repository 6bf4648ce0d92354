//! Installs an established connection in the kernel: TCP_REPAIR, as checkpoint and restore use it.
#![allow(unsafe_code)]

use super::call::{CallFailed, Named, Plain, set_option, set_option_slice};

use super::filter::Filter;
use crate::punch::EstablishedTcb;
use crate::wire::{Seq, Tuple};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt,
};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};

// linux/tcp.h
const TCP_REPAIR_QUEUE: libc::c_int = 20;
const TCP_QUEUE_SEQ: libc::c_int = 21;
const TCP_REPAIR_OPTIONS: libc::c_int = 22;
const TCP_TIMESTAMP: libc::c_int = 24;
const TCP_REPAIR_WINDOW: libc::c_int = 29;
const TCP_RECV_QUEUE: u32 = 1;
const TCP_SEND_QUEUE: u32 = 2;
const TCP_REPAIR_ON: i32 = 1;
/// Ends repair without the window probe that the plain value 0 sends.
const TCP_REPAIR_OFF_NO_WP: i32 = -1;
// Option kinds of RFC 9293, RFC 7323 and RFC 2018.
const OPTION_MSS: u32 = 2;
const OPTION_WINDOW_SCALE: u32 = 3;
const OPTION_SACK_PERMITTED: u32 = 4;
const OPTION_TIMESTAMPS: u32 = 8;

/// A kernel socket in repair: closed in it, it goes without a word. It is deaf until it is the
/// connection in full, lest it answer with a clock or a window that is not the connection's. From
/// then on only resets are kept from it, since those of a handshake are mostly about something
/// else.
#[derive(Debug)]
pub struct RepairSocket {
    socket: OwnedFd,
}

/// struct tcp_repair_opt
#[derive(Clone, Copy)]
#[repr(C)]
struct RepairOption {
    kind: u32,
    value: u32,
}

// SAFETY: two integers of one size, no padding.
unsafe impl Plain for RepairOption {}

impl RepairSocket {
    /// A socket bound to `local`, whoever else has the port (the guard does). Made before the
    /// instant, so that it costs nothing after it.
    ///
    /// # Errors
    /// EPERM without CAP_NET_ADMIN over the network namespace, ENOPROTOOPT where the kernel was
    /// built without CONFIG_CHECKPOINT_RESTORE.
    pub fn new(local: SocketAddr) -> Result<Self, CallFailed> {
        let family = if local.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(family, SockType::Stream, flags, None).named("socket(SOCK_STREAM)")?;
        set_repair(&socket, TCP_REPAIR_ON)?;
        Filter::nothing().attach(&socket)?;
        bind(socket.as_raw_fd(), &SockaddrStorage::from(local)).named("bind(TCP_REPAIR)")?;
        Ok(Self { socket })
    }

    /// Becomes the connection. No packet is sent. From here on the kernel finds this socket
    /// instead of the guard; when this returns, it hears what comes in, and answers it.
    ///
    /// # Errors
    /// EADDRNOTAVAIL where another socket has these endpoints.
    pub fn establish(&self, tcb: &EstablishedTcb, tsval: u32) -> Result<(), CallFailed> {
        let Tuple { remote, .. } = tcb.tuple;
        let agreed = tcb.agreed;
        self.set_sequence(TCP_SEND_QUEUE, tcb.snd_nxt)?;
        self.set_sequence(TCP_RECV_QUEUE, tcb.rcv_nxt)?;
        // Before connect, which sizes segments by it; the repair option below comes too late.
        let mss = u32::from(agreed.mss);
        set_tcp(&self.socket, libc::TCP_MAXSEG, &mss, "setsockopt(TCP_MAXSEG)")?;
        connect(self.socket.as_raw_fd(), &SockaddrStorage::from(remote))
            .named("connect(TCP_REPAIR)")?;

        // Both shifts even where none was agreed: the kernel has chosen one of its own by now.
        let (send, receive) =
            agreed.window_scale.map_or((0, 0), |scale| (scale.send, scale.receive));
        let shifts = u32::from(send) | u32::from(receive) << 16;
        let mut options = vec![
            RepairOption { kind: OPTION_MSS, value: mss },
            RepairOption { kind: OPTION_WINDOW_SCALE, value: shifts },
        ];
        if agreed.sack {
            options.push(RepairOption { kind: OPTION_SACK_PERMITTED, value: 0 });
        }
        if agreed.timestamps {
            options.push(RepairOption { kind: OPTION_TIMESTAMPS, value: 0 });
        }
        let call = "setsockopt(TCP_REPAIR_OPTIONS)";
        set_option_slice(&self.socket, libc::IPPROTO_TCP, TCP_REPAIR_OPTIONS, &options, call)?;
        if agreed.timestamps {
            // Never behind what we sent; bit 0 asks for microseconds from Linux 6.7 on.
            let next = tsval.wrapping_add(1) & !1;
            set_tcp(&self.socket, TCP_TIMESTAMP, &next, "setsockopt(TCP_TIMESTAMP)")?;
        }
        // struct tcp_repair_window: snd_wl1, snd_wnd, max_window, rcv_wnd, rcv_wup
        let window = [tcb.snd_wl1.0, tcb.snd_wnd, tcb.snd_wnd, tcb.rcv_wnd, tcb.rcv_nxt.0];
        set_tcp(&self.socket, TCP_REPAIR_WINDOW, &window, "setsockopt(TCP_REPAIR_WINDOW)")?;
        Filter::no_reset().attach(&self.socket)
    }

    /// Bytes that have come in by now and wait to be read.
    ///
    /// # Errors
    /// The kernel's.
    pub fn unread(&self) -> Result<u32, CallFailed> {
        let mut unread: libc::c_int = 0;
        // SAFETY: the kernel writes one integer.
        let result =
            unsafe { libc::ioctl(self.socket.as_raw_fd(), libc::FIONREAD, &raw mut unread) };
        Errno::result(result).named("ioctl(SIOCINQ)")?;
        Ok(u32::try_from(unread).unwrap_or(0))
    }

    /// Ends repair: an ordinary connected socket.
    ///
    /// # Errors
    /// The kernel's.
    pub fn finish(self) -> Result<OwnedFd, CallFailed> {
        self.select(0)?;
        set_repair(&self.socket, TCP_REPAIR_OFF_NO_WP)?;
        Filter::detach(&self.socket)?;
        // Repair reset it, and without it the next punch on this port would meet TIME_WAIT.
        setsockopt(&self.socket, sockopt::ReuseAddr, &true).named("setsockopt(SO_REUSEADDR)")?;
        Ok(self.socket)
    }

    fn set_sequence(&self, queue: u32, seq: Seq) -> Result<(), CallFailed> {
        self.select(queue)?;
        set_tcp(&self.socket, TCP_QUEUE_SEQ, &seq.0, "setsockopt(TCP_QUEUE_SEQ)")
    }

    fn select(&self, queue: u32) -> Result<(), CallFailed> {
        set_tcp(&self.socket, TCP_REPAIR_QUEUE, &queue, "setsockopt(TCP_REPAIR_QUEUE)")
    }
}

fn set_repair(socket: &OwnedFd, value: i32) -> Result<(), CallFailed> {
    set_tcp(socket, libc::TCP_REPAIR, &value, "setsockopt(TCP_REPAIR)")
}

fn set_tcp<T: Plain>(
    socket: &OwnedFd,
    option: i32,
    value: &T,
    call: &'static str,
) -> Result<(), CallFailed> {
    set_option(socket, libc::IPPROTO_TCP, option, value, call)
}
