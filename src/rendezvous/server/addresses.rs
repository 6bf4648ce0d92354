//! Where the server can be reached: two ports, and two addresses where it has them.

use crate::rendezvous::Origin;
use crate::wire::stun::Ends;
use std::net::{IpAddr, SocketAddr};

/// The server's ports and addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// Both ports.
    pub ports: [u16; 2],
    /// The address it listens on, if it is a single one.
    pub main: Option<IpAddr>,
    /// Its other addresses, one of each IP version at most.
    pub others: Vec<IpAddr>,
}

impl Addresses {
    /// The other of the two ports, at the same address.
    pub fn other_port(&self, local: SocketAddr) -> Option<SocketAddr> {
        let [one, two] = self.ports;
        let port = match local.port() {
            port if port == one => two,
            port if port == two => one,
            _ => return None,
        };
        (one != two).then_some(SocketAddr::new(local.ip(), port))
    }

    /// The address of the same IP version that is not `local`'s.
    fn other_ip(&self, local: SocketAddr) -> Option<IpAddr> {
        let fits = |ip: &IpAddr| ip.is_ipv4() == local.is_ipv4() && *ip != local.ip();
        let other = self.others.iter().copied().find(fits);
        // Who came to the other address finds the main one, if it is known.
        other.or_else(|| self.main.filter(fits).filter(|_| self.others.contains(&local.ip())))
    }

    /// The other address, with the same port and with the other one.
    pub fn other_address(&self, local: SocketAddr) -> Vec<SocketAddr> {
        let Some(ip) = self.other_ip(local) else { return Vec::new() };
        let same = SocketAddr::new(ip, local.port());
        std::iter::once(same).chain(self.other_port(same)).collect()
    }

    /// From where a probe leaves for a client that is connected to `local`.
    pub fn origin(&self, local: SocketAddr, from: Origin) -> Option<SocketAddr> {
        match from {
            Origin::OtherPort => self.other_port(local),
            Origin::OtherAddress => {
                self.other_ip(local).map(|ip| SocketAddr::new(ip, local.port()))
            }
        }
    }

    /// What a STUN response says on a connection from `remote` to `local`.
    pub fn ends(&self, local: SocketAddr, remote: SocketAddr) -> Ends {
        let other = self.other_address(local).into_iter().find(|at| at.port() != local.port());
        Ends { observed: remote, origin: local, other }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn two() -> Addresses {
        Addresses {
            ports: [3478, 3479],
            main: None,
            others: vec!["203.0.113.3".parse().unwrap(), "2001:db8::3".parse().unwrap()],
        }
    }

    #[test]
    fn everything_else_is_told_in_the_same_ip_version() {
        let addresses = two();
        let local = at("203.0.113.2:3479");
        assert_eq!(addresses.other_port(local), Some(at("203.0.113.2:3478")));
        assert_eq!(
            addresses.other_address(local),
            [at("203.0.113.3:3479"), at("203.0.113.3:3478")]
        );
        assert_eq!(addresses.ends(local, local).other, Some(at("203.0.113.3:3478")));
        let six = at("[2001:db8::2]:3478");
        assert_eq!(addresses.other_address(six)[0], at("[2001:db8::3]:3478"));
    }

    #[test]
    fn who_came_to_the_other_address_is_told_the_main_one_if_there_is_one() {
        let mut addresses = two();
        let local = at("203.0.113.3:3478");
        assert_eq!(addresses.origin(local, Origin::OtherAddress), None);
        addresses.main = "203.0.113.2".parse().ok();
        assert_eq!(addresses.origin(local, Origin::OtherAddress), Some(at("203.0.113.2:3478")));
        assert_eq!(addresses.origin(local, Origin::OtherPort), Some(at("203.0.113.3:3479")));
    }

    #[test]
    fn one_address_has_no_other() {
        let addresses = Addresses { ports: [3478, 3479], ..Addresses::default() };
        let local = at("203.0.113.2:3478");
        assert!(addresses.other_address(local).is_empty());
        assert_eq!(addresses.ends(local, local).other, None);
    }
}
