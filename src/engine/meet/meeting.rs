//! One meeting under way: server, surroundings and attempts, all at once.

use super::attempts::{Attempts, Fault, News};
use super::line::Line;
use super::proof::{Proofs, Unproven};
use super::surroundings::Surroundings;
use super::wall::{Reading, Wall};
use super::ways;
use super::{Meet, MeetError, MeetFailure, Met, Step};
use crate::engine::{Connection, Datapath, Punch, PunchError, Way};
use crate::nat::PortModel;
use crate::rendezvous::{
    self, Account, Agreement, Candidate, CandidateKind, ClockEstimate, Event, Joined, Pair,
    PublicKey, Role, Seen, Session, Told, joined,
};
use crate::sys::{clock, global_ipv6, wait_readable, wait_writable};
use crate::wire::WallTime;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// A peer that has met us tells its report in this time: a survey takes two seconds at most.
const TELLING: Duration = Duration::from_secs(8);
/// After so much of it the server is asked once more, so that one that is out of reach is found out
/// within [`TELLING`], and not taken for a peer that is silent.
const DOUBTING: Duration = Duration::from_secs(2);
/// The peer's account of a failed attempt comes in this time after ours; its attempts end when ours
/// do.
const ACCOUNTING: Duration = Duration::from_secs(2);
/// A stranger that is turned away hears of it in this time.
const PARTING: Duration = Duration::from_secs(1);
/// Nothing else happens: look around this often.
const IDLE: Duration = Duration::from_secs(1);
/// Whether programs are loaded by now is looked at this often.
const LOADING: Duration = Duration::from_millis(5);
/// From the punch's own ports to those for peers in the same network, and to IPv6's: so many times
/// what one punch takes.
const LAN: u16 = 1;
const IPV6: u16 = 2;

pub(super) struct Meeting {
    meet: Meet,
    local: SocketAddr,
    /// `None` once it is lost and no longer needed.
    line: Option<Line>,
    wall: Wall,
    around: Surroundings,
    keyed_at: Option<WallTime>,
    /// The server was asked once more since.
    doubted: bool,
    peer: Option<PublicKey>,
    ours: Option<rendezvous::Report>,
    theirs: Option<rendezvous::Report>,
    account: Option<Account>,
    clock: Option<ClockEstimate>,
    attempts: Option<Attempts>,
    pairs: Vec<Pair>,
    /// How each pair ended.
    faults: Vec<Option<Fault>>,
    failed_at: Option<WallTime>,
}

impl Meeting {
    pub(super) fn new(meet: Meet, line: Line, around: Surroundings) -> Result<Self, MeetError> {
        Ok(Self {
            meet,
            local: line.local()?,
            line: Some(line),
            wall: Wall::new(Reading::now()),
            around,
            keyed_at: None,
            doubted: false,
            peer: None,
            ours: None,
            theirs: None,
            account: None,
            clock: None,
            attempts: None,
            pairs: Vec::new(),
            faults: Vec::new(),
            failed_at: None,
        })
    }

    pub(super) fn run(mut self, progress: &mut dyn FnMut(Step)) -> Result<Met, MeetFailure> {
        loop {
            self.around.proceed();
            self.look_at_the_clock()?;
            match self.keyed_at {
                None => self.around.study(clock::now())?,
                Some(_) if self.ours.is_none() => self.around.reread(clock::now())?,
                Some(_) => {}
            }
            let lost = self.proceed_line(progress)?;
            self.tell_report()?;
            self.doubt();
            self.begin(progress)?;
            self.lose_line(lost)?;
            if let Some((nth, connection)) = self.hear_attempts(progress) {
                return self.succeed(nth, connection);
            }
            if let Some(failure) = self.over() {
                return Err(failure);
            }
            if self.wait()? {
                return Err(MeetError::Interrupted.into());
            }
        }
    }

    /// What a clock that was set undoes: before the punch everything is measured anew, in its
    /// middle the agreed instant means nothing any more.
    fn look_at_the_clock(&mut self) -> Result<(), MeetError> {
        let Some(step) = self.wall.step(Reading::now()) else { return Ok(()) };
        if self.attempts.is_some() {
            return Err(MeetError::ClockSet(step.size()));
        }
        tracing::warn!("this host's clock was set by {:.1?}, or it slept", step.size());
        for at in [&mut self.keyed_at, &mut self.failed_at] {
            *at = at.map(|at| step.moved(at));
        }
        if let Some(session) = self.line.as_mut().and_then(Line::session) {
            session.reset_clock(clock::now());
        }
        Ok(())
    }

