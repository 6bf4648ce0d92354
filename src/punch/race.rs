//! One punch over one tuple or many: the first that works wins, and both ends agree which.

use super::attempt::{Attempt, AttemptConfig, Opener, Output as AttemptOutput, Purpose};
use super::evidence::Evidence;
use super::search::{Batch, Search, Wave};
use super::strategy::Strategy;
use super::tcb::EstablishedTcb;
use crate::wire::{Icmp, Segment, Tuple, WallTime};
use std::collections::VecDeque;
use std::time::Duration;

/// All attempts of one punch.
///
/// Where there are several, the end that offered the larger window nominates: it answers on one
/// tuple alone, the first on which it hears the peer, and stays silent on the others. The other
/// end answers wherever it is called, and takes the tuple on which it is answered in turn. So no
/// byte is spent on agreeing, and no round trip.
#[derive(Debug)]
pub struct Race {
    /// Those told beforehand, then those that a search has met.
    attempts: Vec<Attempt>,
    told: usize,
    search: Option<Search>,
    config: AttemptConfig,
    role: Option<Role>,
    nominated: Option<(Tuple, WallTime)>,
    outputs: VecDeque<Output>,
    evidence: Evidence,
    ended: bool,
    winner: Option<Strategy>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Nominating,
    Answering,
}

/// What a race is made of.
#[derive(Clone, Debug)]
pub struct RaceConfig {
    /// What all attempts have in common; its tuple and strategy are the first attempt's.
    pub attempt: AttemptConfig,
    /// The tuples raced and how, the first preferred; `attempt`'s alone if empty.
    pub tuples: Vec<(Tuple, Strategy)>,
    /// The tuples searched, on which [`Strategy::Syn`] is used.
    pub search: Option<Search>,
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

/// A nominated tuple that leads to nothing for so long is given up for another: what the peer
/// answers gets lost on it.
const NOMINATION_PATIENCE: Duration = Duration::from_millis(600);
/// So many segments without the key are a flood.
const FLOOD: u64 = 16;
/// A tuple that is flooded waits so long for another to win: until the peer, if it has nominated
/// this one, has given it up.
const SPOILT_PATIENCE: Duration = Duration::from_millis(900);
/// So many tuples of a search are kept on which the peer was heard; a forger who knows no key can
/// make no more of them.
const MOST_MET: usize = 32;

impl Race {
    /// A race in which nothing has been sent.
    pub fn new(config: RaceConfig) -> Self {
        let RaceConfig { attempt, tuples, search } = config;
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
        Self {
            told: attempts.len(),
            attempts,
            search,
            config: attempt,
            role: None,
            nominated: None,
            outputs: VecDeque::new(),
            evidence: Evidence::default(),
            ended: false,
            winner: None,
        }
    }

    /// Sends openers when their time comes.
    pub fn set_opener(&mut self, opener: Opener) {
        self.attempts.iter_mut().for_each(|attempt| attempt.set_opener(opener));
        if let Some(search) = &mut self.search {
            search.set_opener(opener.hop_limit);
        }
    }

