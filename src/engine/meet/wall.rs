//! The wall clock, watched: peers agree on one of its readings, and it may be set meanwhile.

use crate::sys::clock;
use crate::wire::WallTime;
use std::time::{Duration, Instant};

/// What time daemons mend without a step is less, in any second: they bend a clock by 8.3 % at
/// most (chrony's maxslewrate), and it is looked at once a second.
const STEP: Duration = Duration::from_millis(100);

/// Two clocks read together: one that may be set, and before and after it one that may not.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    pub(super) before: Instant,
    pub(super) wall: WallTime,
    pub(super) after: Instant,
}

impl Reading {
    pub(super) fn now() -> Self {
        Self { before: Instant::now(), wall: clock::now(), after: Instant::now() }
    }
}

/// The last reading.
pub(super) struct Wall(Reading);

/// By how much the wall clock was set forward, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step(i64);

impl Wall {
    pub(super) fn new(reading: Reading) -> Self {
        Self(reading)
    }

    /// A host that sleeps stops the steady clock: that shows as a step, too. That we were kept from
    /// running between two clocks does not.
    pub(super) fn step(&mut self, reading: Reading) -> Option<Step> {
        let last = std::mem::replace(&mut self.0, reading);
        let least = reading.before.saturating_duration_since(last.after);
        let most = reading.after.saturating_duration_since(last.before);
        let [least, most] = [least, most].map(|passed| last.wall.after(passed));
        let step = Step(reading.wall.ns_since(reading.wall.clamp(least, most)));
        (step.size() >= STEP).then_some(step)
    }
}

impl Step {
    /// How far, either way.
    pub(super) fn size(self) -> Duration {
        Duration::from_nanos(self.0.unsigned_abs())
    }

    /// What the clock would have shown at a time that it showed before it was set.
    pub(super) fn moved(self, at: WallTime) -> WallTime {
        WallTime::from_unix_ns(at.unix_ns().saturating_add(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_clock_that_is_set_shows_and_one_that_is_bent_does_not() {
        let (mut now, mut steady) = (WallTime::from_unix_ns(1_000_000_000_000), Instant::now());
        let read = |wall, steady| Reading { before: steady, wall, after: steady };
        let mut wall = Wall::new(read(now, steady));
        let mut pass = |runs: WallTime, ms: u32| {
            steady += MS * ms;
            wall.step(read(runs, steady))
        };
        for _ in 0..100 {
            // Eight parts in a hundred too fast.
            now = now.after(MS * 1080);
            assert_eq!(pass(now, 1000), None);
        }
        let set_back = now.before(MS * 3000);
        let step = pass(set_back.after(MS), 1).expect("3 s back");
        assert_eq!(step.size(), MS * 3000);
        assert_eq!(step.moved(now), set_back);
        assert_eq!(pass(set_back.after(MS * 2), 1), None, "once");
        let step = pass(set_back.after(MS * 103), 1).expect("100 ms ahead");
        assert_eq!(step.moved(set_back), set_back.after(MS * 100));
    }
    #[test]
    fn being_kept_from_running_between_two_clocks_is_no_step() {
        let (now, steady) = (WallTime::from_unix_ns(1_000_000_000_000), Instant::now());
        let mut wall = Wall::new(Reading { before: steady, wall: now, after: steady });
        // 3 s pass before the wall clock is read, and 2 s after it.
        let (now, after) = (now.after(MS * 3001), steady + MS * 5001);
        assert_eq!(wall.step(Reading { before: steady + MS, wall: now, after }), None);
        let (now, steady) = (now.after(MS * 2001), after + MS);
        assert_eq!(wall.step(Reading { before: steady, wall: now, after: steady }), None);
        let set = now.after(MS * 5000);
        let step = wall.step(Reading { before: steady, wall: set, after: steady });
        assert_eq!(step.map(Step::size), Some(MS * 5000));
    }
}
