//! The way between two hosts: their routers, and a network that delays and loses.

use crate::host::Host;
use crate::router::{Entry, Passage, Reaction, Router};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;
use tcp_punch::wire::{Options, Segment, Seq, Tuple, WallTime};

/// What one punch meets.
#[derive(Clone, Debug)]
pub(crate) struct Conditions {
    pub(crate) one_way: Duration,
    /// How much later the second end starts.
    pub(crate) skew: Duration,
    pub(crate) openers: bool,
    pub(crate) reactions: [Reaction; 2],
    /// What the routers still hold of an earlier connection.
    pub(crate) stale: [Option<Entry>; 2],
    pub(crate) loss_percent: u32,
    pub(crate) seed: u64,
}

/// How it went.
pub(crate) struct Outcome {
    /// Since the first end's instant, or the second's if that completes it.
    pub(crate) established: [Option<Duration>; 2],
    /// Each end expects what the other will send.
    pub(crate) agree: bool,
    pub(crate) sent: [u32; 2],
    pub(crate) resets: u32,
    pub(crate) untranslated: u32,
    ladder: String,
}

/// Past the hop limit of an opener, short of a router.
const HOPS: u8 = 5;
const EXTERNAL: [&str; 2] = ["198.51.100.1:40000", "203.0.113.1:40000"];
const INTERNAL: [&str; 2] = ["192.168.1.2:40000", "10.0.0.2:40000"];
const ISS: [u32; 2] = [1_000, u32::MAX - 5];

struct Simulation<'a> {
    conditions: &'a Conditions,
    hosts: [Host; 2],
    routers: [Router; 2],
    /// Arrivals at the router of an end: when, in which order, where, what.
    wire: BinaryHeap<Reverse<(WallTime, u32, usize)>>,
    segments: Vec<Segment>,
    random: u64,
    outcome: Outcome,
}

/// Runs one punch to its end.
pub(crate) fn punch(conditions: &Conditions) -> Outcome {
    let start = WallTime::from_unix_ns(1_000_000_000_000);
    let at = [start, start.after(conditions.skew)];
    let host = |end: usize| {
        let tuple = Tuple { local: address(INTERNAL[end]), remote: address(EXTERNAL[1 - end]) };
        Host::new(tuple, ISS[end], at[end], conditions.openers)
    };
    let router = |end: usize| Router::new(conditions.reactions[end], conditions.stale[end]);
    let mut simulation = Simulation {
        conditions,
        hosts: [host(0), host(1)],
        routers: [router(0), router(1)],
        wire: BinaryHeap::new(),
        segments: Vec::new(),
        random: conditions.seed | 1,
        outcome: Outcome {
            established: [None; 2],
            agree: false,
            sent: [0; 2],
            resets: 0,
            untranslated: 0,
            ladder: String::new(),
        },
    };
    simulation.run(start);
    simulation.judge(start)
}

impl Simulation<'_> {
    fn run(&mut self, start: WallTime) {
        let end_of_time = start.after(Duration::from_secs(30));
        loop {
            let arrival = self.wire.peek().map(|Reverse((at, ..))| *at);
            let timeouts = [0, 1].map(|end: usize| self.hosts[end].poll_timeout());
            let next = timeouts.into_iter().chain([arrival]).flatten().min();
            let Some(now) = next.filter(|now| *now < end_of_time) else { return };
            if arrival == Some(now) {
                self.arrive(now, start);
            } else {
                for end in [0, 1] {
                    if timeouts[end] == Some(now) {
                        let sent = self.hosts[end].handle_timeout(now);
                        self.send(end, sent, now, start);
                    }
                }
            }
        }
    }

    fn send(&mut self, end: usize, segments: Vec<Segment>, now: WallTime, start: WallTime) {
        for mut segment in segments {
            self.outcome.sent[end] += 1;
            self.note(now, start, end, "sends", &segment);
            match self.routers[end].outbound(&segment) {
                Passage::Translated if segment.hop_limit < HOPS => {}
                Passage::Translated => {
                    segment.tuple.local = address(EXTERNAL[end]);
                    self.carry(1 - end, segment, now);
                }
                Passage::Untranslated | Passage::Own => self.outcome.untranslated += 1,
            }
        }
    }

    /// Towards the router of `end`.
    fn carry(&mut self, end: usize, segment: Segment, now: WallTime) {
        if self.lost() {
            return;
        }
        let number = u32::try_from(self.segments.len()).expect("few segments");
        self.wire.push(Reverse((now.after(self.conditions.one_way), number, end)));
        self.segments.push(segment);
    }

    fn arrive(&mut self, now: WallTime, start: WallTime) {
        let Some(Reverse((_, number, end))) = self.wire.pop() else { return };
        let mut segment = self.segments[number as usize].clone();
        match self.routers[end].inbound(&segment) {
            Passage::Translated => {
                segment.tuple.remote = address(INTERNAL[end]);
                self.note(now, start, end, "gets", &segment);
                let sent = self.hosts[end].receive(&segment, now);
                self.send(end, sent, now, start);
            }
            Passage::Own if !segment.rst && self.routers[end].reaction == Reaction::Reset => {
                self.outcome.resets += 1;
                self.note(now, start, end, "resets", &segment);
                self.carry(1 - end, reset(&segment), now);
            }
            Passage::Own | Passage::Untranslated => {}
        }
    }

    fn lost(&mut self) -> bool {
        // xorshift64*
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        let percent = self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        percent % 100 < u64::from(self.conditions.loss_percent)
    }

    fn judge(mut self, start: WallTime) -> Outcome {
        let tcbs = [0, 1].map(|end: usize| self.hosts[end].tcb.clone());
        if let [Some(a), Some(b)] = &tcbs {
            self.outcome.agree = a.snd_nxt == b.rcv_nxt && b.snd_nxt == a.rcv_nxt;
        }
        self.outcome.established =
            [0, 1].map(|end: usize| self.hosts[end].established_at.map(|at| start.until(at)));
        self.outcome
    }

    fn note(&mut self, now: WallTime, start: WallTime, end: usize, does: &str, segment: &Segment) {
        use std::fmt::Write;
        let ms = now.ns_since(start) as f64 / 1e6;
        let _ = writeln!(
            self.outcome.ladder,
            "{ms:>9.3} {end} {does} {segment} {:?}",
            self.routers[end].entry
        );
    }
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

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?}, sent {:?}, resets {}\n{}",
            self.established, self.sent, self.resets, self.ladder
        )
    }
}
