//! The way between two hosts: their routers, and a network that delays, loses, repeats and forges.

use crate::behaviour::{Behaviour, MASQUERADE, Ports};
use crate::ends::End;
use crate::host::Host;
use crate::random::Random;
use crate::router::{Inbound, Router, State};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tcp_punch::punch::Budget;
use tcp_punch::wire::{Options, Segment, Seq, Tuple, WallTime};

/// What one punch meets.
#[derive(Clone, Debug)]
pub(crate) struct Conditions {
    pub(crate) one_way: Duration,
    /// At most so much longer.
    pub(crate) jitter: Duration,
    /// How much later the second end starts.
    pub(crate) skew: Duration,
    /// How much later than it should the second end begins, whose clock is right.
    pub(crate) late: Duration,
    pub(crate) openers: [bool; 2],
    /// The routers of each end, the innermost first.
    pub(crate) routers: [Vec<Behaviour>; 2],
    /// What the innermost routers still hold of an earlier connection.
    pub(crate) stale: [Option<State>; 2],
    pub(crate) key: bool,
    /// The instants lie in two minutes: the ends start at different numbers, and each takes the
    /// other for being in its own minute.
    pub(crate) minutes_apart: bool,
    /// Both ends know how both routers number their mappings.
    pub(crate) models: bool,
    pub(crate) budget: Budget,
    /// Neighbouring tuples that are raced where ports are known.
    pub(crate) spread: u16,
    /// By chance both ends offer the same window, by which they would know who nominates.
    pub(crate) equal_windows: bool,
    pub(crate) loss_percent: u32,
    pub(crate) duplicate_percent: u32,
    /// Segments that somebody sends to each end in the peer's name, with random numbers.
    pub(crate) forged: u32,
    pub(crate) timeout: Duration,
    pub(crate) seed: u64,
}

impl Default for Conditions {
    fn default() -> Self {
        Self {
            one_way: Duration::from_millis(10),
            jitter: Duration::ZERO,
            skew: Duration::ZERO,
            late: Duration::ZERO,
            openers: [true; 2],
            routers: [vec![MASQUERADE], vec![MASQUERADE]],
            stale: [None; 2],
            key: false,
            minutes_apart: false,
            models: false,
            budget: Budget::default(),
            spread: 1,
            equal_windows: false,
            loss_percent: 0,
            duplicate_percent: 0,
            forged: 0,
            timeout: Duration::from_secs(20),
            seed: 1,
        }
    }
}

/// How it went.
pub(crate) struct Outcome {
    /// Since the first end's instant.
    pub(crate) established: [Option<Duration>; 2],
    /// Both ends of one connection: its ports, and what each expects the other to send.
    pub(crate) agree: bool,
    /// They were when each was established, whatever routers have forgotten since.
    pub(crate) agreed: bool,
    pub(crate) sent: [u32; 2],
    pub(crate) resets: u32,
    pub(crate) untranslated: u32,
    /// What the plan promised, if there is one.
    pub(crate) chance: f64,
    ladder: String,
}

/// Past the hop limit of an opener, short of the peer's routers.
const HOPS: u8 = 5;
const EXTERNAL: [&str; 2] = ["198.51.100.1", "203.0.113.1"];
const INTERNAL: [&str; 2] = ["192.168.1.2", "10.0.0.2"];
const BETWEEN: &str = "100.64.0.1";
const STUN: &str = "192.0.2.9:3478";
/// Routers' ports are known from so long before the instant.
const MEASURED: Duration = Duration::from_secs(1);
/// More of a ladder nobody reads.
const LONGEST_LADDER: usize = 40_000;

struct Simulation<'a> {
    conditions: &'a Conditions,
    start: WallTime,
    hosts: [Host; 2],
    /// The connection of each end when it was established.
    stood: [Option<(Tuple, Seq, Seq)>; 2],
    routers: [Vec<Router>; 2],
    /// Arrivals at the routers of an end: when, in which order, where, what.
    wire: BinaryHeap<Reverse<(WallTime, u32, usize)>>,
    segments: Vec<Segment>,
    random: Random,
    outcome: Outcome,
}

