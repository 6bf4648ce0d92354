//! One punch over one tuple or many: the first that works wins, and both ends agree which.

use super::attempt::{Attempt, AttemptConfig, Opener, Output as AttemptOutput, Purpose};
use super::evidence::Evidence;
use super::offer::Offer;
use super::search::{Batch, Search, Wave};
use super::strategy::Strategy;
use super::tcb::EstablishedTcb;
use crate::wire::{Icmp, Segment, Tuple, WallTime};
use std::collections::VecDeque;
use std::time::Duration;

/// All attempts of one punch.
///
/// Where there are several, the end that offered the larger window, or if both are equal the larger
/// mark, nominates: it acknowledges on one tuple alone, and never changes its mind. Ranks that are
/// equal all the same make both nominate, and they may miss each other; two ends that only answer
/// might end on different tuples. It is judged by what each tuple has brought last, since the first
/// SYN that comes in may be a late one of an earlier punch, which offered another window.
///
/// The other end answers wherever it is called, and takes the tuple on which it is acknowledged in
/// turn. So no byte is spent on agreeing, and the ends cannot end on different tuples, whatever is
/// lost or late: each of them completes by the other's plain ACK only, and one of them sends that
/// on one tuple alone.
///
/// Of tuples told beforehand, the nominated one is the first on which the peer is heard, which
/// costs no round trip. In a search a SYN alone says little: routers may let it in on tuples that
/// do not lead back. It is answered with a SYN-ACK, and nothing is kept; state and nomination come
/// with the first segment that acknowledges a SYN of ours.
#[derive(Debug)]
pub struct Race {
    /// Those told beforehand, then those that a search has met.
    attempts: Vec<Attempt>,
    told: usize,
    /// The tuple of the second instant.
    reserve: Option<Tuple>,
    search: Option<Search>,
    config: AttemptConfig,
    deadline: WallTime,
    nominated: Option<Tuple>,
    /// The peer's last SYN of a search; it has the same numbers on all tuples.
    peer_syn: Option<Segment>,
    outputs: VecDeque<Output>,
    evidence: Evidence,
    ended: bool,
    winner: Option<Strategy>,
    remark: Option<&'static str>,
    /// Tuples that are flooded still leave the field to one that is not.
    yielding: bool,
}

/// What a race is made of.
#[derive(Clone, Debug)]
pub struct RaceConfig {
    /// What all attempts have in common; its tuple and strategy are the first attempt's.
    pub attempt: AttemptConfig,
    /// Give up this long after the instant.
    pub timeout: Duration,
    /// The tuples raced and how, the first preferred; `attempt`'s alone if empty.
    pub tuples: Vec<(Tuple, Strategy)>,
    /// Tried [`SECOND_INSTANT`] later, if the peer is not heard on the others by then.
    pub reserve: Option<Reserve>,
    /// The tuples searched, on which `attempt`'s strategy is used.
    pub search: Option<Search>,
}

/// A tuple for a second instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserve {
    /// One on which nothing was sent.
    pub tuple: Tuple,
    /// How.
    pub strategy: Strategy,
    /// What is offered there. Another window than on the other tuples: by those two ends with one
    /// key may take each other for themselves, if they drew the same.
    pub offer: Offer,
}

/// What the race wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// The peer was heard. Install this connection before anything further is sent: the peer may
    /// be established by what follows, and the kernel has to hear what it sends then.
    Prepare(EstablishedTcb),
    /// Send this segment now.
    Transmit(Segment, Purpose),
    /// Send this segment, but for its ports, on these tuples of the search.
    Spray(Segment, Batch),
    /// The connection stands. If it was not prepared, install it, then send its acknowledgment
    /// ([`EstablishedTcb::acknowledge`]). The race wants nothing more.
    Established(EstablishedTcb),
    /// The time is up.
    Expired,
}

/// After the instant a router that answers by itself, or forgets what a reset ended only after ten
/// seconds, may have spoilt a tuple for good: one end was late, or an opener was lost. So there is
/// another instant, on a tuple that nobody has touched; later than anything is still under way.
pub const SECOND_INSTANT: Duration = Duration::from_millis(400);

