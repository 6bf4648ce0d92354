//! What the outer address of a router is good for.

use std::net::Ipv4Addr;

/// How far a router's outer address reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outer {
    /// As far as the internet.
    Public,
    /// To the inside of another NAT.
    BehindNat,
    /// Nowhere: no router has such an address outside.
    Nonsense,
}

impl Outer {
    pub(super) fn of(address: Ipv4Addr) -> Self {
        let [a, b, c, d] = address.octets();
        match (a, b, c, d) {
            // RFC 1918, the shared addresses of RFC 6598, and RFC 6333's between a home and its
            // provider's NAT, which RFC 7335 has for other translators too.
            _ if address.is_private() => Self::BehindNat,
            (100, 64..=127, ..) | (192, 0, 0, 0..=7) => Self::BehindNat,
            // This network, the host itself, its link (RFC 1122, RFC 3927), all from multicast on.
            (0 | 127 | 224.., ..) | (169, 254, ..) => Self::Nonsense,
            _ => Self::Public,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_and_shared_addresses_are_a_second_nat_and_their_neighbours_are_not() {
        let of = |text: &str| Outer::of(text.parse().unwrap());
        for inside in [
            "10.0.0.0",
            "10.255.255.255",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.0.1",
            "192.168.255.255",
            "100.64.0.0",
            "100.127.255.255",
            "192.0.0.2",
        ] {
            assert_eq!(of(inside), Outer::BehindNat, "{inside}");
        }
        for outside in [
            "9.255.255.255",
            "11.0.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.167.255.255",
            "192.169.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "192.0.0.8",
            "169.253.0.1",
            "223.255.255.255",
        ] {
            assert_eq!(of(outside), Outer::Public, "{outside}");
        }
        for nowhere in ["0.0.0.0", "127.0.0.1", "169.254.1.1", "224.0.0.1", "255.255.255.255"] {
            assert_eq!(of(nowhere), Outer::Nonsense, "{nowhere}");
        }
    }
}
