//! What is tried beside the survey, all at once: SYNs that the server sends, an ACK out of
//! nowhere, SYNs to the own external address, and probes with rising hop limits.

use super::air::{Air, Heard};
use super::asked::Syn;
use super::crafted;
use super::line::{Line, Welcome};
use crate::engine::discovery::Waiting;
use crate::engine::survey::SurveyError;
use crate::nat::Observation;
use crate::nat::{Hairpin, Path, Probe};
use crate::rendezvous::Origin;
use crate::sys::{CallFailed, Guard};
use crate::wire::{DEFAULT_HOP_LIMIT, Icmp, IcmpKind, Quote, Segment, Seq, Tuple, echo_request};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// Hops further away than this are none of our routers, as in engine::prober.
const FURTHEST: u8 = 12;
/// What the server's kernel has sent twice within (a SYN is repeated after a second, RFC 6298) has
/// not come in.
const NOT_IN: Duration = Duration::from_millis(1300);
/// Longer than a router holds a SYN (RFC 5382 REQ-4: six seconds) that was lost once, and than the
/// server waits.
const LONGEST: Duration = Duration::from_secs(10);
/// Between two packets of one trial, of which one may be lost.
const AGAIN: Duration = Duration::from_millis(150);
/// So often is a packet sent to which an answer has to come.
const TIMES: u32 = 3;
/// After the last of them.
const LAST_ANSWER: Duration = Duration::from_millis(300);

const FROM_OTHER_PORT: u32 = 1;
const FROM_OTHER_ADDRESS: u32 = 2;
const CROSSED: u32 = 3;

/// The trials' own state.
#[derive(Debug)]
pub(super) struct Trials {
    server: SocketAddr,
    local_ip: IpAddr,
    lines: Vec<Line>,
    air: Option<Air>,
    /// Where the ACK out of nowhere leaves; the guard keeps the kernel silent there.
    ack: Option<(Guard, u16)>,
    random: u64,
    pub(super) path: Path,
    pub(super) external_at: Option<u8>,
    pub(super) ack_answered: bool,
    filter: [Option<Syn>; 3],
    /// The line whose mapping the unasked SYNs are for.
    asker: usize,
    looped: Loop,
}

/// Lines by what they are for.
const FILTER: usize = 0;
const CROSSING: usize = 1;
const LOOP: std::ops::Range<usize> = 2..4;
const LINES: usize = 4;

/// SYNs from either of two ports to the other's external address.
#[derive(Clone, Copy, Debug, Default)]
struct Loop {
    tried: bool,
    arrived: bool,
    resets: u8,
}

impl Trials {
    /// Towards this server, from this address.
    pub(super) fn new(local_ip: IpAddr, server: SocketAddr, random: u64) -> Self {
        Self {
            server,
            local_ip,
            lines: Vec::new(),
            air: None,
            ack: None,
            random,
            path: Path::new(local_ip),
            external_at: None,
            ack_answered: false,
            filter: [None; 3],
            asker: FILTER,
            looped: Loop::default(),
        }
    }

    /// Connects, which only a tcp-punch server understands.
    pub(super) fn connect(&mut self) -> Result<(), SurveyError> {
        let any = SocketAddr::new(self.local_ip, 0);
        for _ in 0..LINES {
            self.lines.push(Line::open(any, self.server)?);
        }
        Ok(())
    }

    /// Raw packets may be sent from now on.
    pub(super) fn take_air(&mut self, mut air: Air) -> Result<(), CallFailed> {
        air.hear(self.server.ip())?;
        self.air = Some(air);
        self.probe_path(self.server.ip(), self.random as u16)
    }

    /// The local ports at which something may come in.
    pub(super) fn ports(&self) -> Vec<u16> {
        let lines = self.lines.iter().map(|line| line.local.port());
        lines.chain(self.ack.iter().map(|(_, port)| *port)).collect()
    }

