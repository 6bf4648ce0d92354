//! How the routers on the way translate this host's connections: measured, by asking STUN servers.

mod error;
mod over_udp;
mod round;

pub use error::SurveyError;

use crate::nat::Observation;
use crate::sys::{Dial, GuardError};
use over_udp::answers_over_udp;
use round::Round;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// At most so many questions, whatever was asked for: each takes an entry in somebody's router, of
/// which the smallest have a few thousand.
const MOST_QUESTIONS: usize = 256;

/// From one neighbouring port to the next: odd, so that both parities are asked from, and not 1, so
/// that neighbours are not taken for a counter's steps.
const STRIDE: u16 = 7;

/// Measures mappings: opens connections from a few local ports to the addresses of STUN servers
/// (RFC 8489 over TCP), and asks each how it sees us. A server that has another address and port
/// (RFC 5780) is asked at all four combinations. Build it, then [`Survey::run`] it.
///
/// ```no_run
/// use tcp_punch::engine::Survey;
///
/// let seen = Survey::new(["192.0.2.10:3478".parse()?], 40000).neighbours(2).run()?;
/// for it in seen {
///     println!("{} to {}: {}", it.local, it.destination, it.external);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Survey {
    servers: Vec<SocketAddr>,
    local_ip: Option<IpAddr>,
    sources: Vec<u16>,
    mappings_per_source: usize,
    timeout: Duration,
}