    /// Hears what came from the server. Returns why nothing more will.
    fn proceed_line(
        &mut self,
        progress: &mut dyn FnMut(Step),
    ) -> Result<Option<MeetError>, MeetError> {
        let Some(line) = &mut self.line else { return Ok(None) };
        let lost = match line.proceed() {
            Ok(()) => None,
            // The punch needs it no more.
            Err(error) if self.attempts.is_some() || self.failed_at.is_some() => Some(error),
            // What came before it may be all that is needed.
            Err(error) if error.is_loss() => Some(error),
            Err(error) => return Err(error),
        };
        while let Some(event) = self.line.as_mut().and_then(Line::session).and_then(|it| it.poll())
        {
            match event {
                Event::Welcome { observed, other_port, other_address } => {
                    let began = self.line.as_ref().map_or_else(clock::now, |line| line.began);
                    let others: Vec<_> = other_port.into_iter().chain(other_address).collect();
                    self.around.welcome(began, observed, &others)?;
                }
                Event::Coded(code) => progress(Step::Coded(code)),
                Event::Keyed => {
                    let now = clock::now();
                    self.keyed_at = Some(now);
                    self.look_who_is_there()?;
                    self.around.refresh(now)?;
                    progress(Step::Met(self.peer));
                }
                Event::Told(Told::Report(report)) => self.theirs = Some(*report),
                Event::Told(Told::Account(account)) => self.account = Some(account),
                Event::Told(Told::NotLetIn) => return Err(MeetError::NotLetIn),
                // Who has its connection leaves.
                Event::Left if self.attempts.is_some() || self.failed_at.is_some() => {
                    self.line = None;
                }
                Event::Left => return Err(MeetError::PeerLeft),
            }
        }
        Ok(lost)
    }

    /// Goes on without the server, once both ends know all they need.
    fn lose_line(&mut self, lost: Option<MeetError>) -> Result<(), MeetError> {
        let Some(error) = lost else { return Ok(()) };
        if self.attempts.is_none() && self.failed_at.is_none() {
            return Err(error);
        }
        tracing::debug!("{error}");
        self.line = None;
        Ok(())
    }

    /// Turns strangers away: they hear that, and nothing else of ours.
    fn look_who_is_there(&mut self) -> Result<(), MeetError> {
        let Some(line) = &mut self.line else { return Ok(()) };
        self.peer = line.session().and_then(|session| session.secrets()?.peer());
        let (Some(key), Some(allowed)) = (self.peer, &self.meet.allowed) else { return Ok(()) };
        if allowed.contains(&key) {
            return Ok(());
        }
        if let Some(session) = line.session() {
            session.tell(&Told::NotLetIn)?;
        }
        // To close the line while something comes in would cut off what we say.
        let until = Instant::now() + PARTING;
        let mut left = false;
        while !left && Instant::now() < until && line.proceed().is_ok() {
            while let Some(event) = line.session().and_then(Session::poll) {
                left |= event == Event::Left;
            }
            let interrupt = self.meet.interrupt.as_ref().map(AsFd::as_fd);
            left |= wait_readable(
                &[line.as_fd()],
                interrupt,
                until.saturating_duration_since(Instant::now()),
            )?;
        }
        Err(MeetError::NotAllowed(key))
    }

    /// Tells the peer what it has to know, as soon as we know it ourselves.
    fn tell_report(&mut self) -> Result<(), MeetError> {
        let now = clock::now();
        let Some(keyed_at) = self.keyed_at else { return Ok(()) };
        if self.theirs.is_none() && keyed_at.until(now) > TELLING {
            return Err(MeetError::PeerSilent(TELLING));
        }
        if self.ours.is_some() || !self.around.is_known() {
            return Ok(());
        }
        if self.is_loading() {
            return Ok(());
        }
        let Some(session) = self.line.as_mut().and_then(Line::session) else { return Ok(()) };
        let Some(estimate) = session.clock(now) else {
            return match keyed_at.until(now) > TELLING {
                true => Err(MeetError::NoClock),
                false => Ok(()),
            };
        };
        let mut report = rendezvous::Report::new(&estimate, now, Duration::ZERO);
        report.strategies = self.meet.strategies;
        report.budget = self.meet.budget;
        report.wants_proof = self.meet.proof;
        let external = self.around.external();
        let told = self.meet.models.0.clone();
        let measured = || Some(self.around.fit()?.prudent_model(self.local.port(), now));
        if let Some(model) = told.or_else(measured) {
            if matches!(model, PortModel::Preserving | PortModel::Stable) {
                report.external = external;
            }
            report.model = estimate.shared(&model);
        }
        let mapped = self.around.mapped().filter(|_| self.meet.proof);
        report.candidates = candidates(self.local, external, mapped, self.meet.spread);
        tracing::debug!("our ports: {}; seen at {external:?}", report.model);
        session.tell(&Told::Report(Box::new(report.clone())))?;
        self.ours = Some(report);
        self.clock = Some(estimate);
        // It shall not wait until something else happens.
        if let Some(line) = &mut self.line {
            line.flush()?;
        }
        Ok(())
    }

