//! The first router on the way, as the kernel itself would choose it.

use super::call::{CallFailed, Named};
use super::netlink;
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::SockProtocol;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;

/// `rtmsg` (linux/rtnetlink.h).
const ROUTE: usize = 12;

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
    let netlink = netlink::open(SockProtocol::NetlinkRoute)?;
    let mut router = None;
    let question = question(destination, source);
    let asked = netlink::ask(netlink.as_fd(), libc::RTM_GETROUTE, &question, |kind, route| {
        if kind == libc::RTM_NEWROUTE {
            router = via(route.get(ROUTE..).unwrap_or_default());
        }
    });
    match asked {
        Err(Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::EACCES) => Ok(None),
        other => other.named("netlink(RTM_GETROUTE)").map(|()| router),
    }
}

fn question(destination: Ipv4Addr, source: Option<Ipv4Addr>) -> Vec<u8> {
    // Family, lengths of the two prefixes, and nothing else.
    let source_len = if source.is_some() { 32 } else { 0 };
    let mut question = vec![libc::AF_INET as u8, 32, source_len];
    question.resize(ROUTE, 0);
    for (kind, address) in [(libc::RTA_DST, Some(destination)), (libc::RTA_SRC, source)] {
        let Some(address) = address else { continue };
        question.extend(8u16.to_ne_bytes());
        question.extend(kind.to_ne_bytes());
        question.extend(address.octets());
    }
    question
}

/// The attribute RTA_GATEWAY.
fn via(attributes: &[u8]) -> Option<Ipv4Addr> {
    let (_, router) =
        netlink::attributes(attributes).find(|(kind, _)| *kind == libc::RTA_GATEWAY)?;
    Some(Ipv4Addr::from(*router.first_chunk()?))
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
    fn the_router_is_found_among_other_attributes() {
        let table = [8, 0, 15, 0, 1, 2, 3, 4];
        let router = [8, 0, 5, 0, 192, 168, 1, 1];
        let found = Some(Ipv4Addr::new(192, 168, 1, 1));
        assert_eq!(via(&[table, router].concat()), found);
        assert_eq!(via(&table), None);
        assert_eq!(via(&[6, 0, 5, 0, 192, 168]), None);
    }
}
