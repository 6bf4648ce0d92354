//! Which destination belongs to which attached router.

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// A set of addresses with the same leading bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Prefix {
    address: IpAddr,
    len: u8,
}

impl Prefix {
    fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => {
                let differing = u32::from(ours) ^ u32::from(theirs);
                differing.leading_zeros() >= u32::from(self.len)
            }
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => {
                let differing = u128::from(ours) ^ u128::from(theirs);
                differing.leading_zeros() >= u32::from(self.len)
            }
            _ => false,
        }
    }
}

impl FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not ADDRESS/LENGTH");
        let (address, len) = text.split_once('/').ok_or_else(wrong)?;
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let len: u8 = len.parse().map_err(|_| wrong())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        if len > longest {
            return Err(wrong());
        }
        Ok(Self { address, len })
    }
}

/// One `--attach`: a router's namespace, its interface, its prefixes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attachment {
    pub(crate) netns: PathBuf,
    pub(crate) interface: String,
    pub(crate) prefixes: Vec<Prefix>,
}

impl FromStr for Attachment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not NETNS=IFNAME:PREFIX[,PREFIX]");
        let (netns, rest) = text.split_once('=').ok_or_else(wrong)?;
        let (interface, prefixes) = rest.split_once(':').ok_or_else(wrong)?;
        if netns.is_empty() || interface.is_empty() {
            return Err(wrong());
        }
        Ok(Self {
            netns: PathBuf::from("/run/netns").join(netns),
            interface: interface.to_owned(),
            prefixes: prefixes.split(',').map(str::parse).collect::<Result<_, _>>()?,
        })
    }
}

/// Prefixes of all attached routers.
pub(crate) struct Routes(Vec<(Prefix, usize)>);

impl Routes {
    pub(crate) fn new(prefixes: impl IntoIterator<Item = Vec<Prefix>>) -> Self {
        let mut routes: Vec<_> = prefixes
            .into_iter()
            .enumerate()
            .flat_map(|(to, prefixes)| prefixes.into_iter().map(move |prefix| (prefix, to)))
            .collect();
        // The longest prefix that matches is then the first one.
        routes.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len));
        Self(routes)
    }

    pub(crate) fn find(&self, destination: IpAddr) -> Option<usize> {
        self.0.iter().find(|(prefix, _)| prefix.contains(destination)).map(|(_, to)| *to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_wins() {
        let routes = Routes::new([
            vec!["0.0.0.0/0".parse().unwrap()],
            vec!["203.0.113.0/24".parse().unwrap(), "2001:db8:b::/48".parse().unwrap()],
        ]);
        assert_eq!(routes.find("203.0.113.9".parse().unwrap()), Some(1));
        assert_eq!(routes.find("203.0.114.9".parse().unwrap()), Some(0));
        assert_eq!(routes.find("2001:db8:b:1::9".parse().unwrap()), Some(1));
        assert_eq!(routes.find("2001:db8:c::9".parse().unwrap()), None);
    }

    #[test]
    fn attachments() {
        let attachment: Attachment =
            "x-router-a=wan:198.51.100.0/24,2001:db8:a::/48".parse().unwrap();
        assert_eq!(attachment.netns, PathBuf::from("/run/netns/x-router-a"));
        assert_eq!(attachment.interface, "wan");
        assert_eq!(attachment.prefixes.len(), 2);
        for wrong in ["", "a", "a=wan", "=wan:1.0.0.0/8", "a=wan:", "a=wan:1.0.0.0/33"] {
            assert!(wrong.parse::<Attachment>().is_err(), "{wrong}");
        }
    }
}
