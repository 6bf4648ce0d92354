//! What the routers on the way do with TCP: measured against a tcp-punch server, or as far as they
//! can tell against STUN servers.

mod air;
mod asked;
mod crafted;
mod line;
mod trials;

use super::survey::{Survey, SurveyError};
use crate::nat::{self, Evidence, Nat, Observation, Prospect};
use crate::sys::{CallFailed, Guard, Route, RouteError};
use air::Air;
use serde::Serialize;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};
use trials::{Stopped, Trials};

/// Measures the behaviour of the NATs and firewalls between this host and a server.
///
/// It surveys mappings as [`Survey`] does. Against a tcp-punch server it also has SYNs sent to
/// mappings of its own; with CAP_NET_RAW it sends packets that no socket sends. Whatever could not
/// be tried is unknown in what it finds.
#[derive(Clone, Debug)]
pub struct Discovery {
    server: Option<SocketAddr>,
    stun: Vec<SocketAddr>,
    local_ip: Option<IpAddr>,
    port: Option<u16>,
    timeout: Duration,
}

/// What takes long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// The server's SYNs have not come in, and whether a router answers them is to be seen: some
    /// hold a SYN for six seconds (RFC 5382 REQ-4).
    ForReaction,
}

/// What was found, and what follows.
#[derive(Clone, Debug, Serialize)]
pub struct Discovered {
    /// 1.
    pub schema_version: u32,
    /// The servers that were asked, the tcp-punch server first if there is one.
    pub servers: Vec<SocketAddr>,
    /// Whether the first of them is a tcp-punch server.
    pub rendezvous: bool,
    /// What the routers do.
    #[serde(flatten)]
    pub nat: Nat,
    /// With which kinds of router this host can punch.
    pub prospects: Vec<Prospect>,
    /// What all that means, a sentence each.
    pub meaning: Vec<String>,
    /// What would make it better, a sentence each.
    pub advice: Vec<String>,
    /// What was wrong while measuring, a sentence each.
    pub warnings: Vec<String>,
    /// How long it took.
    pub took_ms: u64,
}