/// So many tuples of a search are kept on which the peer was heard, the first ones: none of them
/// goes for another, since the peer may have completed by our answer. A forger who knows no key
/// can make no more of them.
const MOST_MET: usize = 32;
/// So many resets and segments without the key are a flood.
const FLOOD: u64 = 16;
/// A tuple that is flooded leaves the field to others until so long after the instant.
const YIELDING: Duration = Duration::from_millis(900);

impl Race {
    /// A race in which nothing has been sent.
    pub fn new(config: RaceConfig) -> Self {
        let RaceConfig { attempt, timeout, tuples, reserve, search } = config;
        let speculates = |(_, strategy): &(_, Strategy)| strategy.traits().speculates;
        let racing = tuples.len() > 1 || search.is_some() || tuples.iter().any(speculates);
        let attempt = AttemptConfig { racing: attempt.racing || racing, ..attempt };
        let mut attempts: Vec<_> = tuples
            .into_iter()
            .map(|(tuple, strategy)| Attempt::new(AttemptConfig { tuple, strategy, ..attempt }))
            .collect();
        if attempts.is_empty() && search.is_none() {
            attempts.push(Attempt::new(attempt));
        }
        if let Some(Reserve { tuple, strategy, offer }) = reserve {
            let agreed = attempt.agreed.after(SECOND_INSTANT);
            let at = agreed.max(attempt.at);
            let later = AttemptConfig { tuple, strategy, offer, at, agreed, ..attempt };
            attempts.push(Attempt::new(later));
        }
        Self {
            told: attempts.len(),
            attempts,
            reserve: reserve.map(|it| it.tuple),
            search,
            config: attempt,
            deadline: attempt.at.after(timeout),
            nominated: None,
            peer_syn: None,
            outputs: VecDeque::new(),
            evidence: Evidence::default(),
            ended: false,
            winner: None,
            remark: None,
            yielding: true,
        }
    }

    /// Sends openers when their time comes.
    pub fn set_opener(&mut self, opener: Opener) {
        for attempt in &mut self.attempts {
            let later = self.config.at.until(attempt.at());
            attempt.set_opener(Opener { at: opener.at.after(later), ..opener });
        }
        if let Some(search) = &mut self.search {
            search.set_opener(opener.hop_limit);
        }
    }

    /// So long it takes to the peer, as far as probes tell.
    pub fn set_one_way(&mut self, one_way: Duration) {
        self.attempts.iter_mut().for_each(|attempt| attempt.set_one_way(one_way));
        if let Some(search) = &mut self.search {
            search.set_one_way(one_way);
        }
    }

    /// When a SYN is due that has to leave on the microsecond, if one is.
    pub fn fires_at(&self) -> Option<WallTime> {
        self.speaking().filter_map(Attempt::fires_at).min()
    }

    /// Whether this tuple is one of the race's.
    pub fn covers(&self, tuple: Tuple) -> bool {
        self.attempts.iter().any(|attempt| attempt.tuple() == tuple)
            || self.search.as_ref().is_some_and(|search| search.covers(tuple))
    }

