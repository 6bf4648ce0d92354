//! The few requests to rtnetlink(7) about filters that a process may make right after fork(2):
//! nothing here allocates.
#![allow(unsafe_code)]

use super::super::call::{CallFailed, Named};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use std::os::fd::OwnedFd;

/// linux/pkt_sched.h: TC_H_CLSACT, and its two hooks.
pub(super) const CLSACT: u32 = 0xffff_fff1;
pub(super) const INGRESS: u32 = 0xffff_fff2;
pub(super) const EGRESS: u32 = 0xffff_fff3;

const RTM_DELQDISC: u16 = 37;
const RTM_NEWTFILTER: u16 = 44;
const RTM_DELTFILTER: u16 = 45;
const RTM_GETTFILTER: u16 = 46;
const TCA_KIND: u16 = 1;

/// struct nlmsghdr, struct tcmsg, and the kind as an attribute.
#[repr(C)]
struct Request {
    length: u32,
    kind: u16,
    flags: u16,
    sequence: u32,
    port: u32,
    family: u32,
    interface: u32,
    handle: u32,
    parent: u32,
    info: u32,
    attribute_length: u16,
    attribute: u16,
    name: [u8; 8],
}

/// A socket for the requests, in the network namespace of the caller.
pub(super) fn open() -> Result<OwnedFd, CallFailed> {
    let (family, flags) = (AddressFamily::Netlink, SockFlag::SOCK_CLOEXEC);
    socket(family, SockType::Raw, flags, SockProtocol::NetlinkRoute).named("socket(AF_NETLINK)")
}

/// Deletes one BPF filter.
pub(super) fn delete_filter(socket: i32, interface: u32, parent: u32, priority: u16, handle: u32) {
    let info = u32::from(priority) << 16 | u32::from((libc::ETH_P_ALL as u16).to_be());
    let acknowledged = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
    let request = request(RTM_DELTFILTER, acknowledged, interface, handle, parent, info, b"bpf\0");
    ask(socket, &request, |_| {});
}

/// Deletes the clsact qdisc, and whatever hangs on it.
pub(super) fn delete_qdisc(socket: i32, interface: u32, parent: u32) {
    const HANDLE: u32 = 0xffff_0000;
    let acknowledged = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
    let request = request(RTM_DELQDISC, acknowledged, interface, HANDLE, parent, 0, b"clsact\0\0");
    ask(socket, &request, |_| {});
}

/// Whether a filter hangs there, whosever. Yes where the kernel does not answer.
pub(super) fn has_filter(socket: i32, interface: u32, parent: u32) -> bool {
    let dump = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
    let request = request(RTM_GETTFILTER, dump, interface, 0, parent, 0, b"");
    let mut found = false;
    !ask(socket, &request, |kind| found |= kind == RTM_NEWTFILTER) || found
}

fn request(
    kind: u16,
    flags: u16,
    interface: u32,
    handle: u32,
    parent: u32,
    info: u32,
    name: &[u8],
) -> Request {
    let mut bytes = [0; 8];
    bytes[..name.len()].copy_from_slice(name);
    let attribute_length = if name.is_empty() { 0 } else { 4 + name.len() as u16 };
    Request {
        length: 36 + u32::from(attribute_length),
        kind,
        flags,
        sequence: 1,
        port: 0,
        family: 0,
        interface,
        handle,
        parent,
        info,
        attribute_length,
        attribute: TCA_KIND,
        name: bytes,
    }
}

/// Sends the request, and calls `each` with the kind of every message that answers it. Whether the
/// answer was whole.
fn ask(socket: i32, request: &Request, mut each: impl FnMut(u16)) -> bool {
    // SAFETY: the request has at least as many bytes as it says.
    let sent = unsafe {
        let bytes: *const Request = request;
        libc::send(socket, bytes.cast(), request.length as usize, 0)
    };
    if sent < 0 {
        return false;
    }
    loop {
        let mut answer = [0u8; 16_384];
        // SAFETY: the buffer is as long as said.
        let length = unsafe { libc::recv(socket, answer.as_mut_ptr().cast(), answer.len(), 0) };
        let Ok(length) = usize::try_from(length) else {
            if Errno::last_raw() == libc::EINTR {
                continue;
            }
            return false;
        };
        let mut rest = answer.get(..length).unwrap_or_default();
        while let (Some(size), Some(kind)) = (number(rest), kind(rest)) {
            if i32::from(kind) == libc::NLMSG_DONE || i32::from(kind) == libc::NLMSG_ERROR {
                return true;
            }
            each(kind);
            let padded = (size as usize).max(16).next_multiple_of(4);
            rest = rest.get(padded..).unwrap_or_default();
        }
    }
}

fn number(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?))
}

fn kind(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?))
}