    /// The ACK out of nowhere leaves from here.
    pub(super) fn ack_from(&mut self, guard: Guard, port: u16) {
        self.ack = Some((guard, port));
    }

    /// What the server has said of itself and of us.
    pub(super) fn welcome(&self) -> Option<&Welcome> {
        self.lines.get(FILTER)?.welcome.as_ref()
    }

    /// Waits for the welcomes: all, or what has come a while after the first answer. An error if
    /// the server cannot even be connected to.
    pub(super) fn await_welcome(&mut self, timeout: Duration) -> Result<(), Stopped> {
        let deadline = Instant::now() + timeout;
        loop {
            let lines = &self.lines;
            let heard = lines.iter().all(|line| line.welcome.is_some() || !line.is_open());
            if heard {
                break;
            }
            // Two more round trips, and room for a lost segment, which is repeated after 200 ms.
            let round_trip = lines.iter().filter_map(|line| line.round_trip).max();
            let until = match round_trip {
                Some(round_trip) => {
                    let patience = 4 * round_trip + Duration::from_millis(500);
                    lines.first().map_or(deadline, |line| deadline.min(line.began() + patience))
                }
                None => deadline,
            };
            let now = Instant::now();
            if now >= until {
                break;
            }
            self.wait(until - now)?;
        }
        let connected = self.lines.iter().any(|line| line.round_trip.is_some());
        match self.lines.iter().find_map(Line::error) {
            _ if connected => Ok(()),
            Some(error) => Err(Stopped::Server(error.clone())),
            None => {
                Err(Stopped::Server(SurveyError::Silent { server: self.server, within: timeout }))
            }
        }
    }

    /// Tries everything that can be tried, and waits until all is decided.
    pub(super) fn run(
        &mut self,
        observations: &[Observation],
        waiting: &mut dyn FnMut(Waiting),
    ) -> Result<(), Stopped> {
        let external = observations.first().map(|sample| sample.external.ip());
        let began = Instant::now();
        let translated = external.filter(|ip| *ip != self.local_ip);
        let mut again = began;
        let mut sent = 0;
        let mut told = false;
        self.ask_for_syns(observations)?;
        self.cross(observations)?;
        let mut crossed_again = false;
        loop {
            let now = Instant::now();
            // A packet of it may have been lost: what is blocked is blocked twice.
            if !crossed_again && self.filter[2].is_some_and(|syn| syn.is_refused()) {
                crossed_again = true;
                self.cross(observations)?;
            }
            if sent < TIMES && now >= again {
                self.send_ack()?;
                if let Some(external) = translated {
                    self.send_to_ourselves(external)?;
                }
                sent += 1;
                again = now + AGAIN;
            }
            let patience = AGAIN * TIMES + LAST_ANSWER.max(3 * self.round_trip());
            let quick =
                self.quick_ones_are_decided(translated.is_some()) || began.elapsed() >= patience;
            if quick && self.syns_are_decided(now) || began.elapsed() >= LONGEST {
                return Ok(());
            }
            if !told && began.elapsed() > NOT_IN + patience {
                waiting(Waiting::ForReaction);
                told = true;
            }
            let next = if sent < TIMES { again } else { now + Duration::from_millis(100) };
            self.wait(next.saturating_duration_since(now))?;
        }
    }

    /// What came of the SYNs that the server was asked for.
    pub(super) fn probes(&self) -> [Option<Probe>; 3] {
        self.filter.map(|syn| syn.and_then(Syn::probe))
    }

    /// What came of the SYNs to ourselves.
    pub(super) fn hairpin(&self) -> Option<Hairpin> {
        let Loop { tried, arrived, resets } = self.looped;
        tried.then_some(match (arrived, resets) {
            (true, _) => Hairpin::Arrived,
            (false, 1..) => Hairpin::Reset,
            (false, 0) => Hairpin::Silence,
        })
    }

