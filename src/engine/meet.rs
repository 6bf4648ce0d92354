//! Two peers meet at a server and punch to each other.

mod attempts;
mod door;
mod error;
mod line;
mod meeting;
mod proof;
mod server_clock;
mod surroundings;
mod wall;
mod ways;

pub use error::{MeetError, MeetFailure};
pub use server_clock::server_clock;

use super::config::{Datapath, Opener};
use super::stock::Stock;
use super::{Connection, PortMapping, Progress};
use crate::nat::PortModel;
use crate::punch::{Budget, Strategies};
use crate::rendezvous::{ClockEstimate, Code, PublicKey, Purpose};
use crate::sys::{GuardError, Route};
use line::Line;
use meeting::Meeting;
use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;
use surroundings::Surroundings;

/// Meets a peer at a server: learns what both have to know, agrees with the peer on an instant,
/// and punches. Build it, then [`Meet::run`] it.
#[derive(Debug)]
pub struct Meet {
    server: SocketAddr,
    purpose: Option<Purpose>,
    local_ip: Option<IpAddr>,
    stun: Vec<SocketAddr>,
    models: (Option<PortModel>, Option<PortModel>),
    spread: u16,
    timeout: Duration,
    strategies: Strategies,
    budget: Budget,
    anyway: bool,
    opener: Opener,
    opener_lead: Option<Duration>,
    datapath: Datapath,
    /// Programs that are loaded while the peer is awaited.
    stock: Option<Stock>,
    pcap: Option<File>,
    proof: bool,
    allowed: Option<Vec<PublicKey>>,
    interrupt: Option<OwnedFd>,
}

/// How it goes.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Tell the peer this code.
    Coded(Code),
    /// The peer is there. Where it is known by its key, this is it.
    Met(Option<PublicKey>),
    /// These ways are tried.
    Agreed(Vec<String>),
    /// The likeliest of them.
    Punch(Progress),
}

/// A peer that was met, on a connection that both ends have proven.
#[derive(Debug)]
pub struct Met {
    /// The connection, and the report of the punch with all ways that were tried.
    pub connection: Connection,
    /// Who it is, where peers are known by their keys.
    pub peer: Option<PublicKey>,
    /// A port mapping that the connection may depend on; dropping it takes it back, and waits for
    /// that half a second at most.
    pub mapping: Option<PortMapping>,
    /// This clock against the server's.
    pub clock: ClockEstimate,
}

/// The punch's own port is the first of so many that a meeting may use.
const PORTS: u16 = 210;
/// Local ports come from here: above what services use, below what the kernel hands out by default
/// (net.ipv4.ip_local_port_range), so that nobody else gets one meanwhile.
const FROM: u16 = 16_384;
const BELOW: u16 = 32_768 - PORTS;
/// More ways to the peer are hardly ever tried at once.
const WAYS: usize = 3;
/// So many local ports are tried before all are taken for taken.
const TRIES: usize = 8;

impl Meet {
    /// A meeting at `server`. Everything else has its default: ten seconds of patience for the
    /// punch, all strategies, automatic opener, both ends prove who they are.
    pub fn new(server: SocketAddr, purpose: Purpose) -> Self {
        Self {
            server,
            purpose: Some(purpose),
            local_ip: None,
            stun: Vec::new(),
            models: (None, None),
            spread: 1,
            timeout: Duration::from_secs(10),
            strategies: Strategies::Auto,
            budget: Budget::default(),
            anyway: false,
            opener: Opener::Auto,
            opener_lead: None,
            datapath: Datapath::Auto,
            stock: None,
            pcap: None,
            proof: true,
            allowed: None,
            interrupt: None,
        }
    }

    /// Local address; default: what the routing table chooses towards the server.
    pub fn local_ip(mut self, ip: IpAddr) -> Self {
        self.local_ip = Some(ip);
        self
    }

    /// Further servers that tell how our router numbers ports (STUN over TCP).
    pub fn stun(mut self, servers: Vec<SocketAddr>) -> Self {
        self.stun = servers;
        self
    }

