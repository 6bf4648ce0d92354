//! One attempt on one tuple: what leaves when, and what each arrival means. It has no end of its
//! own but the connection; the race it is of has the deadline.

use super::evidence::Evidence;
use super::exchange::Exchange;
use super::handshake::Reaction;
use super::offer::Offer;
use super::strategy::{First, Strategy};
use super::tcb::EstablishedTcb;
use crate::wire::{Icmp, IcmpKind, Segment, Seq, Tuple, WallTime};
use std::collections::VecDeque;
use std::time::Duration;

/// First wait for an answer. Shorter than the second that RFC 6298 asks of a connection: a SYN is
/// small, and what is missing is more often the peer's clock than the network's room.
const FIRST_RETRANSMISSION: Duration = Duration::from_millis(100);
/// Longest wait for an answer.
const LAST_RETRANSMISSION: Duration = Duration::from_secs(1);
/// Both ends also repeat in step, this long after the instant and at every doubling of it: where
/// resets close what SYNs open, only SYNs that cross get through, and ends whose clocks agree cross
/// whenever they fire together. Openers make that superfluous where both ends have one, which
/// neither of them can know.
const FIRST_STEP: Duration = Duration::from_millis(100);
/// A step nearer than this is left out.
const STEP_NOTICE: Duration = Duration::from_millis(20);
/// Resets call for openers at most this often, so that a flood of them draws no flood.
const REOPEN_INTERVAL: Duration = Duration::from_millis(20);

/// A SYN-ACK leaves unasked so long after the peer's SYN should have come in: clocks differ, and
/// our router has to have seen that SYN. Early ones do no harm, they are just lost.
const SPECULATION_GRACE: Duration = Duration::from_millis(4);

/// What an attempt is made of.
#[derive(Clone, Copy, Debug)]
pub struct AttemptConfig {
    /// The connection.
    pub tuple: Tuple,
    /// The instant at which the SYN leaves.
    pub at: WallTime,
    /// The instant that both ends agreed on: the same, unless this end is late. From here both
    /// count the moments at which they repeat in step, so that the end that is late joins its peer
    /// at the next of them.
    pub agreed: WallTime,
    /// Our initial sequence number.
    pub iss: Seq,
    /// With a key: the numbers at which the peer may start.
    pub expected_irs: Option<[Seq; 3]>,
    /// What our SYN offers.
    pub offer: Offer,
    /// How; [`Strategy::SynAck`] begins as [`Strategy::Syn`] does.
    pub strategy: Strategy,
    /// Whether other tuples are tried as well, or SYN-ACKs may come unasked: see
    /// [`Handshake::racing`](super::Handshake::racing).
    pub racing: bool,
    /// Sets the retransmissions of both ends apart: two that repeat in step would miss each other
    /// in step.
    pub seed: u64,
}

/// A SYN that opens our routers and dies before the peer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opener {
    /// Hop limit.
    pub hop_limit: u8,
    /// When it leaves.
    pub at: WallTime,
}

/// What the attempt wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// The peer's SYN came in. Install this connection before anything further is sent: the peer
    /// may be established by what follows, and the kernel has to hear what it sends then.
    Prepare(EstablishedTcb),
    /// Send this segment now.
    Transmit(Segment, Purpose),
    /// The connection stands. If it was not prepared, install it, then send its acknowledgment
    /// ([`EstablishedTcb::acknowledge`]). The attempt wants nothing more.
    Established(EstablishedTcb),
}

/// Why a segment leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Opens our routers, does not reach the peer.
    Opener,
    /// Opens them again after a reset closed them.
    Reopener,
    /// The SYN of the instant.
    Syn,
    /// The probe of the instant, where no SYN is sent.
    Probe,
    /// Answers the SYN that the peer has sent by now, though it never came in.
    UnaskedSynAck,
    /// Answers the peer's SYN.
    SynAck,
    /// Completes the handshake.
    Ack,
    /// Repeats what went unanswered.
    Retransmission,
}

/// The attempt.
#[derive(Debug)]
pub struct Attempt {
    config: AttemptConfig,
    exchange: Exchange,
    fired: bool,
    /// When the SYN-ACK leaves unasked, if it does.
    speculate_at: Option<WallTime>,
    opener: Option<Opener>,
    opener_due: Option<Opener>,
    /// Of the peer, as it was heard last.
    peer_rank: Option<u32>,
    transmit_at: WallTime,
    /// Whether the peer is taken to send at `transmit_at` too, so that it is met to the microsecond.
    in_step: bool,
    transmissions: u32,
    reopened_at: Option<WallTime>,
    outputs: VecDeque<Output>,
    ended: bool,
    evidence: Evidence,
}

impl Attempt {
    /// An attempt that has sent nothing yet.
    pub fn new(config: AttemptConfig) -> Self {
        Self {
            exchange: Exchange::new(&config),
            fired: false,
            speculate_at: (config.strategy.traits().speculates)
                .then(|| config.at.after(FIRST_RETRANSMISSION)),
            peer_rank: None,
            opener: None,
            opener_due: None,
            transmit_at: config.at,
            in_step: true,
            transmissions: 0,
            reopened_at: None,
            outputs: VecDeque::new(),
            ended: false,
            evidence: Evidence::default(),
            config,
        }
    }