    /// Whether raw packets were sent.
    pub(super) fn has_air(&self) -> bool {
        self.air.is_some()
    }

    /// Ends all connections.
    pub(super) fn end(self) {
        for line in self.lines {
            line.end();
        }
    }

    fn round_trip(&self) -> Duration {
        self.lines.iter().filter_map(|line| line.round_trip).max().unwrap_or_default()
    }

    /// From a port that has spoken to the server's main end alone. Where a router has few ports, the
    /// external one may also be that of another port's mapping towards where the SYN comes from,
    /// which it would then reach.
    fn ask_for_syns(&mut self, observations: &[Observation]) -> Result<(), Stopped> {
        let Some(air) = &mut self.air else { return Ok(()) };
        let clashes = |line: &Line| {
            line.welcome.as_ref().is_none_or(|welcome| {
                let at_origin = |it: &&Observation| {
                    Some(it.destination) == welcome.other_port
                        || Some(it.destination) == welcome.other_address
                };
                let mut there = observations.iter().filter(at_origin);
                there.any(|sample| sample.external == welcome.observed)
            })
        };
        let mut lines = std::iter::once(FILTER).chain(LOOP);
        let fits = |line: &usize| self.lines.get(*line).is_some_and(|line| !clashes(line));
        let Some(place) = lines.find(fits) else { return Ok(()) };
        self.asker = place;
        let Some(line) = self.lines.get_mut(place) else { return Ok(()) };
        let Some(welcome) = line.welcome.clone() else { return Ok(()) };
        line.guard().map_err(SurveyError::Local)?;
        let asked = Instant::now();
        if welcome.other_port.is_some() {
            line.probe(FROM_OTHER_PORT, Origin::OtherPort);
            self.filter[0] = Some(Syn::new(asked));
        }
        if let Some(other) = welcome.other_address {
            air.hear(other.ip())?;
            line.probe(FROM_OTHER_ADDRESS, Origin::OtherAddress);
            self.filter[1] = Some(Syn::new(asked));
        }
        Ok(())
    }

    /// Our SYN to the server's other port dies on the way, and then the server's comes from there.
    fn cross(&mut self, observations: &[Observation]) -> Result<(), Stopped> {
        let Some(air) = &mut self.air else { return Ok(()) };
        let Some(line) = self.lines.get_mut(CROSSING) else { return Ok(()) };
        let Some(to) = line.welcome.as_ref().and_then(|welcome| welcome.other_port) else {
            return Ok(());
        };
        if !share_mappings(observations, self.server, to) {
            return Ok(());
        }
        let hop_limit = match self.path.opener_hop_limit() {
            Ok(hop_limit) => hop_limit,
            Err(why) => {
                tracing::debug!("no SYN can cross the server's: {why}");
                return Ok(());
            }
        };
        line.guard().map_err(SurveyError::Local)?;
        let tuple = Tuple { local: line.local, remote: to };
        let packet = crafted::syn(tuple, hop_limit, (self.random >> 32) as u32);
        // Twice: one may be lost.
        for _ in 0..2 {
            air.send(to.ip(), &packet)?;
        }
        line.probe(CROSSED, Origin::OtherPort);
        self.filter[2] = Some(Syn::new(Instant::now()));
        Ok(())
    }

    fn send_ack(&mut self) -> Result<(), CallFailed> {
        let (Some(air), Some((_, port)), false) = (&mut self.air, &self.ack, self.ack_answered)
        else {
            return Ok(());
        };
        let tuple = Tuple { local: SocketAddr::new(self.local_ip, *port), remote: self.server };
        let packet = crafted::ack(tuple, self.random as u32, ack_number(self.random));
        air.send(self.server.ip(), &packet)
    }

