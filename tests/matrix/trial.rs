//! Trials of one pair of routers: two processes each, several at once in one network.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::Serialize;
use tcp_punch::sys::clock;
use tcp_punch::wire::{Segment, WallTime};

use crate::capture::Capture;
use crate::job::{How, Job, Outcome, Then};
use crate::kind::Kind;
use crate::network::Network;
use crate::pair::{Pair, Running, fresh_port};

/// One way, between the routers.
pub(crate) const DELAY: &str = "10ms";

/// For the processes of one trial to start, and in the product's case to look at the path and to
/// send the opener.
const NOTICE: Duration = Duration::from_millis(400);
/// From one trial's instant to the next one's: each process spins for a few milliseconds before.
const STAGGER: Duration = Duration::from_millis(40);
/// Pause of the connect() loop: long enough for the reset to be gone from the way.
const PAUSE_MS: u64 = 5;
/// How often a trial is repeated whose processes were not ready.
const REPEATS: usize = 5;
/// Bytes that go each way to prove that it is the peer who answers.
const GREETING: usize = 64;
/// What both ends' secret is does not matter.
const KEY: [u8; 32] = *b"the secret that both ends share.";

/// How a connection is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    Punch,
    Connect,
}

/// How one trial went.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Trial {
    /// Both ends have a descriptor, and each read what the other wrote.
    pub(crate) connected: bool,
    /// From the instant until the later end had its descriptor.
    pub(crate) fd_ms: Option<f64>,
    /// Packets that each side sent: the product's own count, which includes its probes of the
    /// path; for connect() what the host sent before any data.
    pub(crate) packets: [u64; 2],
    /// The product's strategy at side a.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) strategy: Option<String>,
    /// What the product, or the error, said at each side.
    pub(crate) verdicts: [String; 2],
}

/// The trials of one pair by one method.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trials {
    pub(crate) trials: Vec<Trial>,
    /// Attempts whose processes were not ready by the instant, and which were repeated.
    pub(crate) not_ready: usize,
}

/// Two routers that stand.
struct Sides {
    network: Network,
    /// Where each host is to be reached.
    public: [IpAddr; 2],
    /// Each host's own address.
    own: [IpAddr; 2],
    models: Option<[&'static str; 2]>,
}

impl Trials {
    /// `count` trials, at most `at_once` of them side by side.
    pub(crate) fn run(
        pair: [&Kind; 2],
        method: Method,
        count: usize,
        at_once: usize,
        patience: Duration,
    ) -> io::Result<Self> {
        // A search has the machine and the routers' tables to itself.
        let searched = pair.iter().any(|kind| kind.is_searched());
        let at_once = if searched { 1 } else { at_once };
        let mut done = Self::default();
        while done.trials.len() < count {
            let sides = Sides::up(pair);
            let wanted = at_once.min(count - done.trials.len());
            for trial in sides.trials(method, wanted, patience)? {
                match trial {
                    Some(trial) => done.trials.push(trial),
                    None => done.not_ready += 1,
                }
            }
            if done.not_ready > REPEATS * count {
                let why = "this machine is too busy: processes are not ready in time";
                return Err(io::Error::other(why));
            }
        }
        Ok(done)
    }
}

impl Sides {
    fn up(pair: [&Kind; 2]) -> Self {
        let [a, b] = pair.map(|kind| kind.network);
        let network = Network::up(["--delay", DELAY, "--nat-a", a, "--nat-b", b]);
        let address = |side: usize, behind: [&str; 2], bare: [&str; 2]| {
            let of = if pair[side].network == "none" { bare } else { behind };
            of[side].parse().expect("an address")
        };
        let bare = ["198.51.100.2", "203.0.113.2"];
        let public = [0, 1].map(|side| address(side, ["198.51.100.1", "203.0.113.1"], bare));
        let own = [0, 1].map(|side| address(side, ["192.168.1.2", "10.0.0.2"], bare));
        let told = pair.iter().any(|kind| kind.model.is_some());
        let models = told.then(|| pair.map(|kind| kind.model.unwrap_or("preserving")));
        Self { network, public, own, models }
    }

