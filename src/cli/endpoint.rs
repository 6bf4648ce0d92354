//! `--peer` and `--local`: reading addresses and judging them before anything is sent.
//!
//! What only the routing table knows (an address that is ours or is not, a directed broadcast, no
//! route) is judged by the engine.

use super::Failure;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, ToSocketAddrs};

const WRITE_PEER: &str =
    "write ADDRESS:PORT, [IPV6]:PORT or NAME:PORT, for example --peer 203.0.113.7:40000";
const WRITE_LOCAL: &str = "write PORT, ADDRESS:PORT or [IPV6]:PORT, for example --local 40000";

/// `--local`: where our side of the connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Local {
    /// The address; the routing table chooses when there is none.
    pub ip: Option<IpAddr>,
    /// The port, never 0.
    pub port: u16,
}

/// Reads `--local [IP:]PORT`.
///
/// # Errors
/// A usage failure for malformed text, port 0, and addresses that no connection can leave from.
pub fn local(text: &str) -> Result<Local, Failure> {
    if text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty() {
        return Ok(Local { ip: None, port: port("--local", text, WRITE_LOCAL)? });
    }
    let (host, port) = split("--local", text, WRITE_LOCAL)?;
    let Host::Address(address) = host else {
        return Err(Failure::usage(
            format!("--local \"{text}\" does not name an address"),
            WRITE_LOCAL,
        ));
    };
    let ip = address.ip();
    let wrong = match ip {
        ip if ip.is_unspecified() => "is no single address; give the port alone",
        ip if ip.is_loopback() => "is the loopback, from where no peer can be reached",
        ip if ip.is_multicast() => "is a multicast address",
        IpAddr::V4(ip) if ip.is_broadcast() => "is the broadcast address",
        _ => return Ok(Local { ip: Some(ip), port }),
    };
    Err(Failure::usage(format!("--local {ip} {wrong}"), WRITE_LOCAL))
}

/// Reads `--peer`, resolves a name, and judges the address.
///
/// A name may have addresses of both IP versions: the version of `local` wins if that was given,
/// the resolver's first choice otherwise.
///
/// # Errors
/// A usage failure for malformed text, a name without a usable address, and whatever [`judge`]
/// refuses.
pub fn peer(text: &str, local: Option<IpAddr>) -> Result<SocketAddr, Failure> {
    let (host, port) = split("--peer", text, WRITE_PEER)?;
    let address = resolve("--peer", host, port, local)?;
    judge(address, local)
}

/// The address of `host` with `port`, of the IP version of `local` where there is a choice.
pub(super) fn resolve(
    option: &str,
    host: Host<'_>,
    port: u16,
    local: Option<IpAddr>,
) -> Result<SocketAddr, Failure> {
    let name = match host {
        Host::Address(mut address) => {
            address.set_port(port);
            return Ok(address);
        }
        Host::Name(name) => name,
    };
    let todo = "check the name, or give the address itself";
    let found: Vec<SocketAddr> = (name, port)
        .to_socket_addrs()
        .map_err(|error| {
            Failure::usage(format!("{option} {name} cannot be resolved: {error}"), todo)
        })?
        .collect();
    choose(&found, local)
        .ok_or_else(|| Failure::usage(format!("{option} {name} has no address"), todo))
}

/// The address to use among those a name has.
fn choose(found: &[SocketAddr], local: Option<IpAddr>) -> Option<SocketAddr> {
    let same =
        |a: &&SocketAddr| local.is_none_or(|l| l.is_ipv4() == a.ip().to_canonical().is_ipv4());
    found.iter().find(same).or(found.first()).copied()
}