    fn send_to_ourselves(&mut self, external: IpAddr) -> Result<(), CallFailed> {
        let Some(air) = &mut self.air else { return Ok(()) };
        air.hear(external)?;
        // Where a router does not translate the source, RFC 5382 REQ-8 notwithstanding.
        air.hear(self.local_ip)?;
        if let Some([one, other]) = self.lines.get_mut(LOOP)
            && one.guard().is_ok()
            && other.guard().is_ok()
            && let (Some(of_one), Some(of_other)) = (&one.welcome, &other.welcome)
        {
            for (from, to) in [(one.local, of_other.observed), (other.local, of_one.observed)] {
                let tuple = Tuple { local: from, remote: to };
                let packet = crafted::syn(tuple, DEFAULT_HOP_LIMIT, (self.random >> 16) as u32);
                air.send(external, &packet)?;
            }
            self.looped.tried = true;
        }
        if self.external_at.is_none() {
            self.probe_path(external, self.random as u16 ^ 0x5555)?;
        }
        Ok(())
    }

    /// Echo requests with rising hop limits.
    fn probe_path(&mut self, to: IpAddr, id: u16) -> Result<(), CallFailed> {
        let Some(air) = &mut self.air else { return Ok(()) };
        for hop_limit in 1..=FURTHEST {
            let probe = echo_request(self.local_ip, to, hop_limit, id, hop_limit.into());
            air.send(to, &probe)?;
        }
        Ok(())
    }

    fn quick_ones_are_decided(&self, translated: bool) -> bool {
        if self.air.is_none() {
            return true;
        }
        let ack = self.ack_answered || self.ack.is_none();
        let looped = !self.looped.tried || self.looped.arrived || self.looped.resets > 1;
        ack && looped && (!translated || self.external_at.is_some())
    }

    fn syns_are_decided(&self, now: Instant) -> bool {
        let [port, address, crossed] = self.filter;
        let unasked = [port, address];
        let patience = NOT_IN + self.round_trip();
        let in_time = |syn: &Syn| syn.is_over() || now >= syn.asked + patience;
        // What meets a SYN is known when one was met, or when all have come to nothing or come in.
        let reaction = unasked.iter().flatten().any(Syn::is_refused)
            || unasked.iter().flatten().all(Syn::is_over);
        reaction && unasked.iter().flatten().chain(&crossed).all(in_time)
    }