    /// Asks the server once more where the peer tells nothing.
    fn doubt(&mut self) {
        let now = clock::now();
        let waits = self.keyed_at.is_some_and(|at| at.until(now) > DOUBTING);
        if waits && self.theirs.is_none() && !self.doubted {
            self.doubted = true;
            if let Some(session) = self.line.as_mut().and_then(Line::session) {
                session.ask_clock(now);
            }
        }
    }

    /// Whether programs that the punch cannot do without are still being loaded: the peer, who reads
    /// an instant out of our report, would have to wait for us.
    fn is_loading(&self) -> bool {
        let stock = self.meet.stock.as_ref().filter(|_| self.meet.datapath == Datapath::Ebpf);
        stock.is_some_and(|stock| !stock.is_settled())
    }

    /// Agrees and begins, once both reports are there.
    fn begin(&mut self, progress: &mut dyn FnMut(Step)) -> Result<(), MeetError> {
        let (Some(ours), Some(theirs), None) = (&self.ours, &mut self.theirs, self.failed_at)
        else {
            return Ok(());
        };
        if self.attempts.is_some() {
            return Ok(());
        }
        let Some(session) = self.line.as_mut().and_then(Line::session) else { return Ok(()) };
        let Some(clock) = session.clock(clock::now()) else { return Ok(()) };
        let Some(secrets) = session.secrets() else { return Ok(()) };
        if let Some(model) = &self.meet.models.1 {
            theirs.model = clock.shared(model);
        }
        tracing::debug!("the peer's ports: {}; seen at {:?}", theirs.model, theirs.external);
        let mut agreement = Agreement::of(ours, theirs, secrets.role())?;
        let proofs = agreement.proof.then(|| Proofs::of(secrets));
        if proofs.is_none() {
            // Nothing would choose among several.
            agreement.pairs.truncate(1);
        }
        let hop_limit = self.around.opener_hop_limit();
        let all = ways::attempts(&mut self.meet, &agreement, &clock, secrets, hop_limit);
        let chooses = secrets.role() == Role::Controlling;
        self.attempts = Some(Attempts::begin(all, proofs.as_ref(), chooses)?);
        self.clock = Some(clock);
        self.pairs = agreement.pairs;
        self.faults.resize_with(self.pairs.len(), || None);
        progress(Step::Agreed(self.pairs.iter().map(ToString::to_string).collect()));
        Ok(())
    }

    /// Takes in what the attempts tell. Returns the one that stands.
    fn hear_attempts(
        &mut self,
        progress: &mut dyn FnMut(Step),
    ) -> Option<(usize, Box<Connection>)> {
        while let Some(news) = self.attempts.as_mut().and_then(Attempts::poll) {
            match news {
                News::Progress(step) => progress(Step::Punch(step)),
                News::Ended(nth, Ok(connection)) => return Some((nth, connection)),
                News::Ended(nth, Err(fault)) => self.faults[nth] = Some(fault),
            }
        }
        None
    }

    fn succeed(mut self, nth: usize, connection: Box<Connection>) -> Result<Met, MeetFailure> {
        // The others end now, and say why.
        drop(self.attempts.take());
        let Connection { fd, mut report } = *connection;
        report.ways = self.ways(Some(nth));
        let connection = Connection { fd, report };
        let mapping = self.around.mapping.take();
        let clock = self.clock.ok_or(MeetError::NoClock)?;
        Ok(Met { connection, peer: self.peer, mapping, clock })
    }

    fn ways(&self, chosen: Option<usize>) -> Vec<Way> {
        let way = |(nth, pair): (usize, &Pair)| {
            let outcome = match &self.faults[nth] {
                Some(fault) => fault.words(),
                None if chosen == Some(nth) => "connected".into(),
                None => "another way was faster".into(),
            };
            Way { chosen: chosen == Some(nth), outcome, ..ways::way(pair) }
        };
        self.pairs.iter().enumerate().map(way).collect()
    }

    /// Ends it when every attempt has failed and the peer's account is there, or does not come.
    fn over(&mut self) -> Option<MeetFailure> {
        let now = clock::now();
        if self.pairs.is_empty() || self.faults.iter().any(Option::is_none) {
            return None;
        }
        match self.failed_at {
            None => {
                self.attempts = None;
                self.failed_at = Some(now);
                self.tell_account();
                None
            }
            Some(at) => {
                let waited = self.account.is_some() || self.line.is_none();
                (waited || at.until(now) > ACCOUNTING).then(|| self.failure())
            }
        }
    }