/// Why nothing was found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiscoveryError {
    /// No server was named.
    #[error("there is no server to ask")]
    NoServer,
    /// No server tells anything.
    #[error(transparent)]
    Survey(#[from] SurveyError),
    /// There is no way to the server.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// A system call failed.
    #[error(transparent)]
    Call(#[from] CallFailed),
}

impl DiscoveryError {
    /// What to do about it, one line without its full stop.
    pub fn advice(&self) -> String {
        match self {
            Self::NoServer => "name one with --server HOST or --stun HOST".into(),
            Self::Survey(error) => error.advice(),
            Self::Route(RouteError::Ourselves(_)) => {
                "name a server elsewhere: the routers in between are what is measured".into()
            }
            Self::Route(RouteError::NotOurs(_)) => {
                "give --local one of this host's addresses (ip address), or a port alone".into()
            }
            Self::Route(_) => "check the address, and that the network is up (ip route)".into(),
            Self::Call(failed) => failed.advice(),
        }
    }
}

impl From<Stopped> for DiscoveryError {
    fn from(stopped: Stopped) -> Self {
        match stopped {
            Stopped::Server(error) => Self::Survey(error),
            Stopped::Call(error) => Self::Call(error),
        }
    }
}

impl Discovery {
    /// Against a tcp-punch server, STUN servers (RFC 8489 over TCP), or both.
    pub fn new(server: Option<SocketAddr>, stun: impl IntoIterator<Item = SocketAddr>) -> Self {
        let stun = stun.into_iter().collect();
        let timeout = Duration::from_secs(5);
        Self { server, stun, local_ip: None, port: None, timeout }
    }

    /// From this address; default: what the routing table chooses.
    pub fn local_ip(mut self, ip: IpAddr) -> Self {
        self.local_ip = Some(ip);
        self
    }

    /// The first local port whose mappings are surveyed; default: any.
    pub fn local_port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// Give up so long after a server was called that does not answer.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Measures: one to two seconds, and up to ten where a router says nothing.
    ///
    /// # Errors
    /// [`DiscoveryError`], when no server tells anything.
    pub fn run(self, waiting: &mut dyn FnMut(Waiting)) -> Result<Discovered, DiscoveryError> {
        let began = Instant::now();
        let mut warnings = Vec::new();
        let target = self.server.or(self.stun.first().copied()).ok_or(DiscoveryError::NoServer)?;
        let route = Route::to(target.ip(), self.local_ip)?;
        let local_ip = route.local_ip;

        let mut trials = Trials::new(local_ip, target, random()?);
        if self.server.is_some() {
            trials.connect()?;
        }
        if let Some((guard, port)) = guarded_port(local_ip) {
            trials.ack_from(guard, port);
        }
        let air = Air::new(&route, trials.ports());
        match trials.take_air(air) {
            Err(error) if error.is_permission() => warnings
                .push("without CAP_NET_RAW only mappings can be measured: run it with sudo".into()),
            other => other?,
        }
        if self.server.is_some() {
            trials.await_welcome(self.timeout)?;
        }
        let welcome = trials.welcome().cloned();
        if self.server.is_some() && welcome.is_none() {
            warnings.push(format!(
                "{target} is no tcp-punch server, or one of another version: only what STUN tells \
                 is known"
            ));
        }

        let observations = self.survey(local_ip, welcome.as_ref().and_then(|it| it.other_port))?;
        let told = welcome.as_ref().map(|it| (target, it.observed));
        warnings.extend(contradiction(&observations, told));
        trials.run(&observations, waiting)?;

        let [from_other_port, from_other_address, crossed] = trials.probes();
        let evidence = Evidence {
            local: local_ip,
            observations,
            from_other_port,
            from_other_address,
            crossed,
            ack_answered: trials.has_air().then_some(trials.ack_answered),
            raw: trials.has_air(),
            ours: welcome.is_some(),
            hairpin: trials.hairpin(),
            path: trials.path.clone(),
            external_at: trials.external_at,
        };
        trials.end();
        tracing::debug!("{evidence:?}");
        let nat = evidence.judge();
        let prospects = nat::prospects(&nat);
        Ok(Discovered {
            schema_version: 1,
            servers: self.server.into_iter().chain(self.stun).collect(),
            rendezvous: welcome.is_some(),
            meaning: nat::meaning(&nat, &prospects),
            advice: nat::advice(&nat),
            nat,
            prospects,
            warnings,
            took_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        })
    }

    fn survey(
        &self,
        local_ip: IpAddr,
        other_port: Option<SocketAddr>,
    ) -> Result<Vec<Observation>, DiscoveryError> {
        let servers = self.server.into_iter().chain(other_port).chain(self.stun.iter().copied());
        let port = match self.port {
            Some(port) => port,
            None => free_port(local_ip).ok_or(SurveyError::NoSource)?,
        };
        let most = 4 + self.stun.len().saturating_sub(1);
        let survey = Survey::new(servers, port).local_ip(local_ip).neighbours(4).privileged(2);
        Ok(survey.mappings_per_source(most).timeout(self.timeout).run()?)
    }
}

/// Servers that see this host under different addresses: one of them lies, or the NAT has several
/// addresses and pools them arbitrarily (RFC 4787 REQ-2).
fn contradiction(
    observations: &[Observation],
    welcome: Option<(SocketAddr, SocketAddr)>,
) -> Option<String> {
    let first = observations.first()?;
    let said = observations.iter().map(|it| (it.destination, it.external)).chain(welcome);
    let mut others = said.filter(|(_, external)| external.ip() != first.external.ip());
    let (server, external) = others.next()?;
    Some(format!(
        "{} says that we come from {}, {server} says {}: one of them lies, or the NAT has several \
         addresses",
        first.destination,
        first.external.ip(),
        external.ip()
    ))
}

/// A port that nobody uses now.
fn free_port(ip: IpAddr) -> Option<u16> {
    TcpListener::bind((ip, 0)).and_then(|free| free.local_addr()).ok().map(|free| free.port())
}

fn guarded_port(ip: IpAddr) -> Option<(Guard, u16)> {
    let port = free_port(ip)?;
    Guard::new(SocketAddr::new(ip, port)).ok().map(|guard| (guard, port))
}

fn random() -> Result<u64, CallFailed> {
    getrandom::u64().map_err(|_| CallFailed { call: "getrandom", errno: nix::errno::Errno::ENOSYS })
}