    /// Waits for the next thing to happen, and takes it in.
    fn wait(&mut self, most: Duration) -> Result<(), Stopped> {
        let mut ready = Vec::new();
        {
            let open: Vec<usize> =
                (0..self.lines.len()).filter(|line| self.lines[*line].is_open()).collect();
            let mut polled: Vec<PollFd<'_>> = open
                .iter()
                .map(|line| {
                    let line = &self.lines[*line];
                    let connecting = line.is_connecting();
                    let wanted = if connecting { PollFlags::POLLOUT } else { PollFlags::POLLIN };
                    PollFd::new(line.as_fd(), wanted)
                })
                .collect();
            if let Some(air) = &self.air {
                let ears = air.descriptors().map(|fd| PollFd::new(fd, PollFlags::POLLIN));
                polled.extend(ears);
            }
            match ppoll(&mut polled, Some(TimeSpec::from_duration(most)), None) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(CallFailed { call: "ppoll", errno }.into()),
            }
            for (line, polled) in open.into_iter().zip(&polled) {
                if polled.any().unwrap_or(true) {
                    ready.push(line);
                }
            }
        }
        for line in ready {
            self.lines[line].proceed();
        }
        self.note_answers();
        let heard = match &mut self.air {
            Some(air) => air.heard()?,
            None => Vec::new(),
        };
        for heard in heard {
            match heard {
                Heard::Segment(segment) => self.note_segment(&segment),
                Heard::Icmp(icmp) => self.note_icmp(&icmp),
            }
        }
        Ok(())
    }

    fn note_answers(&mut self) {
        for line in &mut self.lines {
            for probed in line.probed.drain(..) {
                let number = probed.id.wrapping_sub(1) as usize;
                let Some(Some(syn)) = self.filter.get_mut(number) else { continue };
                syn.take(probed);
            }
        }
        // A server that has hung up will not say anything more.
        for (number, line) in [(0, self.asker), (1, self.asker), (2, CROSSING)] {
            if let Some(syn) = &mut self.filter[number]
                && !self.lines.get(line).is_some_and(Line::is_open)
            {
                syn.give_up();
            }
        }
    }

    fn note_segment(&mut self, segment: &Segment) {
        let Tuple { local: from, remote: to } = segment.tuple;
        if to.ip() != self.local_ip {
            return;
        }
        let port_of = |line: usize| Some(self.lines.get(line)?.local.port());
        let is_for = |line: usize| port_of(line) == Some(to.port());
        let asks = segment.syn && segment.ack.is_none();
        let welcome = self.welcome();
        let other_port = welcome.and_then(|welcome| welcome.other_port);
        let other_address = welcome.and_then(|welcome| welcome.other_address);
        let mut arrived = None;
        if asks && is_for(self.asker) {
            arrived = match Some(from) {
                from if from == other_port => Some(0),
                from if from == other_address => Some(1),
                _ => None,
            };
        } else if asks && is_for(CROSSING) && Some(from) == other_port {
            arrived = Some(2);
        }
        let looped = LOOP.into_iter().any(is_for) && from != self.server && arrived.is_none();
        if let Some(syn) = arrived.and_then(|number| self.filter[number].as_mut()) {
            syn.arrived = true;
            self.refuse(segment);
        }
        if looped {
            self.looped.arrived |= asks;
            self.looped.resets = self.looped.resets.saturating_add(u8::from(segment.rst));
        }
        if let Some((_, ack)) = &self.ack
            && to.port() == *ack
            && from == self.server
            && segment.rst
            && segment.seq == ack_number(self.random)
        {
            self.ack_answered = true;
        }
    }

    /// So that the server need not send its SYN again and wait: the kernel is silent there.
    fn refuse(&mut self, syn: &Segment) {
        if let Some(air) = &mut self.air
            && let Err(error) = air.send(syn.tuple.local.ip(), &crafted::reset(syn))
        {
            tracing::debug!("{error}");
        }
    }

    fn note_icmp(&mut self, icmp: &Icmp) {
        let Quote::Echo { id, seq } = icmp.about else { return };
        let Ok(hop_limit @ 1..=FURTHEST) = u8::try_from(seq) else { return };
        let to_server = self.random as u16;
        if id == to_server {
            self.path.observe(hop_limit, icmp);
        } else if id == to_server ^ 0x5555 && icmp.kind == IcmpKind::EchoReply {
            let nearest = self.external_at.map_or(hop_limit, |known| known.min(hop_limit));
            self.external_at = Some(nearest);
        }
    }
}

/// Why the trials stopped.
#[derive(Clone, Debug)]
pub(super) enum Stopped {
    Server(SurveyError),
    Call(CallFailed),
}

impl From<CallFailed> for Stopped {
    fn from(error: CallFailed) -> Self {
        Self::Call(error)
    }
}

impl From<SurveyError> for Stopped {
    fn from(error: SurveyError) -> Self {
        Self::Server(error)
    }
}

/// Whether two ends of the server saw each port under one external port: then the mapping that one
/// has told is that of the other, too.
fn share_mappings(observations: &[Observation], one: SocketAddr, other: SocketAddr) -> bool {
    let to = |end| observations.iter().filter(move |it: &&Observation| it.destination == end);
    let mut pairs = to(one).flat_map(|a| to(other).map(move |b| (a, b)));
    let mut pairs = pairs.by_ref().filter(|(a, b)| a.local.port() == b.local.port()).peekable();
    pairs.peek().is_some() && pairs.all(|(a, b)| a.external == b.external)
}

/// What the ACK out of nowhere acknowledges.
fn ack_number(random: u64) -> Seq {
    Seq((random >> 24) as u32)
}
