//! What this end learns about itself while it connects to the server: how its routers number
//! ports, and where its outermost NAT is.

use super::error::MeetError;
use crate::engine::prober::walk;
use crate::engine::{Held, MapRequest, PendingMapping, PortMapping, Survey};
use crate::nat::{self, Fit, Observation, Path, PortModel};
use crate::sys::{CallFailed, clock};
use crate::wire::WallTime;
use nix::errno::Errno;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

/// Servers that do not answer are not waited for any longer: the first port's mapping is known from
/// the connection to the server itself.
const PATIENCE: Duration = Duration::from_secs(2);
/// Routers near enough to be ours answer sooner.
const WALKING: Duration = Duration::from_millis(400);
/// From one port to the next, as in a [`Survey`]: neighbours are not taken for a counter's steps. The
/// first is beyond the ports of three punches that spread no further than by default.
const STRIDE: u16 = 9;
/// Linux routers that choose at random map these into a small pool of their own.
const PRIVILEGED: [u16; 2] = [1016, 1009];
/// From the punch's own port to the one that a router is asked to map; beyond those of all punches.
const DOOR: u16 = 200;
/// A counter that was read so long ago has moved on.
const STALE: Duration = Duration::from_millis(300);
/// A counter's rate is not known from less: where others make fifty mappings a second, ten.
const READING: Duration = Duration::from_millis(200);
/// Who waits for the peer asks from so many more ports where the router draws from a pool: eight
/// ports leave it open whether the pool is half as large again, twenty hardly do.
const MORE: std::ops::Range<u16> = 4..16;

enum News {
    Observed(Observation),
    Surveyed(Option<Held>),
    Walked(Path),
}

/// What is known so far.
pub(super) struct Surroundings {
    /// Asks around at all.
    explores: bool,
    port: u16,
    local_ip: IpAddr,
    server: SocketAddr,
    observations: Vec<Observation>,
    /// Surveys under way.
    surveys: u32,
    asked: Vec<(u16, SocketAddr)>,
    path: Option<Path>,
    news: Receiver<News>,
    sender: Sender<News>,
    bell: PipeReader,
    ringer: PipeWriter,
    /// Connections that keep the first port's mappings alive.
    held: Vec<Held>,
    /// Whether a counter was read again after so short a time that its rate was not known.
    reread: bool,
    /// When there is time to ask for more; `None` once that has been done.
    leisure_at: Option<WallTime>,
    /// A port mapping that the router was asked for, and the port of ours that it is for.
    pending: Option<PendingMapping>,
    pub(super) mapping: Option<PortMapping>,
}

impl Surroundings {
    /// Nothing is known, and nobody is asked before [`Surroundings::explore`]. `local`: whose port
    /// the punch will use.
    pub(super) fn new(local: SocketAddr, server: SocketAddr) -> Result<Self, MeetError> {
        let (bell, ringer) = io::pipe().map_err(failed)?;
        let (sender, news) = mpsc::channel();
        let port = local.port();
        Ok(Self {
            explores: false,
            port,
            local_ip: local.ip(),
            server,
            observations: Vec::new(),
            surveys: 0,
            asked: vec![(port, server)],
            path: None,
            news,
            sender,
            bell,
            ringer,
            held: Vec::new(),
            reread: false,
            leisure_at: None,
            pending: None,
            mapping: None,
        })
    }

    /// Begins to look around.
    pub(super) fn explore(&mut self, stun: &[SocketAddr]) -> Result<(), MeetError> {
        self.explores = true;
        self.leisure_at = Some(clock::now().after(STALE));
        self.map();
        self.walk()?;
        let (port, server) = (self.port, self.server);
        let next = SocketAddr::new(server.ip(), server.port().wrapping_add(1));
        let neighbour = self.neighbour(1);
        let [low, lower] = PRIVILEGED;
        let mut questions = vec![
            (port, next),
            (neighbour, server),
            (low, server),
            (low, next),
            (lower, server),
            (neighbour, next),
        ];
        questions.extend(stun.iter().map(|server| (port, *server)));
        self.ask(questions)
    }

