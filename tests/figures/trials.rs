//! Many trials through one pair of routers, several at once where they do not disturb each other.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::Duration;

use tcp_punch::sys::clock;

use crate::job::{How, Job, Outcome, Then};
use crate::network::{Host, Network};
use crate::pair::{Pair, Running};
use crate::sample::{Sample, ms};
use crate::server::Server;
use crate::table::{Measured, Row};

/// One way, between the routers: every bar that names a time rests on it.
pub(crate) const DELAY: &str = "10ms";
/// Three round trips.
pub(crate) const THREE_RTT_MS: f64 = 60.0;
/// What both ends' secret is does not matter.
pub(crate) const KEY: [u8; 32] = *b"the secret that both ends share.";

/// From one trial's instant to the next one's: each process spins for a few milliseconds before.
const STAGGER: Duration = Duration::from_millis(40);
/// What each trial more takes to start on a busy machine.
const START: Duration = Duration::from_millis(70);
/// How often trials are repeated whose processes were not ready.
const REPEATS: usize = 3;
/// A search takes a few sources, a race neighbouring tuples.
const PORTS_EACH: u16 = 8;
/// Bytes that go each way to prove that it is the peer who answers.
const GREETING: usize = 64;
/// Reasons of failures that are told.
const TOLD: usize = 5;

/// Trials to be.
#[derive(Clone)]
pub(crate) struct Trials {
    /// Options of network.sh.
    pub(crate) network: Vec<&'static str>,
    pub(crate) how: How,
    pub(crate) key: Option<[u8; 32]>,
    /// Both routers' port models.
    pub(crate) models: Option<[Model; 2]>,
    pub(crate) ports: Ports,
    pub(crate) count: usize,
    /// Networks side by side, and whether each trial has one of its own: only so are the tables of
    /// the userspace routers empty.
    pub(crate) networks: usize,
    pub(crate) own_network: bool,
    /// Trials at once in one network.
    pub(crate) at_once: usize,
    /// For the processes to start, to look at the path and to send the openers.
    pub(crate) notice: Duration,
    pub(crate) patience: Duration,
}

/// What both ends know of one router's ports.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Model {
    /// As the command line has it.
    Told(&'static str),
    /// It counts, others make so many mappings a second, and just before the trial a server
    /// outside has seen where it stands.
    Counting { rate: u32 },
}

/// The local ports of the two ends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ports {
    /// The same one at both ends, which no earlier trial has had.
    Fresh,
    /// Those that a random Linux router maps into its small pool. Other ones each time, so that no
    /// earlier trial's connection is in the way in TIME_WAIT.
    Privileged,
    /// Such ones at a, a fresh one at b.
    PrivilegedAndFresh,
}

/// What trials came to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Score {
    pub(crate) tried: usize,
    /// From the instant until the later end had its descriptor, milliseconds, where both ends
    /// have read what the other one wrote.
    pub(crate) times: Sample,
    /// Most that one side sent, of all trials; only the product counts.
    pub(crate) packets: u64,
    /// Attempts that the machine was too busy for. They were repeated and do not count.
    pub(crate) not_ready: usize,
    /// Packets for which the routers' outer interfaces had no room.
    pub(crate) dropped: u64,
    failures: Vec<String>,
}

#[derive(Default)]
struct Tally {
    begun: usize,
    score: Score,
    times: Vec<f64>,
}

impl Trials {
    /// Both routers of this kind; punches without key and models, five at once.
    pub(crate) fn between(a: &'static str, b: &'static str, count: usize) -> Self {
        Self {
            network: vec!["--delay", DELAY, "--nat-a", a, "--nat-b", b],
            how: How::Punch { opener: true },
            key: None,
            models: None,
            ports: Ports::Fresh,
            count,
            networks: 1,
            own_network: false,
            at_once: 5,
            notice: Duration::from_millis(300),
            patience: Duration::from_secs(4),
        }
    }