/// The connections from the first local port, still open: as long as they stand, no router forgets
/// its mapping. Dropping them closes them in the ordinary way.
#[derive(Debug)]
pub struct Held(#[expect(dead_code, reason = "it is dropped, which closes them")] Vec<Dial>);

impl Survey {
    /// A survey of the mappings of local port `source`, the punch's own. Everything else has its
    /// default: no other port, four mappings, five seconds of patience.
    pub fn new(servers: impl IntoIterator<Item = SocketAddr>, source: u16) -> Self {
        let mut distinct = Vec::new();
        for server in servers {
            if !distinct.contains(&server) {
                distinct.push(server);
            }
        }
        Self {
            servers: distinct,
            local_ip: None,
            sources: vec![source],
            mappings_per_source: 4,
            timeout: Duration::from_secs(5),
        }
    }

    /// Local address; default: what the routing table chooses towards each server.
    pub fn local_ip(mut self, ip: IpAddr) -> Self {
        self.local_ip = Some(ip);
        self
    }

    /// Another local port, after those so far. One that is in use or privileged is left out.
    pub fn source(mut self, port: u16) -> Self {
        if !self.sources.contains(&port) {
            self.sources.push(port);
        }
        self
    }

    /// So many more local ports a little above the first one, of both parities.
    pub fn neighbours(mut self, count: u16) -> Self {
        let first = self.sources.first().copied().unwrap_or(0);
        // Linux treats ports below 1024 unlike others (nf_nat_core.c).
        let like_first = |port: &u16| *port > 0 && (*port < 1024) == (first < 1024);
        for number in 1..=count {
            let away = number.saturating_mul(STRIDE);
            let above = first.checked_add(away).filter(like_first);
            if let Some(port) = above.or(first.checked_sub(away).filter(like_first)) {
                self = self.source(port);
            }
        }
        self
    }

    /// So many more local ports out of 512 to 1023, which need CAP_NET_BIND_SERVICE: Linux routers
    /// that choose at random map them into a small pool of their own.
    pub fn privileged(mut self, count: u16) -> Self {
        for number in 0..count.min(512 / STRIDE) {
            self = self.source(1023 - number * STRIDE);
        }
        self
    }

    /// To how many destinations each local port connects, if the servers have so many.
    pub fn mappings_per_source(mut self, count: usize) -> Self {
        self.mappings_per_source = count.max(1);
        self
    }

    /// Give up so long after the start. A survey with answers ends sooner.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Measures. The observations are in the order in which the mappings were made.
    ///
    /// Afterwards the first port's connections are closed in the ordinary way: a router keeps the
    /// mapping of a connection that was closed for minutes, that of one that was reset for
    /// seconds, and where one mapping serves all destinations the punch is to find it again. The
    /// other ports' connections are reset, so that they leave nothing behind, here or in the
    /// router.
    ///
    /// # Errors
    /// [`SurveyError`], when there is no observation at all: of the first server, or of the first local
    /// port.
    pub fn run(self) -> Result<Vec<Observation>, SurveyError> {
        self.run_and_hold().map(|(observations, _)| observations)
    }

    /// Likewise, but the first port's connections stay open as long as the caller likes.
    ///
    /// # Errors
    /// As [`Survey::run`].
    pub fn run_and_hold(self) -> Result<(Vec<Observation>, Held), SurveyError> {
        let first = *self.sources.first().ok_or(SurveyError::NoSource)?;
        let servers = self.reachable_servers()?;
        let mut round = Round::new(self.timeout);
        round.ask(servers.iter().map(|server| (self.local(first, *server), *server)))?;
        let destinations = self.destinations(&round);
        let further = self.sources.iter().flat_map(|source| {
            let new = |to: &&SocketAddr| *source != first || !servers.contains(to);
            destinations.iter().filter(new).map(|to| (self.local(*source, *to), *to))
        });
        let room = MOST_QUESTIONS - round.questions.len();
        round.ask(further.take(room))?;
        conclude(first, round)
    }

    /// Asks each of these servers from each of these local ports, one question right after the
    /// other, for who cannot wait for a second round. `tell` hears each observation as soon as it is
    /// there. The first port's connections stay open as long as the caller likes.
    ///
    /// # Errors
    /// As [`Survey::run`].
    pub fn run_at_once(
        self,
        questions: &[(u16, SocketAddr)],
        tell: &mut dyn FnMut(Observation),
    ) -> Result<(Vec<Observation>, Held), SurveyError> {
        let first = *self.sources.first().ok_or(SurveyError::NoSource)?;
        let mut round = Round::new(self.timeout);
        let tuples = questions.iter().map(|(port, server)| (self.local(*port, *server), *server));
        round.ask_aloud(tuples, &mut |question, binding| {
            if !question.repeated {
                tell(question.observation(binding));
            }
        })?;
        conclude(first, round)
    }

    fn reachable_servers(&self) -> Result<Vec<SocketAddr>, SurveyError> {
        let server = *self.servers.first().ok_or(SurveyError::NoServer)?;
        let same = |ip: IpAddr, server: &SocketAddr| ip.is_ipv4() == server.is_ipv4();
        let servers = self.servers.iter().filter(|to| self.local_ip.is_none_or(|ip| same(ip, to)));
        let servers: Vec<SocketAddr> = servers.copied().take(MOST_QUESTIONS).collect();
        match self.local_ip {
            Some(local) if servers.is_empty() => Err(SurveyError::OtherFamily { server, local }),
            _ => Ok(servers),
        }
    }

    /// Where each local port connects to: servers that answered, then their other addresses.
    fn destinations(&self, round: &Round) -> Vec<SocketAddr> {
        let mut destinations: Vec<SocketAddr> = Vec::new();
        let answered =
            || round.answers().map(|(question, binding)| (question.destination, binding));
        let others = answered().filter_map(|(server, binding)| Some((server, binding.other?)));
        let others = others.flat_map(|(server, other)| {
            [
                SocketAddr::new(server.ip(), other.port()),
                SocketAddr::new(other.ip(), server.port()),
                other,
            ]
        });
        for destination in answered().map(|(server, _)| server).chain(others) {
            if !destinations.contains(&destination) {
                destinations.push(destination);
            }
        }
        destinations.truncate(self.mappings_per_source);
        destinations
    }

    fn local(&self, port: u16, towards: SocketAddr) -> SocketAddr {
        let any: IpAddr = if towards.is_ipv4() {
            Ipv4Addr::UNSPECIFIED.into()
        } else {
            Ipv6Addr::UNSPECIFIED.into()
        };
        SocketAddr::new(self.local_ip.unwrap_or(any), port)
    }
}

/// The observations; all connections but the first port's are ended.
fn conclude(first: u16, mut round: Round) -> Result<(Vec<Observation>, Held), SurveyError> {
    // After a repeated SYN nobody knows which of them made the mapping, so its place in the
    // order is unknown. It is better than nothing, though.
    let sure = round.answers().any(|(question, _)| !question.repeated);
    let observations: Vec<Observation> = round
        .answers()
        .filter(|(question, _)| !(sure && question.repeated))
        .map(|(question, binding)| question.observation(binding))
        .collect();
    if observations.is_empty() {
        let error = round.errors().next().map(|(_, error)| error.clone());
        let error = error.unwrap_or(SurveyError::NoServer);
        return Err(match error {
            SurveyError::Refused(server) | SurveyError::Silent { server, .. }
                if answers_over_udp(server) =>
            {
                SurveyError::OnlyUdp(server)
            }
            error => error,
        });
    }
    let mut said = Vec::new();
    for (server, error) in round.errors() {
        match error {
            SurveyError::Local(GuardError::PortInUse(_) | GuardError::Privileged(_)) => {
                tracing::debug!("left out: {error}");
            }
            // Once, though every local port has asked it.
            error if !said.contains(&server) => {
                said.push(server);
                tracing::warn!("{error}");
            }
            _ => {}
        }
    }
    let mut held = Vec::new();
    for question in &mut round.questions {
        match question.dial.take() {
            Some(dial) if question.local.port() == first => held.push(dial),
            Some(dial) => dial.reset(),
            None => {}
        }
    }
    Ok((observations, Held(held)))
}

#[cfg(test)]
mod tests;