/// Whether a hole can be punched towards `peer` at all, from `local` if that is known. An
/// IPv4-mapped IPv6 address comes back as the IPv4 address that it is.
///
/// # Errors
/// A usage failure for the unspecified, loopback, broadcast and multicast addresses, for an IPv6
/// link-local one that does not name its interface, for our own, and for one of the other IP
/// version than `local`.
pub fn judge(peer: SocketAddr, local: Option<IpAddr>) -> Result<SocketAddr, Failure> {
    let peer = match peer.ip().to_canonical() {
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, peer.port()),
        IpAddr::V6(_) => peer,
    };
    let ip = peer.ip();
    let give = "give the peer's public address, or its private one when both are on one LAN";
    let refuse = |wrong: &str| Err(Failure::usage(format!("--peer {ip} {wrong}"), give));
    match ip {
        _ if ip.is_unspecified() => return refuse("is no single address"),
        _ if ip.is_loopback() || local == Some(ip) => return refuse("is this host itself"),
        _ if ip.is_multicast() => return refuse("is a multicast address"),
        IpAddr::V4(v4) if v4.is_broadcast() => return refuse("is the broadcast address"),
        IpAddr::V4(v4) if v4.octets()[0] == 0 => return refuse("is not an address of a host"),
        IpAddr::V4(v4) if v4.octets()[0] >= 240 => return refuse("is a reserved address"),
        IpAddr::V6(v6) if v6.is_unicast_link_local() && scope(peer) == 0 => {
            return Err(Failure::usage(
                format!("--peer {v6} is link-local and names no interface"),
                format!("add the interface: --peer '[{v6}%eth0]:{}'", peer.port()),
            ));
        }
        _ => {}
    }
    match local {
        Some(local) if local.is_ipv4() != ip.is_ipv4() => Err(Failure::usage(
            format!("--peer {ip} is {}, --local {local} is {}", version(ip), version(local)),
            "give both addresses in the same IP version, or --local with a port alone",
        )),
        _ => Ok(peer),
    }
}

fn version(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn scope(address: SocketAddr) -> u32 {
    match address {
        SocketAddr::V4(_) => 0,
        SocketAddr::V6(v6) => v6.scope_id(),
    }
}

#[derive(Debug)]
pub(super) enum Host<'a> {
    /// An address; its port is not set.
    Address(SocketAddr),
    Name(&'a str),
}

/// Splits `HOST:PORT` and tells addresses from names.
pub(super) fn split<'a>(
    option: &str,
    text: &'a str,
    write: &str,
) -> Result<(Host<'a>, u16), Failure> {
    let wrong = |what: &str| Failure::usage(format!("{option} \"{text}\" {what}"), write);
    if let Some(bracketed) = text.strip_prefix('[') {
        let (inside, after) =
            bracketed.split_once(']').ok_or_else(|| wrong("has no closing bracket"))?;
        let digits = after.strip_prefix(':').ok_or_else(|| wrong("has no port"))?;
        let address = ipv6(inside).ok_or_else(|| wrong("is not an IPv6 address"))?;
        return Ok((Host::Address(address), port(option, digits, write)?));
    }
    if text.parse::<Ipv6Addr>().is_ok() || text.matches(':').count() > 1 {
        return Err(wrong("needs brackets around the IPv6 address"));
    }
    let (host, digits) = text.split_once(':').ok_or_else(|| wrong("has no port"))?;
    let port = port(option, digits, write)?;
    if let Ok(v4) = host.parse::<Ipv4Addr>() {
        return Ok((Host::Address(SocketAddr::new(v4.into(), 0)), port));
    }
    // getaddrinfo would read 10.1 as 10.0.0.1 and 0x7f000001 as 127.0.0.1: such text is a slip.
    let last = host.rsplit('.').next().unwrap_or_default();
    let numeric = last.bytes().all(|b| b.is_ascii_digit())
        || (last.starts_with("0x") && last[2..].bytes().all(|b| b.is_ascii_hexdigit()));
    if numeric {
        return Err(wrong("is not an address and a port"));
    }
    if !host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b) || b >= 0x80) {
        return Err(wrong("is not an address and a port"));
    }
    Ok((Host::Name(host), port))
}