    /// The server told how it sees the connection that began at `at`, and what other addresses it
    /// has.
    pub(super) fn welcome(
        &mut self,
        at: WallTime,
        observed: SocketAddr,
        others: &[SocketAddr],
    ) -> Result<(), MeetError> {
        if !self.explores {
            return Ok(());
        }
        let (local, destination) = (SocketAddr::new(self.local_ip, self.port), self.server);
        self.observations.push(Observation { at, local, destination, external: observed });
        let known = |to: &&SocketAddr| !self.asked.iter().any(|(_, asked)| asked == *to);
        let mut new: Vec<_> = others.iter().filter(known).map(|to| (self.port, *to)).collect();
        // One port may get the same mapping towards both addresses by chance.
        let elsewhere = new.iter().find(|(_, to)| to.ip() != self.server.ip());
        new.extend(elsewhere.map(|(_, to)| (self.neighbour(1), *to)));
        // Where every port is kept there is nothing more to learn.
        if observed.port() == self.port || new.is_empty() {
            return Ok(());
        }
        self.ask(new)
    }

    /// Whether enough is known to tell the peer. A counter has to be read again right before.
    pub(super) fn is_known(&self) -> bool {
        let of_port = |it: &&Observation| it.local.port() == self.port;
        let kept = |it: &Observation| it.external.port() == it.local.port();
        self.observations.iter().filter(of_port).count() > 1 && self.observations.iter().all(kept)
            || self.surveys == 0 && !self.observations.is_empty() && self.reread_at().is_none()
    }

    /// When [`Surroundings::reread`] is due, once the peer has come.
    pub(super) fn reread_at(&self) -> Option<WallTime> {
        let times = || self.observations.iter().map(|it| it.at);
        let (first, last) = times().min().zip(times().max())?;
        if self.reread || self.surveys > 0 || first.until(last) >= READING || !self.counts() {
            return None;
        }
        Some(first.after(READING))
    }

    /// Reads a counter again whose rate is not known.
    pub(super) fn reread(&mut self, now: WallTime) -> Result<(), MeetError> {
        if self.reread_at().is_none_or(|at| now < at) {
            return Ok(());
        }
        self.reread = true;
        self.read_counter()
    }

    fn counts(&self) -> bool {
        self.fit().is_some_and(|fit| matches!(fit.model, PortModel::Sequential(_)))
    }

    fn read_counter(&mut self) -> Result<(), MeetError> {
        let next = SocketAddr::new(self.server.ip(), self.server.port().wrapping_add(1));
        let (a, b) = (self.neighbour(2), self.neighbour(3));
        self.ask(vec![(a, self.server), (b, self.server), (a, next)])
    }

    /// Reads a counter again, if there is one and the last reading is old.
    pub(super) fn refresh(&mut self, now: WallTime) -> Result<(), MeetError> {
        let latest = self.observations.iter().map(|it| it.at).max();
        let fresh = latest.is_none_or(|at| at.until(now) < STALE);
        if self.surveys > 0 || fresh || !self.counts() {
            return Ok(());
        }
        self.read_counter()
    }

    /// When [`Surroundings::study`] is due, as long as the peer has not come.
    pub(super) fn study_at(&self) -> Option<WallTime> {
        self.leisure_at.filter(|_| self.surveys == 0)
    }

    /// Takes a second, closer look at a pool, for which there is time while the peer is awaited.
    pub(super) fn study(&mut self, now: WallTime) -> Result<(), MeetError> {
        if self.study_at().is_none_or(|at| now < at) {
            return Ok(());
        }
        self.leisure_at = None;
        let drawn = |fit: Fit| matches!(fit.model, PortModel::Random(_) | PortModel::Parity(_));
        if !self.fit().is_some_and(drawn) {
            return Ok(());
        }
        self.ask(MORE.map(|nth| (self.neighbour(nth), self.server)).collect())
    }