/// Runs one punch to its end.
pub(crate) fn punch(conditions: &Conditions) -> Outcome {
    // A minute begins with the second of them.
    let start = [1_000_000_000_000, 1_000_020_000_000_000][usize::from(conditions.minutes_apart)];
    let start = WallTime::from_unix_ns(start);
    let measured = start.before(MEASURED);
    let mut random = Random::new(conditions.seed);
    let mut routers = [0, 1].map(|end: usize| -> Vec<Router> {
        let kinds = &conditions.routers[end];
        let make = |(nth, kind): (usize, &Behaviour)| {
            let outermost = nth + 1 == kinds.len();
            let at = address(if outermost { EXTERNAL[end] } else { BETWEEN });
            Router::new(*kind, at, measured, random.next())
        };
        kinds.iter().enumerate().map(make).collect()
    });
    let ends = [0, 1].map(|end: usize| {
        let local = SocketAddr::new(address(INTERNAL[end]), End::PORT);
        End::measure(&mut routers[end], local, STUN.parse().expect("an address"))
    });
    let mut hosts = [0, 1].map(|end: usize| {
        let by_clock = [start, start.after(conditions.skew)][end];
        let late = [Duration::ZERO, conditions.late][end];
        let at = [by_clock, by_clock.after(late)];
        let [local, remote] = [INTERNAL[end], EXTERNAL[1 - end]].map(address);
        ends[end].host(&ends[1 - end], conditions, [local, remote], start, at, random.next())
    });
    for end in [0, 1] {
        if let Some(state) = conditions.stale[end] {
            let [local, remote] = [INTERNAL[end], EXTERNAL[1 - end]].map(address);
            let [local, remote] = [local, remote].map(|ip| SocketAddr::new(ip, End::PORT));
            routers[end][0].remember(local, remote, state);
        }
    }
    let chance = hosts[0].chance;
    let mut simulation = Simulation {
        conditions,
        start,
        routers,
        wire: BinaryHeap::new(),
        segments: Vec::new(),
        random,
        outcome: Outcome {
            established: [None; 2],
            agree: false,
            agreed: false,
            sent: [0; 2],
            resets: 0,
            untranslated: 0,
            chance,
            ladder: String::new(),
        },
        stood: [None; 2],
        hosts: hosts.each_mut().map(|host| host.take()),
    };
    simulation.forge();
    simulation.run();
    simulation.judge()
}

