//! The server's clock, which both peers share.

use super::{ClockShift, ClockTimes};
use crate::wire::WallTime;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

/// A point on the server's clock: nanoseconds since its Unix epoch, whatever it takes that for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ServerTime(i64);

impl ServerTime {
    /// From nanoseconds since the Unix epoch, by the server's clock.
    pub const fn from_unix_ns(ns: i64) -> Self {
        Self(ns)
    }

    /// Nanoseconds since the Unix epoch, by the server's clock.
    pub const fn unix_ns(self) -> i64 {
        self.0
    }

    /// Nanoseconds from `earlier` to `self`; negative if `self` comes first.
    pub const fn ns_since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    /// How long until `later`; zero if it has passed.
    pub fn until(self, later: Self) -> Duration {
        Duration::from_nanos(u64::try_from(later.ns_since(self)).unwrap_or(0))
    }

    /// Later by `by`.
    #[must_use]
    pub fn after(self, by: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(by.as_nanos()).unwrap_or(i64::MAX)))
    }
}

impl fmt::Display for ServerTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        WallTime::from_unix_ns(self.0).fmt(f)
    }
}

/// The four timestamps of one exchange (RFC 5905 section 8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockExchange {
    /// Our clock when the request left.
    pub sent: WallTime,
    /// The server's clock when it came in.
    pub received: ServerTime,
    /// The server's clock when the answer left.
    pub answered: ServerTime,
    /// Our clock when the answer came in.
    pub returned: WallTime,
}

impl ClockExchange {
    /// Of the server's answer, which came in at `returned`.
    pub fn of(times: &ClockTimes, returned: WallTime) -> Self {
        Self {
            sent: WallTime::from_unix_ns(times.sent_ns),
            received: ServerTime(times.received_ns),
            answered: ServerTime(times.answered_ns),
            returned,
        }
    }

    /// The server's clock is ahead of ours by no more than this: the request took time.
    fn at_most(&self) -> i64 {
        self.received.0.saturating_sub(self.sent.unix_ns())
    }

    /// And by no less: so did the answer.
    fn at_least(&self) -> i64 {
        self.answered.0.saturating_sub(self.returned.unix_ns())
    }

    /// The time spent on the way, both ways.
    fn delay(&self) -> i64 {
        self.at_most().saturating_sub(self.at_least())
    }
}

/// How two clocks drift apart in parts of a million: a hundred each. Crystals are good for half
/// of that, and time daemons bend them a little.
const DRIFT_PPM: i64 = 200;

/// So many exchanges are kept. More than any burst has; older ones say less than newer ones.
const KEPT: usize = 32;

/// Collects exchanges and tells how far the server's clock is ahead of ours.
///
/// An exchange proves bounds for the offset: neither way took less than no time. The offset lies
/// within the bounds of all of them, and where queues add delay to an equal least one the middle
/// of what they have in common errs by half of what the best request and the best answer differ;
/// the middle of the fastest exchange, which RFC 5905 takes, needs both to be lucky at once.
#[derive(Clone, Debug, Default)]
pub struct ClockFilter {
    exchanges: VecDeque<ClockExchange>,
}

/// What an exchange did to what was known before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Taken {
    /// It agrees with all that came before.
    Agrees,
    /// It contradicts them, or itself: one of the clocks was set. What came before is forgotten.
    Stepped,
}

/// How far the server's clock is ahead of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockEstimate {
    /// The server's clock less ours, in nanoseconds.
    pub offset_ns: i64,
    /// The offset is wrong by no more than this, however the delay is shared between both ways.
    pub bound: Duration,
    /// The offset is hardly wrong by more than this (one time in twenty) if the least delay is the
    /// same both ways.
    pub likely: Duration,
    /// The least time spent on the way to the server and back.
    pub round_trip: Duration,
    /// When this was so, by our clock.
    pub at: WallTime,
}

impl ClockFilter {
    /// Takes an exchange in. A clock set by less than a round trip need not show here: who sees
    /// it otherwise, as by a monotonic clock, says so by [`ClockFilter::clear`].
    pub fn push(&mut self, exchange: ClockExchange) -> Taken {
        // A clock set back while the exchange went on: it took less than no time.
        let impossible = exchange.returned < exchange.sent
            || exchange.answered < exchange.received
            || exchange.delay() < 0;
        if impossible {
            self.exchanges.clear();
            return Taken::Stepped;
        }
        if self.exchanges.len() == KEPT {
            self.exchanges.pop_front();
        }
        self.exchanges.push_back(exchange);
        let (least, most) = self.bounds(exchange.returned);
        if least > most {
            self.exchanges.clear();
            self.exchanges.push_back(exchange);
            return Taken::Stepped;
        }
        Taken::Agrees
    }