    /// How our router numbers ports, and the peer's, where somebody knows better than what is
    /// measured.
    pub fn models(mut self, ours: Option<PortModel>, theirs: Option<PortModel>) -> Self {
        self.models = (ours, theirs);
        self
    }

    /// Punch so many consecutive ports at once, both ends alike, as [`Punch::spread`].
    ///
    /// [`Punch::spread`]: super::Punch::spread
    pub fn spread(mut self, ports: u16) -> Self {
        self.spread = ports;
        self
    }

    /// Give up this long after the agreed instant.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The strategies that are tried; both ends use what they have in common.
    pub fn strategies(mut self, strategies: Strategies) -> Self {
        self.strategies = strategies;
        self
    }

    /// What a search may cost; the smaller of both ends' counts.
    pub fn budget(mut self, budget: Budget) -> Self {
        self.budget = budget;
        self
    }

    /// Go on where the chance is below [`Punch::LEAST_CHANCE`](super::Punch::LEAST_CHANCE).
    pub fn anyway(mut self) -> Self {
        self.anyway = true;
        self
    }

    /// How the low-TTL opener is sent.
    pub fn opener(mut self, opener: Opener) -> Self {
        self.opener = opener;
        self
    }

    /// How long before the instant the opener leaves; default: as soon as the instant is known.
    pub fn opener_lead(mut self, lead: Duration) -> Self {
        self.opener_lead = Some(lead);
        self
    }

    /// How packets are caught, as [`Punch::datapath`](super::Punch::datapath).
    pub fn datapath(mut self, datapath: Datapath) -> Self {
        self.datapath = datapath;
        self
    }

    /// Every packet of the likeliest way goes to this file as pcapng.
    pub fn pcap(mut self, file: File) -> Self {
        self.pcap = Some(file);
        self
    }

    /// Do not ask the peer to prove itself on the connection. It does if either end asks.
    pub fn without_proof(mut self) -> Self {
        self.proof = false;
        self
    }

    /// Tells a caller whose key is not among these that it is not let in, and nothing else. Where
    /// nobody is, nothing is asked of routers and servers either, beyond the one connection.
    pub fn allowed(mut self, keys: Vec<PublicKey>) -> Self {
        self.allowed = Some(keys);
        self
    }

    /// Ends as [`MeetError::Interrupted`] when this descriptor becomes readable.
    pub fn interrupt(mut self, fd: OwnedFd) -> Self {
        self.interrupt = Some(fd);
        self
    }

    /// Meets. Blocks until the connection stands or there is a reason why not.
    ///
    /// Needs CAP_NET_RAW and CAP_NET_ADMIN; CAP_NET_BIND_SERVICE makes some routers' ports easier
    /// to find.
    ///
    /// # Errors
    /// [`MeetFailure`].
    pub fn run(mut self, progress: &mut dyn FnMut(Step)) -> Result<Met, MeetFailure> {
        let route = Route::to(self.server.ip(), self.local_ip).map_err(MeetError::from)?;
        if self.datapath != Datapath::Packet {
            // Where nothing else is allowed, the other ways to the peer need some as well.
            let count = if self.datapath == Datapath::Ebpf { WAYS } else { 1 };
            self.stock = Some(Stock::ahead(route.interface_index, 0, count));
        }
        let line = self.connect(route.local_ip)?;
        let mut around = Surroundings::new(line.local()?, self.server)?;
        if self.allowed.as_ref().is_none_or(|keys| !keys.is_empty()) {
            around.explore(&self.stun)?;
        }
        Meeting::new(self, line, around)?.run(progress)
    }

    /// Begins to connect to the server, from a port that the punch can use.
    fn connect(&mut self, ip: IpAddr) -> Result<Line, MeetError> {
        let mut tries = 0;
        loop {
            let random = getrandom::u32().unwrap_or(std::process::id());
            let port = FROM + (random % u32::from(BELOW - FROM)) as u16;
            tries += 1;
            match Line::open(SocketAddr::new(ip, port), self.server) {
                Err(MeetError::Local(GuardError::PortInUse(_))) if tries < TRIES => {}
                Err(error) => return Err(error),
                Ok(mut line) => {
                    line.purpose = self.purpose.take();
                    return Ok(line);
                }
            }
        }
    }
}
