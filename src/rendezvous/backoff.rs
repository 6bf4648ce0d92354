//! How long to wait before the next attempt to reach a server.

use std::time::Duration;

/// Doubles with each attempt that fails, and is drawn from the upper half of what it has come to:
/// a server that starts again is not met by all its clients at once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Backoff {
    failed: u32,
}

/// A server that is restarted is back after about this long.
const LEAST: Duration = Duration::from_secs(1);
/// Who comes home to a mended network does not wait longer.
const MOST: Duration = Duration::from_secs(60);

impl Backoff {
    /// The next wait, with 32 random bits.
    pub fn next(&mut self, random: u32) -> Duration {
        let whole = LEAST.saturating_mul(1 << self.failed.min(6)).min(MOST);
        self.failed = self.failed.saturating_add(1);
        let half = whole / 2;
        LEAST.max(half + half.mul_f64(f64::from(random) / f64::from(u32::MAX)))
    }

    /// It worked: the next wait is the shortest again.
    pub fn reset(&mut self) {
        self.failed = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(random: u32) -> Vec<f64> {
        let mut backoff = Backoff::default();
        (0..9).map(|_| backoff.next(random).as_secs_f64()).collect()
    }

    #[test]
    fn waits_double_from_a_second_to_a_minute() {
        assert_eq!(waits(u32::MAX), [1., 2., 4., 8., 16., 32., 60., 60., 60.]);
        assert_eq!(waits(0), [1., 1., 2., 4., 8., 16., 30., 30., 30.]);
    }

    #[test]
    fn success_begins_anew() {
        let mut backoff = Backoff::default();
        (0..5).for_each(|_| {
            let _ = backoff.next(0);
        });
        backoff.reset();
        assert_eq!(backoff.next(u32::MAX), LEAST);
    }
}
