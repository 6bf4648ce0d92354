//! What one attempt is asked to do.

use super::stock::Stock;
use crate::nat::PortModel;
use crate::punch::{Budget, Strategies, Strategy};
use crate::wire::{Tuple, WallTime};
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

/// How the peer's segments are caught and our own kernel's resets are held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Datapath {
    /// eBPF programs where this host can run them, else packet sockets.
    #[default]
    Auto,
    /// Packet sockets, which get copies, and guards: works everywhere.
    Packet,
    /// eBPF programs, which take the segments before this host's firewall and TCP see them, and
    /// answer the peer's SYN within the interrupt.
    Ebpf,
}

/// One punch: who, when, how. Build it, then [`Punch::run`](crate::engine::Punch::run) it.
#[derive(Debug)]
pub struct Punch {
    pub(crate) peer: SocketAddr,
    pub(crate) at: WallTime,
    /// What both ends reckon by: plan, sequence numbers, steps. `at`, unless that is later.
    pub(crate) agreed: WallTime,
    /// An instant that has passed is no error.
    pub(crate) may_be_late: bool,
    pub(crate) local_ip: Option<IpAddr>,
    pub(crate) local_port: u16,
    pub(crate) timeout: Duration,
    pub(crate) key: Option<crate::punch::Key>,
    pub(crate) strategies: Strategies,
    pub(crate) spread: u16,
    pub(crate) models: Option<(PortModel, PortModel)>,
    pub(crate) budget: Budget,
    pub(crate) anyway: bool,
    pub(crate) opener: Opener,
    pub(crate) opener_lead: Duration,
    pub(crate) search_lead: Duration,
    pub(crate) usual_hop_limit: Option<u8>,
    pub(crate) common_clock: bool,
    pub(crate) decides: Option<bool>,
    pub(crate) datapath: Datapath,
    pub(super) stock: Option<Stock>,
    pub(crate) pcap: Option<File>,
    pub(crate) interrupt: Option<OwnedFd>,
}