    /// An attempt whose opener and SYN have left already: one of a search's many.
    pub fn begun(config: AttemptConfig, now: WallTime) -> Self {
        let mut attempt = Self { fired: true, speculate_at: None, ..Self::new(config) };
        if config.strategy.traits().speculates {
            // One may have left by now, and the peer's may be the answer to a SYN it never saw.
            attempt.exchange.speculate(tsval(now));
        }
        attempt.schedule(now);
        attempt
    }

    /// The connection.
    pub fn tuple(&self) -> Tuple {
        self.config.tuple
    }

    /// When its SYN leaves first.
    pub fn at(&self) -> WallTime {
        self.config.at
    }

    /// The strategy as it came to pass: the one asked for, or what it fell back on.
    pub fn strategy(&self) -> Strategy {
        self.exchange.strategy()
    }

    /// What a middlebox on the way seems to do, as a clause.
    pub fn remark(&self) -> Option<&'static str> {
        self.exchange.remark()
    }

    /// Whether the peer was heard.
    pub fn has_heard(&self) -> bool {
        self.peer_rank.is_some()
    }

    /// Whether the peer was heard and it is for us to choose among the tuples of a race: the
    /// peer's offer does not rank above ours. Of two equal ranks both choose.
    pub fn nominates(&self) -> bool {
        let ours = self.config.offer.rank(self.config.expected_irs.is_some());
        self.peer_rank.is_some_and(|theirs| ours >= theirs)
    }

    /// What leaves first, with timestamp value of `now`.
    pub fn first(&self, now: WallTime) -> Segment {
        self.exchange.first(tsval(now))
    }

    /// The SYN-ACK that nobody asked for, where the strategy has one.
    pub fn unasked_syn_ack(&self, now: WallTime) -> Option<Segment> {
        self.exchange.clone().speculate(tsval(now))
    }

    /// Whether the peer was heard here and its acknowledgment is awaited, or has come.
    pub fn is_answering(&self) -> bool {
        self.ended || self.exchange.is_answering()
    }

    /// So long it takes to the peer, as far as probes tell.
    pub fn set_one_way(&mut self, one_way: Duration) {
        if self.speculate_at.is_some() {
            // The peer's SYN comes by our router before it would come in.
            self.speculate_at = Some(self.config.at.after(one_way * 3 / 2 + SPECULATION_GRACE));
        }
    }

    /// Sends nothing unasked any more: the peer was heard on another tuple.
    pub fn stop_speculating(&mut self) {
        self.speculate_at = None;
    }

    /// Sends this opener when its time comes, and again after resets. The path is known only after
    /// the attempt has begun to listen.
    pub fn set_opener(&mut self, opener: Opener) {
        self.opener = Some(opener);
        self.opener_due = Some(opener);
    }

    /// When a SYN is due that has to leave on the microsecond, if one is: at the instant, or in step
    /// with the peer later.
    pub fn fires_at(&self) -> Option<WallTime> {
        (!self.ended && self.in_step).then_some(self.transmit_at)
    }

    /// A segment of the attempt's tuple came in. Returns what it was, in words.
    pub fn handle_segment(&mut self, segment: &Segment, now: WallTime) -> &'static str {
        if self.ended {
            return "after the end";
        }
        let was_answering = self.exchange.is_answering();
        let reaction = self.exchange.receive(segment, tsval(now));
        self.evidence.count(segment, &reaction);
        match reaction {
            Reaction::Ignored(what)
            | Reaction::OtherStrategy(what)
            | Reaction::OwnSyn(what)
            | Reaction::WrongKey(what) => what,
            Reaction::Answered { tcb, answers, rank, what } => {
                self.speculate_at = None;
                self.peer_rank = Some(rank);
                self.outputs.push_back(Output::Prepare(tcb));
                self.outputs.extend(answers.into_iter().map(|answer| {
                    let purpose = if answer.syn { Purpose::SynAck } else { Purpose::Ack };
                    Output::Transmit(answer, purpose)
                }));
                // Not each time: a flood of forged SYNs would keep ours from ever being repeated.
                if !was_answering {
                    self.transmissions = 0;
                    self.schedule(now);
                }
                what
            }
            Reaction::Completed { tcb, what } => {
                self.ended = true;
                self.outputs.push_back(Output::Established(tcb));
                what
            }
            Reaction::Reset { reopen, what } => {
                if reopen {
                    self.reopen(now);
                }
                what
            }
        }
    }

    /// An ICMP error about the attempt's tuple came in. It never ends the attempt: routes heal,
    /// and anybody can forge one. Returns what it was, in words.
    pub fn handle_icmp(&mut self, icmp: &Icmp) -> &'static str {
        match icmp.kind {
            IcmpKind::TimeExceeded => "died there",
            IcmpKind::Unreachable(_) => {
                self.evidence.unreachable = Some(icmp.from);
                "outlived"
            }
            IcmpKind::EchoReply => "echo reply",
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: WallTime) {
        if self.ended {
            return;
        }
        if let Some(opener) = self.opener_due.take_if(|opener| opener.at <= now) {
            self.push_opener(opener, Purpose::Opener, now);
        }
        if self.speculate_at.take_if(|at| *at <= now).is_some() {
            let segment = self.exchange.speculate(tsval(now));
            self.outputs
                .extend(segment.map(|segment| Output::Transmit(segment, Purpose::UnaskedSynAck)));
        }
        if self.transmit_at <= now {
            let purpose = match (self.fired, self.exchange.is_answering()) {
                (false, false) if self.config.strategy.traits().first == First::Probe => {
                    Purpose::Probe
                }
                (false, false) => Purpose::Syn,
                _ => Purpose::Retransmission,
            };
            self.fired |= purpose != Purpose::Retransmission;
            let nth = self.transmissions.saturating_sub(1);
            let segment = match purpose {
                // A router of the peer's that resets have closed lets in what crosses its own SYN,
                // and of that it takes a SYN only.
                Purpose::Retransmission if !(self.in_step && self.exchange.is_answering()) => {
                    self.exchange.retransmission(nth, tsval(now))
                }
                _ => Some(self.exchange.first(tsval(now))),
            };
            self.outputs.extend(segment.map(|segment| Output::Transmit(segment, purpose)));
            self.evidence.sent += 1;
            self.schedule(now);
        }
    }

    /// What to do next; `None` until the next input.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Attempt::handle_timeout`] wants to be called; `None` once the attempt has ended.
    pub fn poll_timeout(&self) -> Option<WallTime> {
        let opener = self.opener_due.map(|opener| opener.at);
        let due = [opener, self.speculate_at].into_iter().flatten();
        (!self.ended).then(|| due.fold(self.transmit_at, WallTime::min))
    }

    /// What the attempt has seen.
    pub fn evidence(&self) -> &Evidence {
        &self.evidence
    }

    fn reopen(&mut self, now: WallTime) {
        let due = self.reopened_at.is_none_or(|last| last.after(REOPEN_INTERVAL) <= now);
        if let (Some(opener), true) = (self.opener, due && self.opener_due.is_none()) {
            self.reopened_at = Some(now);
            self.push_opener(opener, Purpose::Reopener, now);
        }
    }

    fn push_opener(&mut self, opener: Opener, purpose: Purpose, now: WallTime) {
        // Once the peer's SYN came in our routers are open, and a further SYN would be out of turn.
        if self.exchange.is_answering() && purpose == Purpose::Opener {
            return;
        }
        let syn = Segment { hop_limit: opener.hop_limit, ..self.exchange.first(tsval(now)) };
        self.outputs.push_back(Output::Transmit(syn, purpose));
    }

    fn schedule(&mut self, now: WallTime) {
        self.in_step = false;
        if !self.fired && !self.exchange.is_answering() {
            self.transmit_at = self.config.at;
            self.in_step = true;
            return;
        }
        let wait = FIRST_RETRANSMISSION
            .saturating_mul(1 << self.transmissions.min(8))
            .min(LAST_RETRANSMISSION);
        // Between three and five quarters of it, by the seed.
        let spread = self.config.seed.rotate_left(self.transmissions * 11) % 512;
        let wait = wait * 3 / 4 + wait / 1024 * u32::try_from(spread).unwrap_or(0);
        self.transmit_at = now.after(wait);
        if let Some(step) = self.next_step(now).filter(|step| *step <= self.transmit_at) {
            self.transmit_at = step;
            self.in_step = true;
        } else {
            self.transmissions += 1;
        }
    }

    /// The next moment at which the peer, too, sends if it has heard nothing.
    fn next_step(&self, now: WallTime) -> Option<WallTime> {
        (0..16)
            .map(|doubling| self.config.agreed.after(FIRST_STEP * (1 << doubling)))
            .find(|step| *step >= now.after(STEP_NOTICE))
    }
}

impl Purpose {
    /// In words, for the timeline.
    pub fn words(self) -> &'static str {
        match self {
            Self::Opener => "opener",
            Self::Reopener => "opener again, after the reset",
            Self::Syn => "SYN at the instant",
            Self::Probe => "probe at the instant",
            Self::UnaskedSynAck => "SYN-ACK, unasked",
            Self::SynAck => "SYN-ACK",
            Self::Ack => "ACK",
            Self::Retransmission => "retransmission",
        }
    }
}

/// Our timestamp value, RFC 7323: milliseconds of the wall clock, so that one punch after the
/// other on one port pair never goes back in time, whoever made it.
pub fn tsval(now: WallTime) -> u32 {
    (now.unix_ns() / 1_000_000) as u32
}

#[cfg(test)]
mod tests;