    /// So many at once; `None` for one whose processes were not ready.
    fn trials(
        &self,
        method: Method,
        count: usize,
        patience: Duration,
    ) -> io::Result<Vec<Option<Trial>>> {
        let hosts = [self.network.host_a(), self.network.host_b()];
        let captures = (method == Method::Connect)
            .then(|| hosts.each_ref().map(|host| Capture::start(host, "eth0")));
        let mut at = clock::now().after(NOTICE);
        let mut running = Vec::new();
        for _ in 0..count {
            let port = fresh_port();
            let start =
                |side| Pair::start(&hosts[side], &self.job(side, method, port, at, patience));
            running.push((port, [start(0)?, start(1)?]));
            at = at.after(STAGGER);
        }
        let ended: Vec<(u16, [Outcome; 2])> = running
            .into_iter()
            .map(|(port, ends)| {
                let [a, b] = ends.map(Running::outcome);
                Ok((port, [a?, b?]))
            })
            .collect::<io::Result<_>>()?;
        let sent = captures.map(|captures| {
            captures.map(|capture| {
                let packets = capture.packets(|_| true);
                packets.iter().filter_map(|it| Segment::parse(&it.bytes).ok()).collect::<Vec<_>>()
            })
        });
        let trial = |(port, outcomes): (u16, [Outcome; 2])| {
            if outcomes.iter().any(|outcome| outcome.late) {
                return None;
            }
            let packets = [0, 1].map(|side| match (&sent, &outcomes[side].report) {
                (Some(sent), _) => before_data(&sent[side], SocketAddr::new(self.own[side], port)),
                (None, Some(report)) => report.packets.sent,
                (None, None) => 0,
            });
            Some(Trial::of(&outcomes, packets))
        };
        Ok(ended.into_iter().map(trial).collect())
    }

    fn job(&self, side: usize, method: Method, port: u16, at: WallTime, patience: Duration) -> Job {
        let other = 1 - side;
        Job {
            at_ns: at.unix_ns(),
            peer: SocketAddr::new(self.public[other], port),
            port,
            patience_ms: u64::try_from(patience.as_millis()).unwrap_or(u64::MAX),
            how: match method {
                Method::Punch => How::Punch { opener: true },
                Method::Connect => How::ConnectLoop { pause_ms: PAUSE_MS },
            },
            then: Then::Exchange { bytes: GREETING },
            key: Some(KEY),
            models: self.models.map(|it| [it[side], it[other]].map(str::to_owned)),
        }
    }
}

/// How many segments left an endpoint before any data did.
fn before_data(segments: &[Segment], endpoint: SocketAddr) -> u64 {
    let own = segments.iter().filter(|it| it.tuple.local == endpoint);
    own.take_while(|it| it.payload.is_empty()).count() as u64
}

impl Trial {
    fn of(outcomes: &[Outcome; 2], packets: [u64; 2]) -> Self {
        let connected =
            outcomes.iter().all(|it| it.error.is_none() && it.received == GREETING as u64);
        let later = outcomes.iter().filter_map(|it| it.fd_ns).max();
        let verdict = |outcome: &Outcome| {
            let said = outcome.report.as_ref().map(|report| report.verdict.clone());
            // What happened to the connection afterwards says more than how it came about.
            outcome.error.clone().or(said).unwrap_or_else(|| "connected".to_owned())
        };
        Self {
            connected,
            fd_ms: later.filter(|_| connected).map(|ns| ns as f64 / 1e6),
            packets,
            strategy: outcomes[0].report.as_ref().map(|report| report.strategy.to_string()),
            verdicts: [verdict(&outcomes[0]), verdict(&outcomes[1])],
        }
    }
}
