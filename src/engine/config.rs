//! What one attempt is asked to do.

use crate::wire::WallTime;
use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

/// The low-TTL opener's hop limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Opener {
    /// The first hop past the outermost NAT, found by probing.
    #[default]
    Auto,
    /// No opener.
    Off,
    /// This hop limit.
    HopLimit(u8),
}

/// One punch: who, when, how. Build it, then [`Punch::run`](crate::engine::Punch::run) it.
#[derive(Debug)]
pub struct Punch {
    pub(crate) peer: SocketAddr,
    pub(crate) at: WallTime,
    pub(crate) local_ip: Option<IpAddr>,
    pub(crate) local_port: u16,
    pub(crate) timeout: Duration,
    pub(crate) key: Option<crate::punch::Key>,
    pub(crate) opener: Opener,
    pub(crate) opener_lead: Duration,
    pub(crate) pcap: Option<File>,
    pub(crate) interrupt: Option<OwnedFd>,
}

/// How a punch goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// So long until the instant.
    Waiting(Duration),
    /// The SYN has left.
    Fired,
}

impl Punch {
    /// A punch towards `peer` whose SYN leaves at `at`. Everything else has its default: local
    /// port as the peer's, ten seconds of patience, no key, automatic opener 250 ms ahead.
    pub fn new(peer: SocketAddr, at: WallTime) -> Self {
        Self {
            peer,
            at,
            local_ip: None,
            local_port: peer.port(),
            timeout: Duration::from_secs(10),
            key: None,
            opener: Opener::Auto,
            opener_lead: Duration::from_millis(250),
            pcap: None,
            interrupt: None,
        }
    }

    /// Local address; default: what the routing table chooses towards the peer.
    pub fn local_ip(mut self, ip: IpAddr) -> Self {
        self.local_ip = Some(ip);
        self
    }

    /// Local port; default: the peer's port number.
    pub fn local_port(mut self, port: u16) -> Self {
        self.local_port = port;
        self
    }

    /// The local address and port, as far as given.
    pub fn local(&self) -> (Option<IpAddr>, u16) {
        (self.local_ip, self.local_port)
    }

    /// Give up this long after the instant.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Shared secret: it sets both initial sequence numbers, and only a peer that holds it can
    /// complete the handshake.
    pub fn key(mut self, key: crate::punch::Key) -> Self {
        self.key = Some(key);
        self
    }

    /// How the low-TTL opener is sent.
    pub fn opener(mut self, opener: Opener) -> Self {
        self.opener = opener;
        self
    }

    /// How long before the instant the opener leaves.
    pub fn opener_lead(mut self, lead: Duration) -> Self {
        self.opener_lead = lead;
        self
    }

    /// Every packet sent and received goes to this file as pcapng.
    pub fn pcap(mut self, file: File) -> Self {
        self.pcap = Some(file);
        self
    }

    /// The punch ends as [`PunchError::Interrupted`](crate::engine::PunchError::Interrupted) when
    /// this descriptor becomes readable: a signalfd, a pipe, an eventfd. Nothing is read from it.
    pub fn interrupt(mut self, fd: OwnedFd) -> Self {
        self.interrupt = Some(fd);
        self
    }
}
