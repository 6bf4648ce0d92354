//! The few requests about filters of tc(8) that a process may make right after fork(2): nothing
//! here allocates.

use super::super::call::CallFailed;
use super::super::netlink::{self, ask, list};
use nix::libc;
use nix::sys::socket::SockProtocol;
use std::ffi::CStr;
use std::os::fd::{BorrowedFd, OwnedFd};

/// linux/pkt_sched.h: TC_H_CLSACT, and its two hooks.
const CLSACT: u32 = 0xffff_fff1;
pub(super) const INGRESS: u32 = 0xffff_fff2;
pub(super) const EGRESS: u32 = 0xffff_fff3;
/// The only handle that a clsact qdisc has.
const CLSACT_HANDLE: u32 = 0xffff_0000;

const RTM_DELQDISC: u16 = 37;
const RTM_NEWTFILTER: u16 = 44;
const RTM_DELTFILTER: u16 = 45;
const RTM_GETTFILTER: u16 = 46;
const TCA_KIND: u16 = 1;
/// `tcmsg` (linux/rtnetlink.h).
const TCMSG: usize = 20;

/// A socket for the requests, in the network namespace of the caller.
pub(super) fn open() -> Result<OwnedFd, CallFailed> {
    netlink::open(SockProtocol::NetlinkRoute)
}

/// Deletes one BPF filter, if it is still there.
pub(super) fn delete_filter(
    socket: BorrowedFd<'_>,
    interface: u32,
    parent: u32,
    priority: u16,
    handle: u32,
) {
    let info = u32::from(priority) << 16 | u32::from((libc::ETH_P_ALL as u16).to_be());
    let (filter, length) = tcmsg([interface, handle, parent, info], c"bpf");
    let _ = ask(socket, RTM_DELTFILTER, &filter[..length], |_, _| {});
}

/// Deletes the clsact qdisc, and whatever hangs on it.
pub(super) fn delete_clsact(socket: BorrowedFd<'_>, interface: u32) {
    let (qdisc, length) = tcmsg([interface, CLSACT_HANDLE, CLSACT, 0], c"clsact");
    let _ = ask(socket, RTM_DELQDISC, &qdisc[..length], |_, _| {});
}

/// Whether a filter hangs there, whosever. Yes where the kernel does not answer.
pub(super) fn has_filter(socket: BorrowedFd<'_>, interface: u32, parent: u32) -> bool {
    let mut found = false;
    let each = |kind, _: &[u8]| found |= kind == RTM_NEWTFILTER;
    let (filters, _) = tcmsg([interface, 0, parent, 0], c"");
    let listed = list(socket, RTM_GETTFILTER, &filters[..TCMSG], each);
    listed.is_err() || found
}

/// Interface, handle, parent and info behind no family, and the kind with its one zero: kernels
/// before 5.13 take a second one for a part of it. And how long that is.
fn tcmsg(fields: [u32; 4], kind: &CStr) -> ([u8; TCMSG + 12], usize) {
    let mut bytes = [0; TCMSG + 12];
    for (to, from) in bytes.chunks_exact_mut(4).skip(1).zip(fields) {
        to.copy_from_slice(&from.to_ne_bytes());
    }
    let kind = kind.to_bytes_with_nul();
    let length = 4 + kind.len();
    let attribute = &mut bytes[TCMSG..];
    attribute[..2].copy_from_slice(&(length as u16).to_ne_bytes());
    attribute[2..4].copy_from_slice(&TCA_KIND.to_ne_bytes());
    attribute[4..length].copy_from_slice(kind);
    (bytes, TCMSG + length.next_multiple_of(4))
}
