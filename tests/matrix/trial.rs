//! Trials of one pair of routers: two processes each, several at once in one network.

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tcp_punch::sys::clock;
use tcp_punch::wire::{Segment, WallTime};

use crate::capture::Capture;
use crate::job::{How, Job, Outcome, Then, Tuning, Way};
use crate::kind::Kind;
use crate::network::{Host, Network, PATIENCE};
use crate::pair::{Pair, Running, fresh_port};
use crate::timetable::{Timetable, Window};

/// One way, between the routers.
pub(crate) const DELAY: &str = "10ms";

/// For the processes of one trial to start, and in the product's case to look at the path and to
/// send the opener.
const NOTICE: Duration = Duration::from_millis(450);
/// Each process spins for a few milliseconds before the instant, and is done two round trips after.
const BRIEF: Window =
    Window { before: Duration::from_millis(10), after: Duration::from_millis(40) };
/// What a search sends in a second, and the most that it opens, by the default budget.
const SEARCH_RATE: u32 = 10_000;
const MOST_TUPLES: u32 = 2_000;
/// A process that loads eBPF programs is busy with that for a tenth of a second, and eighty of them
/// on two cores for longer than there is notice.
const PUNCH: Tuning =
    Tuning { strategies: None, budget: None, anyway: false, datapath: Some(Way::Packet) };
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
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Trial {
    /// Both ends have a descriptor, and each read what the other wrote.
    pub(crate) connected: bool,
    /// From the instant, or the second program's start, until the later end had its descriptor, or
    /// the other's byte.
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

/// Two routers that stand, and how many trials there go together.
pub(crate) struct Sides<'a> {
    timetable: &'a Timetable,
    window: Window,
    at_once: usize,
    network: Network,
    /// Where each host is to be reached.
    public: [IpAddr; 2],
    /// Each host's own address.
    own: [IpAddr; 2],
    pair: [&'static Kind; 2],
    next_port: Cell<u16>,
}

impl Trials {
    /// So many trials between these sides.
    pub(crate) fn run(
        sides: &Sides,
        method: Method,
        count: usize,
        patience: Duration,
    ) -> io::Result<Self> {
        // A search has the routers' tables to itself; a single connection is one of many.
        let at_once = if method == Method::Connect { count } else { sides.at_once };
        let mut done = Self::default();
        while done.trials.len() < count {
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

impl<'a> Sides<'a> {
    /// Makes two routers. Where there is nothing to search, so many trials go together.
    pub(crate) fn up(pair: [&'static Kind; 2], at_once: usize, timetable: &'a Timetable) -> Self {
        let network = network(pair, &[]);
        let address = |side: usize, behind: [&str; 2], bare: [&str; 2]| {
            let of = if pair[side].network == "none" { bare } else { behind };
            of[side].parse().expect("an address")
        };
        let bare = ["198.51.100.2", "203.0.113.2"];
        let public = [0, 1].map(|side| address(side, ["198.51.100.1", "203.0.113.1"], bare));
        let own = [0, 1].map(|side| address(side, ["192.168.1.2", "10.0.0.2"], bare));
        let searched = pair.iter().any(|kind| kind.is_searched());
        let at_once = if searched { 1 } else { at_once.max(1) };
        Self {
            timetable,
            window: window(pair),
            at_once,
            network,
            public,
            own,
            pair,
            next_port: Cell::new(20_000),
        }
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
        // As good as new routers, whatever earlier trials left there.
        hosts.iter().try_for_each(settled)?;
        self.network.flush_routers();
        let restart = clock::now();
        let mut running = Vec::new();
        for _ in 0..count {
            let port = self.port();
            let at = self.timetable.next(clock::now().after(NOTICE), self.window);
            let start = |side| {
                let job = self.job(side, method, port, at, patience);
                Pair::start(&hosts[side], &Job { models: self.models(side, restart), ..job })
            };
            running.push((port, [start(0)?, start(1)?]));
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
                Method::Punch => How::Tuned(PUNCH),
                Method::Connect => How::ConnectLoop { pause_ms: PAUSE_MS },
            },
            then: Then::Exchange { bytes: GREETING },
            key: Some(KEY),
            models: None,
        }
    }

    /// A port that no earlier trial here has used, nor its neighbour, which the product takes too.
    fn port(&self) -> u16 {
        let port = self.next_port.get();
        self.next_port.set(port + 2);
        port
    }

    /// This side's model and the other's, if either needs one.
    fn models(&self, side: usize, restart: WallTime) -> Option<[String; 2]> {
        let told = self.pair.iter().any(|kind| kind.model.is_some());
        let model = |side: usize| self.pair[side].model_since(restart);
        let of = |side| model(side).unwrap_or_else(|| "preserving".to_owned());
        told.then(|| [of(side), of(1 - side)])
    }
}

/// Two hosts behind routers of these kinds, with further options of network.sh.
pub(crate) fn network(pair: [&Kind; 2], options: &[&str]) -> Network {
    let [a, b] = pair.map(|kind| kind.network);
    // Another one for every network, or random ports would be the same ones again and again.
    let seed = fresh_port().to_string();
    let mut all = vec!["--delay", DELAY, "--seed", &seed, "--nat-a", a, "--nat-b", b];
    for (option, kind) in ["--outer-a", "--outer-b"].into_iter().zip(pair) {
        all.extend(kind.outer.into_iter().flat_map(|outer| [option, outer]));
    }
    all.extend(options);
    Network::up(all)
}

/// How long a trial keeps both processors at work: a search of k tuples opens them before the
/// instant, and mostly ends in the first half of its SYNs.
fn window(pair: [&Kind; 2]) -> Window {
    let [a, b] = pair.map(|kind| kind.allocation.pool());
    if a * b == 1 {
        return BRIEF;
    }
    // Three times the root makes nine matches; one side alone has to be searched in whole.
    let tuples = (f64::from(a * b).sqrt() * 3.0).max(f64::from(a.max(b))) as u32;
    let opening = Duration::from_secs(1) * tuples.min(MOST_TUPLES) / SEARCH_RATE;
    Window { before: BRIEF.before + opening, after: BRIEF.after + opening / 2 }
}

/// Waits until no connection of the host's can send anything: it would be given a port.
pub(crate) fn settled(host: &Host) -> io::Result<()> {
    /// FIN-WAIT-2 and TIME-WAIT, as `/proc/net/tcp` has them.
    const SILENT: [&str; 2] = ["05", "06"];
    let began = Instant::now();
    let at_work =
        |line: &String| line.split_whitespace().nth(3).is_none_or(|it| !SILENT.contains(&it));
    while host.proc_net("tcp").iter().any(at_work) {
        if began.elapsed() > PATIENCE {
            return Err(io::Error::other("connections of an earlier trial do not end"));
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
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