    /// So long it takes to the peer, as far as probes tell.
    pub fn set_one_way(&mut self, one_way: Duration) {
        self.attempts.iter_mut().for_each(|attempt| attempt.set_one_way(one_way));
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
        let Some(place) = self.place_of(tuple, segment, now) else {
            return if self.covers(tuple) { "on a tuple without answer" } else { "stray" };
        };
        if self.role == Some(Role::Nominating) && self.is_taken(tuple, now) {
            return "on a tuple that is not nominated";
        }
        if self.is_spoilt(place, now) {
            return "on a tuple that somebody floods";
        }
        let attempt = &mut self.attempts[place];
        let what = attempt.handle_segment(segment, now);
        if let (None, Some(theirs)) = (self.role, attempt.peer_window()) {
            self.cast(theirs);
        }
        self.drain(place, now);
        if place >= self.told && self.attempts.get(place).is_some_and(|met| !met.is_answering()) {
            // Nothing of the peer: no state is kept for it.
            let nothing = self.attempts.remove(place);
            self.evidence.add(nothing.evidence());
        }
        what
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
        if now >= self.config.at.after(self.config.timeout) {
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
                Wave::Syn => any.first(now),
            };
            self.evidence.sent += batch.tuples.len() as u64;
            self.outputs.push_back(Output::Spray(segment, batch));
        }
        for place in 0..self.attempts.len() {
            if self.is_silent(place, now) {
                continue;
            }
            let due = self.attempts[place].poll_timeout().is_some_and(|due| due <= now);
            if due {
                self.attempts[place].handle_timeout(now);
                self.drain(place, now);
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
        let deadline = self.config.at.after(self.config.timeout);
        let attempts = self.speaking().filter_map(Attempt::poll_timeout);
        let search = self.search.as_ref().and_then(Search::poll_timeout);
        let patience = self.nominated.map(|(_, since)| since.after(NOMINATION_PATIENCE));
        let patience = patience.filter(|_| self.attempts.len() > 1);
        attempts.chain(search).chain(patience).chain([deadline]).min()
    }

    /// What all attempts have seen.
    pub fn evidence(&self) -> Evidence {
        let mut sum = self.evidence.clone();
        self.attempts.iter().for_each(|attempt| sum.add(attempt.evidence()));
        sum
    }

    /// The strategy that won; before that, the first one raced.
    pub fn strategy(&self) -> Strategy {
        self.winner.unwrap_or(self.config.strategy)
    }

    /// The search, if there is one.
    pub fn search(&self) -> Option<&Search> {
        self.search.as_ref()
    }

    /// The attempts that may send.
    fn speaking(&self) -> impl Iterator<Item = &Attempt> {
        let nominated = self.nominated.filter(|_| self.role == Some(Role::Nominating));
        self.attempts
            .iter()
            .filter(move |attempt| nominated.is_none_or(|(tuple, _)| attempt.tuple() == tuple))
    }

    fn is_silent(&mut self, place: usize, now: WallTime) -> bool {
        let tuple = self.attempts[place].tuple();
        self.role == Some(Role::Nominating) && self.is_taken(tuple, now)
    }

    /// Whether another tuple is nominated. A nomination that led to nothing is over.
    fn is_taken(&mut self, tuple: Tuple, now: WallTime) -> bool {
        if self.nominated.is_some_and(|(_, since)| since.after(NOMINATION_PATIENCE) <= now) {
            self.nominated = None;
        }
        self.nominated.is_some_and(|(nominated, _)| nominated != tuple)
    }

    /// Whether somebody floods this tuple, and another may be better: from forged SYNs and SYN-ACKs
    /// netfilter learns wrong windows and then takes our own segments for invalid, but not where it
    /// has picked the connection up mid-stream.
    fn is_spoilt(&self, place: usize, now: WallTime) -> bool {
        let begins_mid_stream = |it: &Attempt| it.strategy() == Strategy::MidStream;
        let attempt = &self.attempts[place];
        attempt.evidence().wrong_key >= FLOOD
            && now < self.config.at.after(SPOILT_PATIENCE)
            && !begins_mid_stream(attempt)
            && self.attempts.iter().any(begins_mid_stream)
    }

    /// Where the attempt of this tuple is, made if it is the search's and the segment may be more
    /// than an answer to what went astray.
    fn place_of(&mut self, tuple: Tuple, segment: &Segment, now: WallTime) -> Option<usize> {
        let known = self.attempts.iter().position(|attempt| attempt.tuple() == tuple);
        if known.is_some() || segment.rst {
            return known;
        }
        if !self.search.as_ref()?.covers(tuple) {
            return None;
        }
        if self.attempts.len() - self.told >= MOST_MET {
            let oldest = self.attempts.remove(self.told);
            self.evidence.add(oldest.evidence());
        }
        let config = AttemptConfig { tuple, strategy: Strategy::Syn, ..self.config };
        self.attempts.push(Attempt::begun(config, now));
        Some(self.attempts.len() - 1)
    }

    /// The peer was heard for the first time: who nominates is settled, and nothing more leaves in
    /// the hope of being heard.
    fn cast(&mut self, theirs: u16) {
        let ours = self.config.offer.window;
        self.role = Some(if ours > theirs { Role::Nominating } else { Role::Answering });
        self.attempts.iter_mut().for_each(Attempt::stop_speculating);
        if let Some(search) = &mut self.search {
            search.stop();
        }
    }

    fn drain(&mut self, place: usize, now: WallTime) {
        let tuple = self.attempts[place].tuple();
        while let Some(output) = self.attempts[place].poll() {
            self.outputs.push_back(match output {
                AttemptOutput::Prepare(tcb) => {
                    if self.role == Some(Role::Nominating) && self.nominated.is_none() {
                        self.nominated = Some((tuple, now));
                    }
                    Output::Prepare(tcb)
                }
                AttemptOutput::Transmit(segment, purpose) => Output::Transmit(segment, purpose),
                AttemptOutput::Established(tcb) => {
                    self.ended = true;
                    self.winner = Some(self.attempts[place].strategy());
                    Output::Established(tcb)
                }
                AttemptOutput::Expired => continue,
            });
        }
    }
}

#[cfg(test)]
mod tests;