    /// Forgets everything: our clock was set, as its owner knows.
    pub fn clear(&mut self) {
        self.exchanges.clear();
    }

    /// How many exchanges the estimate rests on.
    pub fn len(&self) -> usize {
        self.exchanges.len()
    }

    /// Whether there is nothing to estimate from.
    pub fn is_empty(&self) -> bool {
        self.exchanges.is_empty()
    }

    /// What is known at `now`, by our clock.
    pub fn estimate(&self, now: WallTime) -> Option<ClockEstimate> {
        let round_trip = self.exchanges.iter().map(ClockExchange::delay).min()?;
        let (least, most) = self.bounds(now);
        let width = most.saturating_sub(least).max(0);
        // Rounded up: the middle of an odd width is not met exactly.
        let bound = ns(width / 2 + width % 2);
        Some(ClockEstimate {
            offset_ns: least.saturating_add(width / 2),
            bound,
            likely: self.likely().map_or(bound, |likely| likely.min(bound)),
            round_trip: ns(round_trip),
            at: now,
        })
    }

    /// The least and the greatest offset at `now` that no exchange contradicts.
    fn bounds(&self, now: WallTime) -> (i64, i64) {
        let mut bounds = (i64::MIN, i64::MAX);
        for exchange in &self.exchanges {
            // The same for both: to count the age of each from its own time would move the middle.
            let drift = drift(exchange.sent, now).max(drift(exchange.returned, now));
            let least = exchange.at_least().saturating_sub(drift);
            let most = exchange.at_most().saturating_add(drift);
            bounds = (bounds.0.max(least), bounds.1.min(most));
        }
        bounds
    }

    /// By how much the best request and the best answer differ in what queues added to them. The
    /// least of n exponential delays of mean m is one of mean m / n, and half the difference of
    /// two such is above 1.5 m / n one time in twenty.
    fn likely(&self) -> Option<Duration> {
        let count = i64::try_from(self.exchanges.len()).ok().filter(|count| *count > 1)?;
        let excess = |bound: fn(&ClockExchange) -> i64| {
            let least = self.exchanges.iter().map(bound).min().unwrap_or(0);
            let each = self.exchanges.iter().map(|it| bound(it).saturating_sub(least));
            each.fold(0, i64::saturating_add) / (count - 1)
        };
        let answers = |exchange: &ClockExchange| exchange.at_least().saturating_neg();
        let mean = excess(ClockExchange::at_most).max(excess(answers));
        Some(ns(mean.saturating_mul(3) / (2 * count)))
    }
}

impl ClockEstimate {
    /// What the server's clock shows when ours shows `local`.
    pub fn to_server(&self, local: WallTime) -> ServerTime {
        ServerTime(local.unix_ns().saturating_add(self.offset_ns))
    }

    /// What our clock shows when the server's shows `server`.
    pub fn to_local(&self, server: ServerTime) -> WallTime {
        WallTime::from_unix_ns(server.0.saturating_sub(self.offset_ns))
    }

    /// The same for a clock that was so far ahead of the server's at `since`, by our clock.
    #[must_use]
    pub fn shifted(&self, by: ClockShift, since: WallTime) -> Self {
        let drift = ns(drift(since, self.at));
        let bound = Duration::from_nanos(by.bound_ns).saturating_add(drift);
        Self {
            offset_ns: self.offset_ns.saturating_add(by.ahead_ns),
            bound: self.bound.saturating_add(bound),
            likely: self.likely.saturating_add(Duration::from_nanos(by.likely_ns)),
            ..*self
        }
    }

    /// The bound at another time, with what the clocks may have drifted apart until then.
    pub fn bound_at(&self, when: WallTime) -> Duration {
        self.bound.saturating_add(ns(drift(self.at, when)))
    }
}

/// What the clocks may drift apart between two times of ours, in nanoseconds, rounded up.
fn drift(one: WallTime, other: WallTime) -> i64 {
    let apart = one.ns_since(other).unsigned_abs();
    let drift = apart.div_ceil(1_000_000 / DRIFT_PPM.unsigned_abs());
    i64::try_from(drift).unwrap_or(i64::MAX)
}

fn ns(ns: i64) -> Duration {
    Duration::from_nanos(u64::try_from(ns).unwrap_or(0))
}

#[cfg(test)]
mod tests;