    fn tell_account(&mut self) {
        let seen = |fault: &Option<Fault>| fault.as_ref().and_then(seen);
        let account = Account { pairs: self.faults.iter().map(seen).collect() };
        if let Some(line) = &mut self.line {
            let told = line.session().map(|session| session.tell(&Told::Account(account)));
            if !matches!(told, Some(Ok(()))) || line.flush().is_err() {
                self.line = None;
            }
        }
    }

    fn failure(&mut self) -> MeetFailure {
        let theirs = self.account.take().unwrap_or_default().pairs;
        let ways = self.ways(None);
        let faults: Vec<Fault> = self.faults.drain(..).flatten().collect();
        // The pair of which most is known: both saw it, or we did.
        let known = |nth: &usize| {
            let ours = seen(&faults[*nth]).is_some();
            (ours, ours && theirs.get(*nth).is_some_and(Option::is_some))
        };
        let best = (0..faults.len()).rev().max_by_key(known).unwrap_or(0);
        let joint = seen(&faults[best])
            .map(|ours| joined(&ours, theirs.get(best).and_then(Option::as_ref)));
        let mut report = faults[best].report().cloned().map(Box::new);
        if let Some(report) = &mut report {
            report.ways = ways;
        }
        let Some(fault) = faults.into_iter().nth(best) else {
            return MeetError::PeerLeft.into();
        };
        MeetFailure { error: error_of(fault, joint), report }
    }

    /// Sleeps until something happens. Returns whether the caller asked to stop.
    fn wait(&self) -> Result<bool, MeetError> {
        let now = clock::now();
        let due = self.line.as_ref().and_then(Line::poll_timeout);
        let look = match self.keyed_at {
            None => self.around.study_at(),
            Some(_) if self.ours.is_none() => self.around.reread_at(),
            Some(_) => None,
        };
        let loaded = self.is_loading().then(|| now.after(LOADING));
        let due = due.into_iter().chain(look).chain(loaded).min();
        let most = due.map_or(IDLE, |due| now.until(due).min(IDLE));
        let attempts = self.attempts.as_ref().map(AsFd::as_fd);
        let readable: Vec<BorrowedFd> = [self.around.as_fd()].into_iter().chain(attempts).collect();
        let interrupt = self.meet.interrupt.as_ref().map(AsFd::as_fd);
        Ok(match &self.line {
            Some(line) if line.wants_to_write() => {
                wait_writable(line.as_fd(), &readable, interrupt, most)?
            }
            Some(line) => {
                let all: Vec<_> = readable.into_iter().chain([line.as_fd()]).collect();
                wait_readable(&all, interrupt, most)?
            }
            None => wait_readable(&readable, interrupt, most)?,
        })
    }
}

/// Where this end can be reached.
fn candidates(
    local: SocketAddr,
    external: Option<SocketAddr>,
    mapped: Option<(SocketAddr, SocketAddr)>,
    spread: u16,
) -> Vec<Candidate> {
    let beside = |ip, nth| SocketAddr::new(ip, local.port() + nth * Punch::ports(spread));
    let own = |kind, base: SocketAddr| Candidate::new(kind, base, base);
    let lan = external
        .is_none_or(|external| external.ip() != local.ip())
        .then(|| own(CandidateKind::Lan, beside(local.ip(), LAN)));
    let ipv6 = global_ipv6().into_iter().map(|ip| own(CandidateKind::Ipv6, beside(ip, IPV6)));
    let reflexive =
        external.map(|external| Candidate::new(CandidateKind::Reflexive, external, local));
    // What is nonsense to us is to the peer.
    let mapped = mapped.map(|(outer, base)| Candidate::new(CandidateKind::Mapped, outer, base));
    lan.into_iter().chain(ipv6.take(1)).chain(mapped).chain(reflexive).flatten().collect()
}

/// What an attempt saw, for the peer.
fn seen(fault: &Fault) -> Option<Seen> {
    match fault {
        Fault::Punch(failure) => match &failure.error {
            PunchError::TimedOut(evidence) | PunchError::Refused(evidence) => {
                Some(Seen::of(evidence))
            }
            error => Some(Seen { verdict: error.to_string(), ..Seen::default() }),
        },
        Fault::Unproven(why, _) => Some(Seen { verdict: why.to_string(), ..Seen::default() }),
    }
}

fn error_of(fault: Fault, joint: Option<Joined>) -> MeetError {
    match (fault, joint) {
        (Fault::Unproven(Unproven::Stranger, _), _) => MeetError::Stranger,
        (Fault::Punch(failure), joint) => match (failure.error, joint) {
            (PunchError::TimedOut(_) | PunchError::Refused(_), Some(joint)) => {
                MeetError::Failed(joint)
            }
            (error, _) => MeetError::Hopeless(error),
        },
        (Fault::Unproven(why, _), _) => MeetError::Failed(Joined {
            happened: why.to_string(),
            advice: "try again; if it stays so, one of the routers drops what it does not know"
                .into(),
        }),
    }
}
