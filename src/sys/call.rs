//! System calls that nix has no words for, and the error that all of them give.
#![allow(unsafe_code)]

use nix::errno::Errno;
use nix::libc;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};

/// A system call that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{call}: {}", errno.desc())]
pub struct CallFailed {
    /// The call and what it was for, as `setsockopt(TCP_REPAIR)`.
    pub call: &'static str,
    /// What the kernel said.
    pub errno: Errno,
}

impl CallFailed {
    /// What to do about it, one line without its full stop.
    pub fn advice(&self) -> String {
        match self.errno {
            Errno::EPERM | Errno::EACCES => "run as root, or see tcp-punch doctor".into(),
            Errno::ENETDOWN | Errno::ENETUNREACH | Errno::ENODEV => {
                "the network went away: check the interface (ip link) and the route (ip route)"
                    .into()
            }
            _ => "run tcp-punch doctor, which checks what this host can do".into(),
        }
    }

    /// Whether a privilege was missing.
    pub fn is_permission(&self) -> bool {
        matches!(self.errno, Errno::EPERM | Errno::EACCES)
    }
}

/// Names the call that failed.
pub(crate) trait Named<T> {
    fn named(self, call: &'static str) -> Result<T, CallFailed>;
}

impl<T> Named<T> for nix::Result<T> {
    fn named(self, call: &'static str) -> Result<T, CallFailed> {
        self.map_err(|errno| CallFailed { call, errno })
    }
}

/// Plain data that the kernel reads and writes as bytes.
///
/// # Safety
/// Every bit pattern must be a value, and there must be no padding.
pub(crate) unsafe trait Plain: Copy {}
// SAFETY: integers and arrays of them.
unsafe impl Plain for u32 {}
// SAFETY: as above.
unsafe impl Plain for i32 {}
// SAFETY: as above.
unsafe impl<const N: usize> Plain for [u32; N] {}

/// setsockopt(2) with a value that nix has no type for.
pub(crate) fn set_option<T: Plain>(
    fd: impl AsFd,
    level: libc::c_int,
    option: libc::c_int,
    value: &T,
    call: &'static str,
) -> Result<(), CallFailed> {
    set_option_slice(fd, level, option, std::slice::from_ref(value), call)
}

/// setsockopt(2) with a run of values.
pub(crate) fn set_option_slice<T: Plain>(
    fd: impl AsFd,
    level: libc::c_int,
    option: libc::c_int,
    values: &[T],
    call: &'static str,
) -> Result<(), CallFailed> {
    // SAFETY: the kernel reads as many bytes as the slice has.
    let result = unsafe {
        libc::setsockopt(
            fd.as_fd().as_raw_fd(),
            level,
            option,
            values.as_ptr().cast(),
            size_of_val(values) as libc::socklen_t,
        )
    };
    Errno::result(result).map(drop).named(call)
}

/// getsockopt(2) of a value that nix has no type for; bytes that the kernel leaves out are zero.
pub(crate) fn get_option<T: Plain>(
    fd: impl AsFd,
    level: libc::c_int,
    option: libc::c_int,
    call: &'static str,
) -> Result<T, CallFailed> {
    let mut value = MaybeUninit::<T>::zeroed();
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes, and `Plain` makes any bytes a value.
    let value = unsafe {
        let result = libc::getsockopt(
            fd.as_fd().as_raw_fd(),
            level,
            option,
            value.as_mut_ptr().cast(),
            &raw mut len,
        );
        Errno::result(result).named(call)?;
        value.assume_init()
    };
    Ok(value)
}

/// bind(2) of a packet socket to one interface and one EtherType (`libc::ETH_P_*`).
pub(crate) fn bind_packet(
    socket: impl AsFd,
    interface: u32,
    protocol: u16,
) -> Result<(), CallFailed> {
    // SAFETY: all zero is a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol.to_be();
    address.sll_ifindex = interface as i32;
    // SAFETY: the address lives as long as the call and has the length given.
    let result = unsafe {
        libc::bind(
            socket.as_fd().as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    Errno::result(result).map(drop).named("bind(AF_PACKET)")
}