/// How a punch goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The ports are searched; the plan in words.
    Planned(String),
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
            agreed: at,
            may_be_late: false,
            local_ip: None,
            local_port: peer.port(),
            timeout: Duration::from_secs(10),
            key: None,
            strategies: Strategies::Auto,
            spread: 1,
            models: None,
            budget: Budget::default(),
            anyway: false,
            opener: Opener::Auto,
            opener_lead: Duration::from_millis(250),
            search_lead: Duration::from_millis(250),
            usual_hop_limit: None,
            common_clock: false,
            decides: None,
            datapath: Datapath::Auto,
            stock: None,
            pcap: None,
            interrupt: None,
        }
    }

    /// Local address; default: what the routing table chooses towards the peer.
    pub fn local_ip(mut self, ip: IpAddr) -> Self {
        self.local_ip = Some(ip);
        self
    }

    /// Where the instant has passed when everything is prepared, the SYN leaves as soon as it can.
    /// All that both ends reckon alike stays with the instant that they agreed on.
    pub(super) fn better_late_than_never(mut self) -> Self {
        self.may_be_late = true;
        self
    }

    /// Local port; default: the peer's port number.
    pub fn local_port(mut self, port: u16) -> Self {
        self.local_port = port;
        self
    }

    /// The instant.
    pub fn instant(&self) -> WallTime {
        self.at
    }

    /// The local address and port, as far as given.
    pub fn local(&self) -> (Option<IpAddr>, u16) {
        (self.local_ip, self.local_port)
    }

    /// Whether ports below 1024 may be bound, which takes CAP_NET_BIND_SERVICE: that of the caller,
    /// or those that make a random Linux router's pool small.
    pub fn binds_low_ports(&self) -> bool {
        let small_pool = |(ours, _): &(PortModel, _)| *ours == PortModel::LinuxRandom;
        self.local_port < 1024 || self.models.as_ref().is_some_and(small_pool)
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

    /// The ways to meet that are tried; default: all that the ends can do.
    pub fn strategies(mut self, strategies: Strategies) -> Self {
        self.strategies = strategies;
        self
    }

    /// Punch so many consecutive ports at once, from the local and the peer's port upward; both
    /// ends alike. At least 1, at most [`Punch::WIDEST_SPREAD`].
    pub fn spread(mut self, ports: u16) -> Self {
        self.spread = ports.clamp(1, Self::WIDEST_SPREAD);
        self
    }

    /// The most consecutive ports that are punched at once.
    pub const WIDEST_SPREAD: u16 = 64;

    /// How both routers number their mappings: ours, and the peer's. Where they are not known to
    /// keep one port, the ports are predicted or searched.
    pub fn models(mut self, ours: PortModel, theirs: PortModel) -> Self {
        self.models = Some((ours, theirs));
        self
    }

    /// What a search may cost; both ends alike.
    pub fn budget(mut self, budget: Budget) -> Self {
        self.budget = budget;
        self
    }

    /// Go on where the chance is below [`Punch::LEAST_CHANCE`].
    pub fn anyway(mut self) -> Self {
        self.anyway = true;
        self
    }

    /// A search that is less likely to succeed is not begun.
    pub const LEAST_CHANCE: f64 = 0.5;

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

    /// How long before the instant the last opener of a search leaves: by then it has passed our
    /// router even over a slow access line, and openers that were delayed, or sent by a clock
    /// somewhat behind, still come first. Both ends alike.
    pub(super) fn search_lead(mut self, lead: Duration) -> Self {
        self.search_lead = lead;
        self
    }

    /// The opener's hop limit where the instant is too near to wait for probes: as found on the way
    /// to somebody else, for our own routers are the first on every way.
    pub fn usual_hop_limit(mut self, hop_limit: u8) -> Self {
        self.usual_hop_limit = Some(hop_limit);
        self
    }

    /// The peer's clock was compared with ours: it does not matter whether anything keeps ours right.
    pub fn common_clock(mut self) -> Self {
        self.common_clock = true;
        self
    }

    /// Whether it is for this end to decide what one of both has to; both know it. It tells their
    /// segments apart, which chance does otherwise.
    pub(super) fn decides(mut self, decides: bool) -> Self {
        self.decides = Some(decides);
        self
    }

    /// How packets are caught; default: by the best way that works here.
    pub fn datapath(mut self, datapath: Datapath) -> Self {
        self.datapath = datapath;
        self
    }

    /// With programs that are loaded already.
    pub(super) fn stock(mut self, stock: Option<Stock>) -> Self {
        self.stock = stock;
        self
    }

    /// Every packet sent and received goes to this file as pcapng.
    pub fn pcap(mut self, file: File) -> Self {
        self.pcap = Some(file);
        self
    }

    /// How a search goes: one strategy, lest it cost twice.
    pub(crate) fn search_strategy(&self) -> Strategy {
        let key = self.key.is_some();
        [Strategy::SynAck, Strategy::Syn, Strategy::MidStream]
            .into_iter()
            .find(|strategy| self.strategies.includes(*strategy, key))
            .unwrap_or(Strategy::Syn)
    }

    /// So many consecutive ports a punch takes: those spread, one for what wants a tuple of its own,
    /// and one for the second instant.
    pub(crate) const fn ports(spread: u16) -> u16 {
        spread + 2
    }

    /// What is raced, the first preferred.
    pub(crate) fn tuples(&self, first: Tuple) -> Vec<(Tuple, Strategy)> {
        let by_syn = self.by_syn().map(|strategy| (0..self.spread).map(move |n| (n, strategy)));
        let mid_stream = self.strategies.includes(Strategy::MidStream, self.key.is_some());
        let next = if by_syn.is_some() { self.spread } else { 0 };
        let mid_stream = mid_stream.then_some((next, Strategy::MidStream));
        by_syn
            .into_iter()
            .flatten()
            .chain(mid_stream)
            .filter_map(|(nth, strategy)| Some((self.neighbour(first, nth)?, strategy)))
            .collect()
    }

    /// What is raced at a second instant. Without a key the peer may be a plain kernel, which knows
    /// of none.
    pub(crate) fn reserve(&self, first: Tuple) -> Option<(Tuple, Strategy)> {
        self.key.as_ref()?;
        Some((self.neighbour(first, Self::ports(self.spread) - 1)?, self.by_syn()?))
    }

    fn by_syn(&self) -> Option<Strategy> {
        let included = |it: &Strategy| self.strategies.includes(*it, self.key.is_some());
        [Strategy::SynAck, Strategy::Syn].into_iter().find(included)
    }

    /// The tuple `nth` places further, the same for both ends of a pair of port-preserving routers:
    /// upward, or downward where the numbers end before all have their place.
    fn neighbour(&self, tuple: Tuple, nth: u16) -> Option<Tuple> {
        let Tuple { mut local, mut remote } = tuple;
        let highest = local.port().max(remote.port());
        let upward = highest.checked_add(Self::ports(self.spread) - 1).is_some();
        let shifted = |port: u16| {
            let port = if upward { port.checked_add(nth) } else { port.checked_sub(nth) };
            port.filter(|port| *port > 0)
        };
        local.set_port(shifted(local.port())?);
        remote.set_port(shifted(remote.port())?);
        Some(Tuple { local, remote })
    }

    /// The punch ends as [`PunchError::Interrupted`](crate::engine::PunchError::Interrupted) when
    /// this descriptor becomes readable: a signalfd, a pipe, an eventfd. Nothing is read from it.
    pub fn interrupt(mut self, fd: OwnedFd) -> Self {
        self.interrupt = Some(fd);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::punch::Key;

    fn raced(local: u16, peer: u16, strategies: &str, key: bool) -> Vec<(u16, u16, Strategy)> {
        let remote = SocketAddr::from(([203, 0, 113, 1], peer));
        let mut punch = Punch::new(remote, WallTime::from_unix_ns(0))
            .strategies(strategies.parse().unwrap())
            .spread(2);
        if key {
            punch = punch.key(Key::from_bytes([7; 32]));
        }
        let tuple = Tuple { local: SocketAddr::from(([192, 168, 1, 2], local)), remote };
        let raced = punch.tuples(tuple).into_iter();
        raced.map(|(tuple, strategy)| (tuple.local.port(), tuple.remote.port(), strategy)).collect()
    }

    #[test]
    fn mid_stream_gets_a_tuple_of_its_own_beside_the_others() {
        use Strategy::{MidStream, Syn, SynAck};
        assert_eq!(raced(40, 50, "auto", false), [(40, 50, Syn), (41, 51, Syn)]);
        assert_eq!(
            raced(40, 50, "auto", true),
            [(40, 50, SynAck), (41, 51, SynAck), (42, 52, MidStream)]
        );
        assert_eq!(raced(40, 50, "mid-stream", true), [(40, 50, MidStream)]);
    }

    #[test]
    fn both_ends_go_the_same_way_where_the_port_numbers_end() {
        let ours = raced(65_534, 50, "syn", false);
        let theirs = raced(50, 65_534, "syn", false);
        assert_eq!(ours[1], (65_533, 49, Strategy::Syn));
        assert_eq!(theirs[1], (49, 65_533, Strategy::Syn));
    }
}
