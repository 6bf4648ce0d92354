//! Addresses that a server cannot have seen.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// Why an address cannot be how the other end of a connection appears, or is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nonsense {
    /// The connection has the other IP version.
    OtherFamily,
    /// Port 0.
    NoPort,
    /// It stands for no host, or for many.
    NoHost,
    /// It has no meaning where the server is.
    NarrowerScope(Scope),
}

/// How far an address means anything, the narrowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// One host.
    Loopback,
    /// One link: RFC 3927, RFC 4291 section 2.5.6.
    Link,
    /// One site or provider: RFC 1918, RFC 6598, RFC 4193.
    Private,
    /// Everywhere.
    Public,
}

impl Scope {
    /// Of `ip`.
    pub fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            ip if ip.is_loopback() => Self::Loopback,
            IpAddr::V4(v4) if v4.is_link_local() => Self::Link,
            IpAddr::V6(v6) if v6.is_unicast_link_local() => Self::Link,
            IpAddr::V4(v4) if v4.is_private() => Self::Private,
            IpAddr::V4(v4) if v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64 => Self::Private,
            IpAddr::V6(v6) if v6.is_unique_local() => Self::Private,
            _ => Self::Public,
        }
    }
}

impl Nonsense {
    /// What is wrong with `address` as the far end of a connection with `server`, if anything.
    pub fn of(address: SocketAddr, server: SocketAddr) -> Option<Self> {
        let (ip, scope) = (address.ip().to_canonical(), Scope::of(address.ip()));
        if ip.is_ipv4() != server.ip().to_canonical().is_ipv4() {
            return Some(Self::OtherFamily);
        }
        let no_host = match ip {
            // 0.0.0.0/8, 224.0.0.0/4, and 240.0.0.0/4 with the broadcast address (RFC 6890).
            IpAddr::V4(v4) => v4.octets()[0] == 0 || v4.octets()[0] >= 224,
            IpAddr::V6(v6) => v6.is_unspecified() || v6.is_multicast(),
        };
        if no_host {
            Some(Self::NoHost)
        } else if address.port() == 0 {
            Some(Self::NoPort)
        } else if scope < Scope::of(server.ip()) {
            Some(Self::NarrowerScope(scope))
        } else {
            None
        }
    }
}

impl fmt::Display for Nonsense {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OtherFamily => "is not of the IP version that we asked by",
            Self::NoPort => "has no port",
            Self::NoHost => "is no address of a host",
            Self::NarrowerScope(Scope::Loopback) => "is a loopback address",
            Self::NarrowerScope(Scope::Link) => "is a link-local address",
            Self::NarrowerScope(_) => "is a private address that a public server cannot see",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_cannot_have_seen() {
        let private = Some(Nonsense::NarrowerScope(Scope::Private));
        for (server, address, verdict) in [
            ("192.0.2.1:3478", "203.0.113.7:40000", None),
            ("192.0.2.1:3478", "[::ffff:203.0.113.7]:40000", None),
            ("192.0.2.1:3478", "[2001:db8::1]:40000", Some(Nonsense::OtherFamily)),
            ("[2001:db8::9]:3478", "203.0.113.7:40000", Some(Nonsense::OtherFamily)),
            ("192.0.2.1:3478", "203.0.113.7:0", Some(Nonsense::NoPort)),
            ("192.0.2.1:3478", "0.0.0.0:40000", Some(Nonsense::NoHost)),
            ("192.0.2.1:3478", "0.1.2.3:40000", Some(Nonsense::NoHost)),
            ("192.0.2.1:3478", "224.0.0.1:40000", Some(Nonsense::NoHost)),
            ("192.0.2.1:3478", "255.255.255.255:40000", Some(Nonsense::NoHost)),
            ("[2001:db8::9]:3478", "[::]:40000", Some(Nonsense::NoHost)),
            ("[2001:db8::9]:3478", "[ff02::1]:40000", Some(Nonsense::NoHost)),
            ("192.0.2.1:3478", "192.168.1.2:40000", private),
            ("192.0.2.1:3478", "100.64.1.2:40000", private),
            ("[2001:db8::9]:3478", "[fd00::1]:40000", private),
            ("192.0.2.1:3478", "127.0.0.1:1", Some(Nonsense::NarrowerScope(Scope::Loopback))),
            ("10.0.0.1:3478", "169.254.1.1:1", Some(Nonsense::NarrowerScope(Scope::Link))),
            ("10.0.0.1:3478", "192.168.1.2:40000", None),
            ("127.0.0.1:3478", "127.0.0.1:40000", None),
        ] {
            let of = Nonsense::of(address.parse().unwrap(), server.parse().unwrap());
            assert_eq!(of, verdict, "{address} from {server}");
        }
    }
}