/// An IPv6 address with an optional `%interface`.
fn ipv6(text: &str) -> Option<SocketAddr> {
    let (address, zone) = text.split_once('%').unwrap_or((text, "0"));
    let scope = match zone.parse() {
        Ok(index) => index,
        Err(_) => nix::net::if_::if_nametoindex(zone).ok()?,
    };
    Some(SocketAddrV6::new(address.parse().ok()?, 0, 0, scope).into())
}

fn port(option: &str, digits: &str, write: &str) -> Result<u16, Failure> {
    match digits.parse::<u16>() {
        _ if !digits.bytes().all(|b| b.is_ascii_digit()) || digits.is_empty() => {
            Err(Failure::usage(format!("{option} port \"{digits}\" is not a number"), write))
        }
        Ok(0) => Err(Failure::usage(
            format!("{option} port 0 stands for no port"),
            "choose a port from 1 to 65535",
        )),
        Ok(port) => Ok(port),
        Err(_) => Err(Failure::usage(
            format!("{option} port {digits} is above 65535"),
            "choose a port from 1 to 65535",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn happened<T: std::fmt::Debug>(result: Result<T, Failure>) -> String {
        result.expect_err("should be refused").happened
    }

    #[test]
    fn peers_that_are_fine() {
        for (text, is) in [
            ("203.0.113.7:40000", "203.0.113.7:40000"),
            ("192.168.1.20:22", "192.168.1.20:22"),
            ("100.64.3.4:1", "100.64.3.4:1"),
            ("[2001:db8::1]:65535", "[2001:db8::1]:65535"),
            ("[::ffff:203.0.113.7]:80", "203.0.113.7:80"),
            ("[fe80::1%2]:80", "[fe80::1%2]:80"),
            ("[fe80::1%lo]:80", "[fe80::1%1]:80"),
        ] {
            assert_eq!(peer(text, None).map(|a| a.to_string()), Ok(is.to_owned()));
        }
    }

    #[test]
    fn peers_that_are_not() {
        for (text, says) in [
            ("", "--peer \"\" has no port"),
            ("203.0.113.7", "--peer \"203.0.113.7\" has no port"),
            ("203.0.113.7:", "--peer port \"\" is not a number"),
            ("203.0.113.7:http", "--peer port \"http\" is not a number"),
            ("203.0.113.7:+80", "--peer port \"+80\" is not a number"),
            ("203.0.113.7:0", "--peer port 0 stands for no port"),
            ("203.0.113.7:65536", "--peer port 65536 is above 65535"),
            ("300.1.1.1:80", "--peer \"300.1.1.1:80\" is not an address and a port"),
            ("10.1:80", "--peer \"10.1:80\" is not an address and a port"),
            ("0x7f000001:80", "--peer \"0x7f000001:80\" is not an address and a port"),
            (":80", "--peer \":80\" is not an address and a port"),
            ("a b:80", "--peer \"a b:80\" is not an address and a port"),
            ("2001:db8::1", "--peer \"2001:db8::1\" needs brackets around the IPv6 address"),
            ("2001:db8::1:80", "--peer \"2001:db8::1:80\" needs brackets around the IPv6 address"),
            ("[2001:db8::1", "--peer \"[2001:db8::1\" has no closing bracket"),
            ("[2001:db8::1]", "--peer \"[2001:db8::1]\" has no port"),
            ("[2001:zz::1]:80", "--peer \"[2001:zz::1]:80\" is not an IPv6 address"),
            ("[fe80::1%nosuch0]:80", "--peer \"[fe80::1%nosuch0]:80\" is not an IPv6 address"),
            ("0.0.0.0:80", "--peer 0.0.0.0 is no single address"),
            ("0.1.2.3:80", "--peer 0.1.2.3 is not an address of a host"),
            ("[::]:80", "--peer :: is no single address"),
            ("255.255.255.255:80", "--peer 255.255.255.255 is the broadcast address"),
            ("240.0.0.1:80", "--peer 240.0.0.1 is a reserved address"),
            ("224.0.0.1:80", "--peer 224.0.0.1 is a multicast address"),
            ("[ff02::1]:80", "--peer ff02::1 is a multicast address"),
            ("127.0.0.1:80", "--peer 127.0.0.1 is this host itself"),
            ("[::1]:80", "--peer ::1 is this host itself"),
            ("[::ffff:127.0.0.1]:80", "--peer 127.0.0.1 is this host itself"),
            ("[fe80::1]:80", "--peer fe80::1 is link-local and names no interface"),
        ] {
            assert_eq!(happened(peer(text, None)), says);
        }
    }

    #[test]
    fn local_forms() {
        let ip = |text: &str| text.parse().ok();
        for (text, is) in [
            ("40000", Local { ip: None, port: 40_000 }),
            ("10.0.0.2:512", Local { ip: ip("10.0.0.2"), port: 512 }),
            ("[2001:db8::2]:9", Local { ip: ip("2001:db8::2"), port: 9 }),
        ] {
            assert_eq!(local(text), Ok(is));
        }
        for (text, says) in [
            ("", "--local \"\" has no port"),
            ("0", "--local port 0 stands for no port"),
            ("70000", "--local port 70000 is above 65535"),
            ("10.0.0.2", "--local \"10.0.0.2\" has no port"),
            ("10.0.0.2:0", "--local port 0 stands for no port"),
            ("myhost:80", "--local \"myhost:80\" does not name an address"),
            ("0.0.0.0:80", "--local 0.0.0.0 is no single address; give the port alone"),
            (
                "127.0.0.1:80",
                "--local 127.0.0.1 is the loopback, from where no peer can be reached",
            ),
            ("224.0.0.1:80", "--local 224.0.0.1 is a multicast address"),
            ("255.255.255.255:80", "--local 255.255.255.255 is the broadcast address"),
        ] {
            assert_eq!(happened(local(text)), says);
        }
    }

    #[test]
    fn both_ends_must_differ_and_speak_one_version() {
        let v4 = "10.0.0.2".parse().ok();
        let v6 = "2001:db8::2".parse().ok();
        assert_eq!(happened(peer("10.0.0.2:80", v4)), "--peer 10.0.0.2 is this host itself");
        assert_eq!(
            happened(peer("10.0.0.1:80", v6)),
            "--peer 10.0.0.1 is IPv4, --local 2001:db8::2 is IPv6"
        );
        assert_eq!(
            happened(peer("[2001:db8::1]:80", v4)),
            "--peer 2001:db8::1 is IPv6, --local 10.0.0.2 is IPv4"
        );
    }

    #[test]
    fn a_name_takes_the_version_of_local() {
        let four: SocketAddr = "10.0.0.1:80".parse().unwrap();
        let six: SocketAddr = "[2001:db8::1]:80".parse().unwrap();
        assert_eq!(choose(&[six, four], None), Some(six));
        assert_eq!(choose(&[six, four], "10.0.0.2".parse().ok()), Some(four));
        assert_eq!(choose(&[four, six], "2001:db8::2".parse().ok()), Some(six));
        assert_eq!(choose(&[six], "10.0.0.2".parse().ok()), Some(six));
        assert_eq!(choose(&[], None), None);
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(bits in any::<u32>(), port in 1u16..) {
            let address = SocketAddr::new(Ipv4Addr::from(bits).into(), port);
            if let Ok(judged) = judge(address, None) {
                prop_assert_eq!(peer(&address.to_string(), None), Ok(judged));
            }
        }

        #[test]
        fn nothing_typed_panics(text in "[0-9a-f.:\\[\\]%x]{0,30}|\\PC{0,20}") {
            let _ = local(&text);
            let _ = split("--peer", &text, WRITE_PEER);
        }
    }
}