impl Simulation<'_> {
    fn run(&mut self) {
        let end_of_time = self.start.after(self.conditions.timeout + Duration::from_secs(10));
        loop {
            let arrival = self.wire.peek().map(|Reverse((at, ..))| *at);
            let timeouts = [0, 1].map(|end: usize| self.hosts[end].poll_timeout());
            let next = timeouts.into_iter().chain([arrival]).flatten().min();
            let Some(now) = next.filter(|now| *now < end_of_time) else { return };
            if arrival == Some(now) {
                self.arrive(now);
            } else {
                for end in [0, 1] {
                    if timeouts[end] == Some(now) {
                        let sent = self.hosts[end].handle_timeout(now);
                        self.send(end, sent, now);
                    }
                }
            }
        }
    }

    fn send(&mut self, end: usize, segments: Vec<Segment>, now: WallTime) {
        if self.stood[end].is_none() {
            self.stood[end] = self.outside(end);
        }
        for segment in segments {
            self.outcome.sent[end] += 1;
            self.note(now, end, "sends", &segment);
            self.pass_out(end, 0, segment, now);
        }
    }

    /// Out through the routers of `end` from the `nth` on.
    fn pass_out(&mut self, end: usize, nth: usize, segment: Segment, now: WallTime) {
        let mut passing = Some(segment);
        for router in &mut self.routers[end][nth..] {
            passing = passing.and_then(|segment| router.outbound(&segment, now));
        }
        if let Some(segment) = passing.filter(|segment| segment.hop_limit >= HOPS) {
            self.carry(1 - end, segment, now);
        }
    }

    /// Towards the routers of `end`.
    fn carry(&mut self, end: usize, segment: Segment, now: WallTime) {
        if self.random.percent(self.conditions.loss_percent) {
            return;
        }
        let again = self.random.percent(self.conditions.duplicate_percent);
        for _ in 0..=u32::from(again) {
            let number = u32::try_from(self.segments.len()).expect("few segments");
            let jitter = u32::try_from(self.conditions.jitter.as_micros()).expect("short");
            let jitter = Duration::from_micros(self.random.below(jitter + 1).into());
            self.wire.push(Reverse((now.after(self.conditions.one_way + jitter), number, end)));
            self.segments.push(segment.clone());
        }
    }

    fn arrive(&mut self, now: WallTime) {
        let Some(Reverse((_, number, end))) = self.wire.pop() else { return };
        let mut segment = self.segments[number as usize].clone();
        for nth in (0..self.routers[end].len()).rev() {
            match self.routers[end][nth].inbound(&segment) {
                Inbound::Translated(inside) => segment = inside,
                Inbound::Dropped => {
                    self.note(now, end, "drops", &segment);
                    return;
                }
                Inbound::Reset => {
                    self.outcome.resets += 1;
                    self.note(now, end, "resets", &segment);
                    self.pass_out(end, nth + 1, reset(&segment), now);
                    return;
                }
            }
        }
        self.note(now, end, "gets", &segment);
        let sent = self.hosts[end].receive(&segment, now);
        self.send(end, sent, now);
    }

    /// Segments in the name of each peer, on its ports, from before the instant on.
    fn forge(&mut self) {
        for end in [0, 1] {
            let [to, from] = [EXTERNAL[end], EXTERNAL[1 - end]].map(address);
            for _ in 0..self.conditions.forged {
                let ports =
                    [1 - end, end].map(|whose| match self.routers[whose][0].behaviour.ports {
                        Ports::Random((first, last)) => {
                            first + self.random.below(u32::from(last - first) + 1) as u16
                        }
                        _ => End::PORT + self.random.below(2) as u16,
                    });
                let tuple = Tuple {
                    local: SocketAddr::new(from, ports[0]),
                    remote: SocketAddr::new(to, ports[1]),
                };
                let [seq, ack, flags] = [0, 1, 2].map(|_| self.random.next() as u32);
                let (syn, rst) = [(true, false), (false, false), (false, true)][flags as usize % 3];
                let segment = Segment {
                    hop_limit: 50,
                    ack: (flags & 0x100 != 0 || !syn).then_some(Seq(ack)),
                    syn,
                    rst,
                    window: ack as u16,
                    options: Options { timestamps: Some((seq, ack)), ..Options::default() },
                    ..Segment::new(tuple, Seq(seq))
                };
                let at = self.start.before(MEASURED / 2);
                let at = at.after(Duration::from_micros(self.random.below(1_000_000).into()));
                let number = u32::try_from(self.segments.len()).expect("few segments");
                self.wire.push(Reverse((at, number, end)));
                self.segments.push(segment);
            }
        }
    }

    fn judge(mut self) -> Outcome {
        let agree = |ends: [Option<(Tuple, Seq, Seq)>; 2]| match ends {
            [Some((a, a_snd, a_rcv)), Some((b, b_snd, b_rcv))] => {
                a == b.reversed() && a_snd == b_rcv && b_snd == a_rcv
            }
            _ => false,
        };
        self.outcome.agreed = agree(self.stood);
        self.outcome.agree = agree([0, 1].map(|end: usize| self.outside(end)));
        self.outcome.established =
            [0, 1].map(|end: usize| self.hosts[end].established_at.map(|at| self.start.until(at)));
        self.outcome.untranslated = self.routers.iter().flatten().map(|router| router.leaked).sum();
        self.outcome
    }

    /// The connection of an end as it looks between the outermost routers, and its numbers there.
    fn outside(&self, end: usize) -> Option<(Tuple, Seq, Seq)> {
        let tcb = self.hosts[end].tcb.as_ref()?;
        let (mut tuple, mut snd_nxt) = (tcb.tuple, tcb.snd_nxt);
        for router in &self.routers[end] {
            let (external, offset) = router.translation(tuple.local, tuple.remote)?;
            tuple.local = external;
            snd_nxt = snd_nxt + offset;
        }
        Some((tuple, snd_nxt, tcb.rcv_nxt))
    }

    fn note(&mut self, now: WallTime, end: usize, does: &str, segment: &Segment) {
        use std::fmt::Write;
        if self.outcome.ladder.len() > LONGEST_LADDER || !cfg!(debug_assertions) && !ladders() {
            return;
        }
        let tuple = if does == "sends" { segment.tuple } else { segment.tuple.reversed() };
        let state = self.routers[end][0].state(tuple.local, tuple.remote);
        let ms = now.ns_since(self.start) as f64 / 1e6;
        let _ = writeln!(self.outcome.ladder, "{ms:>9.3} {end} {does} {segment} {state:?}");
    }
}

/// Ladders take longer than the punches; release builds draw them when `LADDERS` is set.
fn ladders() -> bool {
    static SET: std::sync::LazyLock<bool> =
        std::sync::LazyLock::new(|| std::env::var_os("LADDERS").is_some());
    *SET
}

/// The reset with which a host without a socket answers, RFC 9293 section 3.10.7.1.
fn reset(segment: &Segment) -> Segment {
    let (seq, ack) = match segment.ack {
        Some(ack) => (ack, None),
        None => (Seq(0), Some(segment.end())),
    };
    Segment {
        tuple: segment.tuple.reversed(),
        seq,
        ack,
        syn: false,
        rst: true,
        options: Options::default(),
        ..segment.clone()
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?}, agree {}, sent {:?}, resets {}, chance {}\n{}",
            self.established, self.agree, self.sent, self.resets, self.chance, self.ladder
        )
    }
}
