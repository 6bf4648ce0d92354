//! Where the mappings of a sequential router fall during our openers.

use super::PlanError;
use super::chance::{count_mass, poisson_mass};
use crate::nat::Sequence;
use crate::wire::WallTime;

/// A sequence as this punch meets it.
///
/// Our mapping number n stands n + D(n) places after `Sequence::next`, D being a Poisson process:
/// the mappings that others have made by then. Both count in steps: *offsets*.
#[derive(Clone, Debug)]
pub(super) struct Course<'a> {
    sequence: &'a Sequence,
    start: u32,
    /// Seconds from `Sequence::at` to our last opener; `None`: the sequence begins with our first.
    last_after: Option<f64>,
    /// How much longer the sequence is foretold than its rate was counted: 0 where that is known.
    /// So much wider than a Poisson process's is what it may have become.
    odds: f64,
    /// Mappings that others make between two of ours.
    pub(super) between: f64,
}

/// Beyond any offset.
const FAR: i64 = 1 << 40;

/// More than this tells as little: their number is then known to some hundred thousands.
const MOST_COMPETING: f64 = 1e9;

/// Offsets from the first to the last, both included.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) first: i64,
    pub(super) last: i64,
}

impl Span {
    pub(super) fn len(self) -> u32 {
        u32::try_from((self.last - self.first + 1).max(0)).unwrap_or(u32::MAX)
    }

    /// Its middle part, if it is longer than that.
    pub(super) fn cut(self, longest: u32) -> Self {
        let excess = i64::from(self.len().saturating_sub(longest));
        Self { first: self.first + excess / 2, last: self.last - (excess - excess / 2) }
    }
}

impl<'a> Course<'a> {
    pub(super) fn new(
        sequence: &'a Sequence,
        opened_at: WallTime,
        rate: u32,
    ) -> Result<Self, PlanError> {
        let Sequence { next, at, step, rate: others, counted_s, pool } = sequence;
        if *step == 0 {
            return Err(PlanError::NoStep);
        }
        if !others.is_finite() || *others < 0.0 {
            return Err(PlanError::Rate(*others));
        }
        let start = pool.place(*next).ok_or_else(|| PlanError::Outside(*next, pool.to_string()))?;
        let last_after = at.map(|at| opened_at.ns_since(at) as f64 / 1e9);
        let odds = last_after.zip(*counted_s).map_or(0.0, |(after, counted)| after / counted);
        let odds = if odds.is_finite() { odds.clamp(0.0, MOST_COMPETING) } else { 0.0 };
        Ok(Self { sequence, start, last_after, odds, between: others / f64::from(rate) })
    }

    /// How many ports the counter visits before it comes back.
    pub(super) fn orbit(&self) -> u32 {
        let (mut a, mut b) =
            (self.sequence.pool.size(), u32::from(self.sequence.step.unsigned_abs()));
        while b != 0 {
            (a, b) = (b, a % b);
        }
        self.sequence.pool.size() / a
    }

    pub(super) fn port(&self, offset: i64) -> u16 {
        let size = i64::from(self.sequence.pool.size());
        let place = i64::from(self.start) + i64::from(self.sequence.step) * (offset % size);
        self.sequence.pool.nth(u32::try_from(place.rem_euclid(size)).unwrap_or(0))
    }

    pub(super) fn ports(&self, offsets: impl IntoIterator<Item = i64>) -> Vec<u16> {
        offsets.into_iter().map(|offset| self.port(offset)).collect()
    }

    /// The mean of D(n) if we make `of` mappings: negative if the sequence was seen, or foreseen,
    /// for a later time.
    pub(super) fn competing(&self, n: u32, of: u32) -> f64 {
        let last = self.last_after.map(|after| after * self.sequence.rate);
        let mean = last.map_or(self.between * f64::from(n), |last| {
            last - self.between * (f64::from(of) - f64::from(n))
        });
        mean.clamp(-MOST_COMPETING, MOST_COMPETING)
    }

    /// The values that D(n) takes but for one case in a million, and some more: six standard
    /// deviations and eight places, since rates and clocks are estimates too.
    pub(super) fn spread(&self, n: u32, of: u32) -> Span {
        let mean = self.competing(n, of);
        let reach = 6.0 * self.deviation(n, of) + 8.0;
        let (first, last) = ((mean - reach).floor() as i64, (mean + reach).ceil() as i64);
        match self.last_after {
            Some(_) if mean < 0.0 => Span { first, last: last.min(0) },
            _ => Span { first: first.max(0), last },
        }
    }

    /// The standard deviation of D(n).
    pub(super) fn deviation(&self, n: u32, of: u32) -> f64 {
        (self.competing(n, of).abs() * (1.0 + self.odds)).sqrt()
    }

    /// The probability that D(n) lies in the span.
    pub(super) fn mass(&self, n: u32, of: u32, span: Span) -> f64 {
        let mean = self.competing(n, of);
        if mean < 0.0 {
            poisson_mass(-mean, -span.last, -span.first)
        } else {
            count_mass(mean, self.odds, span.first, span.last)
        }
    }

    /// The probability that all these places lie between our mappings `from` and `to`, whoever
    /// has them. D never falls, so a run misses one bound or the other, not both.
    pub(super) fn covers(&self, places: Span, (from, to): (u32, u32), of: u32) -> f64 {
        let up_to = |n: u32, offset: i64| {
            self.mass(n, of, Span { first: -FAR, last: offset - i64::from(n) })
        };
        (up_to(from, places.first) - up_to(to, places.last)).max(0.0)
    }

    /// The probability that a place behind our first mapping is ours, not another's.
    pub(super) fn ours(&self) -> f64 {
        1.0 / (1.0 + self.between)
    }
}
