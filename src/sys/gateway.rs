//! The first router on the way, as the kernel itself would choose it.

use super::call::{CallFailed, Named};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;

/// Lengths of a netlink message's header, of its `rtmsg` and of an attribute's header
/// (linux/netlink.h, linux/rtnetlink.h).
const HEADER: usize = 16;
const ROUTE: usize = 12;
const ATTRIBUTE: usize = 4;

/// The router by which packets from `source` leave for `destination`; none where that is on the
/// host's own network, or cannot be reached.
///
/// It asks for one route (RTM_GETROUTE) and does not read `/proc/net/route`, which shows one table
/// of many: a VPN's rules choose another.
///
/// # Errors
/// What the kernel reported.
pub fn gateway(
    destination: Ipv4Addr,
    source: Option<Ipv4Addr>,
) -> Result<Option<Ipv4Addr>, CallFailed> {
    let netlink = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )
    .named("socket(AF_NETLINK)")?;
    // The kernel answers before sendto(2) returns; this is for one that would not.
    setsockopt(&netlink, sockopt::ReceiveTimeout, &TimeVal::seconds(1))
        .named("setsockopt(SO_RCVTIMEO)")?;
    let kernel = NetlinkAddr::new(0, 0);
    sendto(netlink.as_raw_fd(), &request(destination, source), &kernel, MsgFlags::empty())
        .named("sendto(AF_NETLINK)")?;
    let mut answer = [0; 4096];
    let len =
        recv(netlink.as_raw_fd(), &mut answer, MsgFlags::empty()).named("recv(AF_NETLINK)")?;
    match read(answer.get(..len).unwrap_or(&answer)) {
        Answer::Via(router) => Ok(router),
        Answer::Failed(Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::EACCES) => Ok(None),
        Answer::Failed(errno) => Err(errno).named("RTM_GETROUTE"),
    }
}

fn request(destination: Ipv4Addr, source: Option<Ipv4Addr>) -> Vec<u8> {
    let mut attributes = Vec::new();
    let wanted = [(libc::RTA_DST, Some(destination)), (libc::RTA_SRC, source)];
    for (kind, address) in wanted {
        let Some(address) = address else { continue };
        attributes.extend((ATTRIBUTE as u16 + 4).to_ne_bytes());
        attributes.extend(kind.to_ne_bytes());
        attributes.extend(address.octets());
    }
    let mut message = Vec::new();
    message.extend(((HEADER + ROUTE + attributes.len()) as u32).to_ne_bytes());
    message.extend(libc::RTM_GETROUTE.to_ne_bytes());
    message.extend((libc::NLM_F_REQUEST as u16).to_ne_bytes());
    // Sequence and port.
    message.extend([0; 8]);
    // Family, lengths of the two prefixes, and nothing else.
    let source_len = if source.is_some() { 32 } else { 0 };
    message.extend([libc::AF_INET as u8, 32, source_len]);
    message.extend([0; ROUTE - 3]);
    message.extend(attributes);
    message
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Via(Option<Ipv4Addr>),
    Failed(Errno),
}

fn read(message: &[u8]) -> Answer {
    let kind = message.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    let body = message.get(HEADER..).unwrap_or(&[]);
    match kind {
        Some(libc::RTM_NEWROUTE) => Answer::Via(router(body.get(ROUTE..).unwrap_or(&[]))),
        // NLMSG_ERROR: the negative error number.
        _ => {
            let number = body.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
            Answer::Failed(Errno::from_raw(number.saturating_neg()))
        }
    }
}

/// The attribute RTA_GATEWAY.
fn router(mut attributes: &[u8]) -> Option<Ipv4Addr> {
    while let Some(&[len_0, len_1, kind_0, kind_1]) = attributes.first_chunk() {
        let len = usize::from(u16::from_ne_bytes([len_0, len_1]));
        if u16::from_ne_bytes([kind_0, kind_1]) == libc::RTA_GATEWAY {
            let value = attributes.get(ATTRIBUTE..len)?;
            return Some(Ipv4Addr::from(*value.first_chunk()?));
        }
        attributes = attributes.get(len.max(ATTRIBUTE).next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_is_reached_without_a_router() {
        assert_eq!(gateway(Ipv4Addr::LOCALHOST, None), Ok(None));
        assert_eq!(gateway(Ipv4Addr::LOCALHOST, Some(Ipv4Addr::LOCALHOST)), Ok(None));
    }

    #[test]
    fn the_router_is_found_among_other_attributes_and_nonsense_ends_the_search() {
        // RTA_TABLE of five bytes of value, so that the next one begins after padding.
        let table = [9, 0, 15, 0, 1, 2, 3, 4, 5, 0, 0, 0];
        let via = [8, 0, 5, 0, 192, 168, 1, 1];
        let found = Some(Ipv4Addr::new(192, 168, 1, 1));
        assert_eq!(router(&[&table[..], &via].concat()), found);
        assert_eq!(router(&via[..7]), None);
        assert_eq!(router(&[0; 64]), None);
        assert_eq!(router(&[255; 64]), None);
        assert_eq!(read(&[]), Answer::Failed(Errno::from_raw(0)));
    }
}