    /// A segment from the peer came in. Returns what it was, in words.
    pub fn handle_segment(&mut self, segment: &Segment, now: WallTime) -> &'static str {
        if self.ended {
            return "after the end";
        }
        let tuple = segment.tuple.reversed();
        let known = self.attempts.iter().position(|attempt| attempt.tuple() == tuple);
        if let Some(place) = known {
            return self.handle_on(place, segment, now);
        }
        let searched = self.search.as_ref().is_some_and(|search| search.covers(tuple));
        match (searched, segment.syn, self.hears_us(segment)) {
            (false, ..) => "stray",
            (true, true, false) if segment.ack.is_none() => self.answer(tuple, segment, now),
            (true, _, true) if !segment.rst => self.meet(tuple, segment, now),
            (true, ..) => "on a tuple without answer",
        }
    }

    fn handle_on(&mut self, place: usize, segment: &Segment, now: WallTime) -> &'static str {
        let spoilt = self.is_spoilt(&self.attempts[place]);
        let attempt = &mut self.attempts[place];
        if spoilt {
            return "on a tuple that somebody floods";
        }
        let what = attempt.handle_segment(segment, now);
        if attempt.has_heard() {
            self.stop_hoping();
        }
        self.drain(place);
        what
    }

    /// The peer's SYN on a tuple of the search.
    fn answer(&mut self, tuple: Tuple, syn: &Segment, now: WallTime) -> &'static str {
        let mut met = self.searched(tuple, now);
        let what = met.handle_segment(syn, now);
        self.evidence.add(met.evidence());
        if met.is_answering() {
            self.peer_syn = Some(syn.clone());
            if !self.is_silent(&met) {
                let answers = std::iter::from_fn(|| met.poll());
                self.outputs.extend(answers.filter_map(|output| match output {
                    AttemptOutput::Transmit(answer, purpose) if answer.syn => {
                        Some(Output::Transmit(answer, purpose))
                    }
                    _ => None,
                }));
            }
        }
        what
    }

    /// The peer acknowledges our SYN on a tuple of the search.
    fn meet(&mut self, tuple: Tuple, segment: &Segment, now: WallTime) -> &'static str {
        if self.attempts.len() - self.told >= MOST_MET {
            return "on one tuple more than are kept";
        }
        let mut met = self.searched(tuple, now);
        if let (false, Some(syn)) = (segment.syn, &self.peer_syn) {
            // The SYN-ACK is lost, or late; what it said is known from another tuple.
            met.handle_segment(&Segment { tuple: segment.tuple, ..syn.clone() }, now);
        }
        self.attempts.push(met);
        let place = self.attempts.len() - 1;
        let what = self.handle_on(place, segment, now);
        if !self.attempts[place].is_answering() {
            // Nothing of the peer: no state is kept for it.
            let nothing = self.attempts.remove(place);
            self.evidence.add(nothing.evidence());
        }
        what
    }

    fn searched(&self, tuple: Tuple, now: WallTime) -> Attempt {
        Attempt::begun(AttemptConfig { tuple, ..self.config }, now)
    }

    fn hears_us(&self, segment: &Segment) -> bool {
        segment.ack == Some(self.config.iss + 1)
    }

    /// A segment of the peer's came in, but on none of our tuples: its router maps ports otherwise.
    pub fn handle_other_port(&mut self, segment: &Segment) {
        self.evidence.other_port = Some(segment.tuple.local);
    }

    /// An ICMP error about one of our tuples came in. Returns what it was, in words.
    pub fn handle_icmp(&mut self, tuple: Tuple, icmp: &Icmp) -> &'static str {
        match self.attempts.iter_mut().find(|attempt| attempt.tuple() == tuple) {
            Some(attempt) => attempt.handle_icmp(icmp),
            None => "of the search",
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: WallTime) {
        if self.ended {
            return;
        }
        if now >= self.deadline {
            self.ended = true;
            self.outputs.push_back(Output::Expired);
            return;
        }
        if let Some(search) = &mut self.search
            && let Some(batch) = search.poll(now)
        {
            let tuple = self.config.tuple;
            let any = Attempt::new(AttemptConfig { tuple, ..self.config });
            let segment = match batch.wave {
                Wave::Opener(hop_limit) => Segment { hop_limit, ..any.first(now) },
                Wave::First => any.first(now),
                Wave::UnaskedSynAck => any.unasked_syn_ack(now).unwrap_or_else(|| any.first(now)),
            };
            self.evidence.sent += batch.tuples.len() as u64;
            self.outputs.push_back(Output::Spray(segment, batch));
        }
        self.yielding &= now < self.config.at.after(YIELDING);
        for place in 0..self.attempts.len() {
            let attempt = &self.attempts[place];
            if attempt.poll_timeout().is_some_and(|due| due <= now) && !self.is_silent(attempt) {
                self.attempts[place].handle_timeout(now);
                self.drain(place);
            }
        }
    }

    /// What to do next; `None` until the next input.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Race::handle_timeout`] wants to be called; `None` once the race has ended.
    pub fn poll_timeout(&self) -> Option<WallTime> {
        if self.ended {
            return None;
        }
        let attempts = self.speaking().filter_map(Attempt::poll_timeout);
        let search = self.search.as_ref().and_then(Search::poll_timeout);
        let yielding = self.yielding.then(|| self.config.at.after(YIELDING));
        attempts.chain(search).chain(yielding).chain([self.deadline]).min()
    }

    /// What all attempts have seen.
    pub fn evidence(&self) -> Evidence {
        let mut sum = self.evidence.clone();
        self.attempts.iter().for_each(|attempt| sum.add(attempt.evidence()));
        sum.searched = self.search.is_some();
        sum
    }

    /// The strategy that won; before that, the first one raced.
    pub fn strategy(&self) -> Strategy {
        self.winner.unwrap_or(self.config.strategy)
    }

    /// What a middlebox does to the connection that won, as a clause.
    pub fn remark(&self) -> Option<&'static str> {
        self.remark
    }

    /// The search, if there is one.
    pub fn search(&self) -> Option<&Search> {
        self.search.as_ref()
    }

    /// The attempts that may send.
    fn speaking(&self) -> impl Iterator<Item = &Attempt> {
        self.attempts.iter().filter(|attempt| !self.is_silent(attempt))
    }

    /// Whether another tuple is nominated, and this is not one on which we answer only; or whether
    /// this one is left to its flood, or was not needed.
    fn is_silent(&self, attempt: &Attempt) -> bool {
        if self.is_spoilt(attempt) {
            return true;
        }
        let spare = self.reserve == Some(attempt.tuple()) && !attempt.has_heard();
        if spare && self.attempts.iter().any(Attempt::has_heard) {
            return true;
        }
        let answering = attempt.has_heard() && !attempt.nominates();
        self.nominated.is_some_and(|nominated| nominated != attempt.tuple()) && !answering
    }

    /// Whether somebody floods this tuple, and not another one that begins mid-stream: from forged
    /// SYNs and SYN-ACKs netfilter learns wrong windows, and then takes our own segments for
    /// invalid, but a connection that it picks up mid-stream it tracks without windows. So nothing
    /// is said here, lest the peer choose this tuple.
    fn is_spoilt(&self, attempt: &Attempt) -> bool {
        let flooded = |it: &Attempt| it.evidence().wrong_key + it.evidence().resets >= FLOOD;
        let mid_stream = |it: &&Attempt| it.strategy() == Strategy::MidStream;
        // Once the peer was answered here it may count on this tuple.
        self.yielding
            && !attempt.is_answering()
            && flooded(attempt)
            && self.attempts.iter().find(mid_stream).is_some_and(|other| !flooded(other))
    }

    /// The peer was heard: nothing more leaves in the hope of being heard.
    fn stop_hoping(&mut self) {
        self.attempts.iter_mut().for_each(Attempt::stop_speculating);
        if let Some(search) = &mut self.search {
            search.stop();
        }
    }

    fn drain(&mut self, place: usize) {
        while let Some(output) = self.attempts[place].poll() {
            let attempt = &self.attempts[place];
            let (tuple, nominates) = (attempt.tuple(), attempt.nominates());
            if self.is_silent(attempt) {
                continue;
            }
            match output {
                AttemptOutput::Prepare(tcb) => {
                    if nominates {
                        self.nominated = Some(tuple);
                    }
                    self.outputs.push_back(Output::Prepare(tcb));
                }
                AttemptOutput::Transmit(segment, purpose) => {
                    self.outputs.push_back(Output::Transmit(segment, purpose));
                }
                AttemptOutput::Established(tcb) => {
                    self.ended = true;
                    self.winner = Some(attempt.strategy());
                    self.remark = attempt.remark();
                    self.outputs.push_back(Output::Established(tcb));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