    /// How the routers on the way number ports, all considered.
    pub(super) fn fit(&self) -> Option<Fit> {
        nat::fit(&self.observations)
    }

    /// Where the punch's own port was mapped last.
    pub(super) fn external(&self) -> Option<SocketAddr> {
        let of_port = self.observations.iter().filter(|it| it.local.port() == self.port);
        of_port.max_by_key(|it| it.at).map(|it| it.external)
    }

    /// The hop limit of an opener, if the way to the server shows it.
    pub(super) fn opener_hop_limit(&self) -> Option<u8> {
        self.path.as_ref()?.opener_hop_limit().ok()
    }

    /// Takes in what has been found out since.
    pub(super) fn proceed(&mut self) {
        if let Some(Ok(mapping)) = self.pending.as_mut().and_then(PendingMapping::poll) {
            tracing::debug!("{} maps {}", mapping.protocol(), mapping.external());
            self.mapping = Some(mapping);
        }
        while let Ok(news) = self.news.try_recv() {
            let _ = self.bell.read(&mut [0]);
            match news {
                News::Observed(observation) => self.observations.push(observation),
                News::Surveyed(held) => {
                    self.surveys -= 1;
                    self.held.extend(held);
                }
                News::Walked(path) => self.path = Some(path),
            }
        }
    }

    /// Where the router forwards from, and to.
    pub(super) fn mapped(&self) -> Option<(SocketAddr, SocketAddr)> {
        Some((self.mapping.as_ref()?.external(), self.door()))
    }

    /// Our end of a port mapping.
    fn door(&self) -> SocketAddr {
        SocketAddr::new(self.local_ip, self.port + DOOR)
    }

    /// Asks the router for a port mapping, where there may be a router that translates.
    fn map(&mut self) {
        if !matches!(self.local_ip, IpAddr::V4(ip) if ip.is_private()) {
            return;
        }
        match PortMapping::request_in_background(MapRequest::new(self.door()).patience(PATIENCE)) {
            Ok(pending) => self.pending = Some(pending),
            Err(error) => tracing::debug!("no port mapping: {error}"),
        }
    }

    fn neighbour(&self, nth: u16) -> u16 {
        let away = nth * STRIDE;
        self.port.checked_add(away).unwrap_or(self.port - away)
    }

    fn ask(&mut self, questions: Vec<(u16, SocketAddr)>) -> Result<(), MeetError> {
        self.asked.extend(&questions);
        let survey = Survey::new([self.server], self.port).local_ip(self.local_ip);
        let survey = survey.timeout(PATIENCE);
        self.surveys += 1;
        self.spawn("survey", move |tell| {
            let surveyed = survey.run_at_once(&questions, &mut |it| tell(News::Observed(it)));
            if let Err(error) = &surveyed {
                tracing::debug!("{error}");
            }
            tell(News::Surveyed(surveyed.ok().map(|(_, held)| held)));
        })
    }

    fn walk(&self) -> Result<(), MeetError> {
        let (local, server) = (self.local_ip, self.server.ip());
        self.spawn("walk", move |tell| match walk(local, server, WALKING) {
            Ok(path) => tell(News::Walked(path)),
            Err(error) => tracing::debug!("the way to the server is not seen: {error}"),
        })
    }

    fn spawn(
        &self,
        name: &str,
        work: impl FnOnce(&dyn Fn(News)) + Send + 'static,
    ) -> Result<(), MeetError> {
        let sender = self.sender.clone();
        let ringer = self.ringer.try_clone().map_err(failed)?;
        let run = move || {
            work(&|news| {
                if sender.send(news).is_ok() {
                    let _ = (&ringer).write_all(&[0]);
                }
            });
        };
        std::thread::Builder::new().name(name.into()).spawn(run).map_err(failed)?;
        Ok(())
    }
}

impl AsFd for Surroundings {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

fn failed(error: io::Error) -> MeetError {
    let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
    MeetError::Call(CallFailed { call: "pipe or thread", errno })
}