    /// A search has its routers to itself, and finds their tables empty.
    pub(crate) fn searching(self, models: [&'static str; 2], ports: Ports) -> Self {
        Self {
            key: Some(KEY),
            models: Some(models.map(Model::Told)),
            ports,
            networks: 2,
            at_once: 1,
            notice: Duration::from_millis(600),
            ..self
        }
    }

    /// The same routers, by a loop of timed connect() instead.
    pub(crate) fn connecting(&self, count: usize) -> Self {
        // Long enough for the reset to be gone from the way.
        let how = How::ConnectLoop { pause_ms: 5 };
        Self {
            how,
            count,
            networks: 1,
            own_network: false,
            at_once: count,
            ports: Ports::Fresh,
            ..self.clone()
        }
    }

    fn counts(&self) -> bool {
        let counts = |model: &Model| matches!(model, Model::Counting { .. });
        self.models.is_some_and(|models| models.iter().any(counts))
    }

    fn is_searching(&self) -> bool {
        self.models.is_some() && !matches!(self.how, How::ConnectLoop { .. })
    }

    pub(crate) fn run(&self) -> io::Result<Score> {
        let tally = Mutex::new(Tally::default());
        thread::scope(|scope| {
            let lanes: Vec<_> =
                (0..self.networks).map(|_| scope.spawn(|| self.lane(&tally))).collect();
            lanes.into_iter().try_for_each(|lane| {
                lane.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
        })?;
        let Tally { mut score, times, .. } = tally.into_inner().map_err(poisoned)?;
        score.times = times.into_iter().collect();
        Ok(score)
    }

    /// One network after the other, until all trials are done.
    /// Runs them, and beside them a loop of connect(); 99 % have to connect, and where it is a bar,
    /// half of them within `median_ms`, [`THREE_RTT_MS`].
    pub(crate) fn compare(
        &self,
        figure: &str,
        connects: usize,
        median_ms: Option<f64>,
        measured: &mut Measured,
    ) -> io::Result<()> {
        let (ours, theirs) = (self.run()?, self.connecting(connects).run()?);
        measured.rows.push(Row {
            figure: figure.into(),
            measured: ours.to_string(),
            alternative: theirs.of_connect(),
            ratio: "-".into(),
            bar: if median_ms.is_some() { ">= 99 %, p50 <= 3 RTT (60 ms)" } else { ">= 99 %" },
            met: ours.reaches(99) && median_ms.is_none_or(|most| ours.times.median() <= most),
        });
        measured.samples.push(ours.times.summary(figure, "ms"));
        measured.notes.extend(ours.notes(figure));
        Ok(())
    }

    fn lane(&self, tally: &Mutex<Tally>) -> io::Result<()> {
        while self.in_one_network(tally)? {}
        Ok(())
    }

    /// Whether there may be more trials to do, in another network.
    fn in_one_network(&self, tally: &Mutex<Tally>) -> io::Result<bool> {
        if tally.lock().map_err(poisoned)?.begun >= self.count {
            return Ok(false);
        }
        // Otherwise all would draw the same numbers.
        static SEED: AtomicU16 = AtomicU16::new(1);
        let seed = SEED.fetch_add(1, Ordering::Relaxed).to_string();
        let network = Network::up(self.network.iter().copied().chain(["--seed", &seed]));
        let server = self.counts().then(|| Server::start(&network)).transpose()?;
        loop {
            let wanted = {
                let mut tally = tally.lock().map_err(poisoned)?;
                let wanted = self.at_once.min(self.count - tally.begun);
                tally.begun += wanted;
                wanted
            };
            if wanted == 0 {
                tally.lock().map_err(poisoned)?.score.dropped += dropped(&network)?;
                return Ok(false);
            }
            let outcomes = self.batch(&network, server.as_ref(), wanted)?;
            let mut tally = tally.lock().map_err(poisoned)?;
            for ends in &outcomes {
                if ends.iter().any(|end| end.late) {
                    tally.score.not_ready += 1;
                    tally.begun -= 1;
                } else {
                    tally.add(ends);
                }
            }
            if tally.score.not_ready > REPEATS * self.count {
                let why = "this machine is too busy: processes are not ready in time";
                return Err(io::Error::other(why));
            }
            if self.own_network {
                tally.score.dropped += dropped(&network)?;
                return Ok(true);
            }
            drop(tally);
            if self.is_searching() {
                forget(&network);
            }
        }
    }

    fn batch(
        &self,
        network: &Network,
        server: Option<&Server>,
        count: usize,
    ) -> io::Result<Vec<[Outcome; 2]>> {
        let hosts = [network.host_a(), network.host_b()];
        let text = |models: [Model; 2]| -> io::Result<[String; 2]> {
            let [a, b] = [0, 1].map(|side| models[side].text(&hosts[side], server));
            Ok([a?, b?])
        };
        let models = self.models.map(text).transpose()?;
        let mut at = clock::now().after(self.notice + START * count as u32);
        let mut running = Vec::new();
        for _ in 0..count {
            let ports = self.ports.next();
            let start = |side: usize| {
                let job = Job {
                    at_ns: at.unix_ns(),
                    peer: SocketAddr::new(self.public(1 - side), ports[1 - side]),
                    port: ports[side],
                    patience_ms: u64::try_from(self.patience.as_millis()).unwrap_or(u64::MAX),
                    how: self.how,
                    then: Then::Exchange { bytes: GREETING },
                    key: self.key,
                    models: models
                        .as_ref()
                        .map(|models| [models[side].clone(), models[1 - side].clone()]),
                };
                Pair::start(&hosts[side], &job)
            };
            running.push([start(0)?, start(1)?]);
            at = at.after(STAGGER);
        }
        let ended = |ends: [Running; 2]| {
            let [a, b] = ends.map(Running::outcome);
            Ok([a?, b?])
        };
        running.into_iter().map(ended).collect()
    }

    /// Where a host is to be reached.
    fn public(&self, side: usize) -> IpAddr {
        [[198, 51, 100, 1], [203, 0, 113, 1]][side].into()
    }
}

impl Model {
    /// As both ends are told it; `host` is behind the router.
    fn text(self, host: &Host, server: Option<&Server>) -> io::Result<String> {
        match (self, server) {
            (Self::Told(text), _) => Ok(text.to_owned()),
            (Self::Counting { rate }, Some(server)) => {
                let at = clock::now();
                let next = server.port_seen(host)?.checked_add(1).unwrap_or(1024);
                Ok(format!("sequential:next={next},step=1,rate={rate},at={at}"))
            }
            (Self::Counting { .. }, None) => Err(io::Error::other("nobody outside to ask")),
        }
    }
}

impl Ports {
    fn next(self) -> [u16; 2] {
        static TRIALS: AtomicU16 = AtomicU16::new(0);
        let trial = TRIALS.fetch_add(1, Ordering::Relaxed);
        let fresh = 12_000 + PORTS_EACH * (trial % 2_500);
        let privileged = 512 + PORTS_EACH * (trial % 63);
        match self {
            Self::Fresh => [fresh; 2],
            Self::Privileged => [privileged; 2],
            Self::PrivilegedAndFresh => [privileged, fresh],
        }
    }
}

/// By the wide area network being too slow for what leaves the routers.
fn dropped(network: &Network) -> io::Result<u64> {
    let of = |router: Host| -> io::Result<u64> {
        let counter = "/sys/class/net/wan/statistics/tx_dropped";
        let output = router.command("cat").arg(counter).output()?;
        String::from_utf8_lossy(&output.stdout).trim().parse().map_err(io::Error::other)
    };
    Ok(of(network.router_a())? + of(network.router_b())?)
}

/// Every mapping of the last trial, which would stand in the next one's way for two minutes.
fn forget(network: &Network) {
    for router in [network.router_a(), network.router_b()] {
        // One without a table is none of netfilter's, and its own is as large as is needed.
        let _ = router.command("conntrack").arg("-F").output();
    }
}

fn poisoned<T>(_: T) -> io::Error {
    io::Error::other("another thread has panicked")
}

impl Tally {
    fn add(&mut self, ends: &[Outcome; 2]) {
        let score = &mut self.score;
        score.tried += 1;
        let sent = ends.iter().filter_map(|end| Some(end.report.as_ref()?.packets.sent));
        score.packets = score.packets.max(sent.max().unwrap_or(0));
        let connected =
            ends.iter().all(|end| end.error.is_none() && end.received == GREETING as u64);
        match ends.iter().filter_map(|end| end.fd_ns).max() {
            Some(later) if connected => self.times.push(ms(later)),
            _ => {
                let said = ends.each_ref().map(|end| end.error.as_deref().unwrap_or("connected"));
                score.failures.push(format!("a: {}; b: {}", said[0], said[1]));
            }
        }
    }
}

impl Score {
    pub(crate) fn connected(&self) -> usize {
        self.times.len()
    }

    /// Whether at least so many percent connected.
    pub(crate) fn reaches(&self, percent: usize) -> bool {
        100 * self.connected() >= percent * self.tried
    }

    /// What those that failed said, some of them, and what was repeated.
    pub(crate) fn notes(&self, figure: &str) -> Vec<String> {
        let told = self.failures.iter().take(TOLD);
        let mut notes: Vec<_> = told.map(|why| format!("{figure}, failed: {why}")).collect();
        if self.not_ready > 0 {
            let Self { not_ready, .. } = self;
            notes.push(format!("{figure}: {not_ready} attempts repeated, the machine was busy"));
        }
        notes
    }

    /// What is said of connect().
    pub(crate) fn of_connect(&self) -> String {
        match self.connected() {
            0 => format!("connect(): never ({} tries)", self.tried),
            _ => format!("timed connect(): {self}"),
        }
    }
}

impl fmt::Display for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tried, times, packets, .. } = self;
        write!(f, "{} of {tried}", times.len())?;
        if times.len() > 0 {
            write!(f, ", p50 {:.1} ms, p95 {:.1} ms", times.median(), times.percentile(95))?;
        }
        match packets {
            0 => Ok(()),
            _ => write!(f, ", {packets} packets at most"),
        }
    }
}
