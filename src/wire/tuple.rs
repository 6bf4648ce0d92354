//! The pair of endpoints that names one connection on this host.

use std::fmt;
use std::net::SocketAddr;

/// The 4-tuple as this host sees it (before any translation on the way).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tuple {
    /// Our address and port.
    pub local: SocketAddr,
    /// The peer's address and port as we reach them.
    pub remote: SocketAddr,
}

impl Tuple {
    /// The same connection seen from the other end.
    pub fn reversed(self) -> Self {
        Self { local: self.remote, remote: self.local }
    }

    /// Whether both endpoints are IPv6.
    pub fn is_ipv6(self) -> bool {
        self.remote.is_ipv6()
    }
}

impl fmt::Display for Tuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} > {}", self.local, self.remote)
    }
}
