//! The wall clock, watched: peers agree on one of its readings, and it may be set meanwhile.

use crate::wire::WallTime;
use std::time::{Duration, Instant};

/// What time daemons mend without a step is less, in any second: they bend a clock by 8.3 % at
/// most (chrony's maxslewrate), and it is looked at once a second.
const STEP: Duration = Duration::from_millis(100);

/// Two clocks' last readings: one that may be set, and one that may not.
pub(super) struct Wall {
    wall: WallTime,
    steady: Instant,
}

/// By how much the wall clock was set forward, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step(i64);

impl Wall {
    pub(super) fn new(wall: WallTime, steady: Instant) -> Self {
        Self { wall, steady }
    }

    /// Reads both clocks again. A host that sleeps stops the steady one: that shows as a step, too.
    pub(super) fn step(&mut self, wall: WallTime, steady: Instant) -> Option<Step> {
        let passed = steady.saturating_duration_since(self.steady);
        let step = Step(wall.ns_since(self.wall.after(passed)));
        *self = Self { wall, steady };
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
        let mut wall = Wall::new(now, steady);
        let mut pass = |runs: WallTime, ms: u32| {
            steady += MS * ms;
            wall.step(runs, steady)
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
}
