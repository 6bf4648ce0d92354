//! How fast packets may leave.

use crate::wire::WallTime;
use std::num::NonZeroU32;

/// So many packets a second, evenly, from a moment on. Who comes late may catch up with a bounded
/// burst; what is missed beyond it is not made up for, so the rate holds over every stretch of time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pace {
    per_second: NonZeroU32,
    burst: u32,
    /// When packet 0 of this count is due.
    start: WallTime,
    sent: u64,
}

/// What routers' queues take in without loss (Linux's smallest default, pfifo of a tun device,
/// holds 500), and yet so many that waking up is not what bounds the rate.
const BURST: u32 = 64;
const NS_PER_SECOND: u128 = 1_000_000_000;

impl Pace {
    /// So many packets a second, the first at `start`.
    pub fn new(per_second: NonZeroU32, start: WallTime) -> Self {
        Self { per_second, burst: BURST, start, sent: 0 }
    }

    /// How many packets are due at `now`, a burst at most.
    pub fn due(&self, now: WallTime) -> u32 {
        self.backlog(now).map_or(0, |backlog| backlog.min(self.burst.into()) as u32)
    }

    /// Notes that `count` packets have left at `now`.
    pub fn spend(&mut self, count: u32, now: WallTime) {
        if self.backlog(now).is_some_and(|backlog| backlog > self.burst.into()) {
            self.start = WallTime::from_unix_ns(
                now.unix_ns().saturating_sub(self.offset_ns(u64::from(self.burst) - 1)),
            );
            self.sent = 0;
        }
        self.sent = self.sent.saturating_add(count.into());
    }

    /// When the next packet is due; in the past where one is due already.
    pub fn next(&self) -> WallTime {
        WallTime::from_unix_ns(self.start.unix_ns().saturating_add(self.offset_ns(self.sent)))
    }

    fn backlog(&self, now: WallTime) -> Option<u64> {
        let elapsed = u64::try_from(now.ns_since(self.start)).ok()?;
        let due = u128::from(elapsed) * u128::from(self.per_second.get()) / NS_PER_SECOND + 1;
        u64::try_from(due).unwrap_or(u64::MAX).checked_sub(self.sent)
    }

    /// When packet `index` is due, after the start. Rounded up, so that it is due by then.
    fn offset_ns(&self, index: u64) -> i64 {
        let ns = (u128::from(index) * NS_PER_SECOND).div_ceil(self.per_second.get().into());
        i64::try_from(ns).unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    const START: WallTime = WallTime::from_unix_ns(1_000_000_000_000);

    fn pace(per_second: u32) -> Pace {
        Pace::new(NonZeroU32::new(per_second).unwrap(), START)
    }

    fn at_ms(ms: u64) -> WallTime {
        START.after(Duration::from_millis(ms))
    }

    #[test]
    fn nothing_is_due_before_the_start_and_one_packet_at_it() {
        let pace = pace(1000);
        assert_eq!(pace.due(START.before(Duration::from_nanos(1))), 0);
        assert_eq!(pace.due(START), 1);
        assert_eq!(pace.next(), START);
    }

    #[test]
    fn packets_follow_one_another_evenly() {
        let mut pace = pace(1000);
        pace.spend(1, START);
        assert_eq!(pace.next(), at_ms(1));
        assert_eq!(pace.due(START), 0);
        assert_eq!(pace.due(at_ms(5)), 5);
        pace.spend(3, at_ms(5));
        assert_eq!(pace.due(at_ms(5)), 2);
        assert_eq!(pace.next(), at_ms(4));
    }

    #[test]
    fn who_comes_very_late_catches_up_with_one_burst_only() {
        let mut pace = pace(1000);
        assert_eq!(pace.due(at_ms(10_000)), BURST);
        pace.spend(BURST, at_ms(10_000));
        assert_eq!(pace.due(at_ms(10_000)), 0);
        assert_eq!(pace.next(), at_ms(10_001));
    }

    #[test]
    fn the_ends_of_time_are_no_trouble() {
        let mut pace = Pace::new(NonZeroU32::MAX, WallTime::from_unix_ns(i64::MIN));
        assert_eq!(pace.due(WallTime::from_unix_ns(i64::MAX)), BURST);
        pace.spend(u32::MAX, WallTime::from_unix_ns(i64::MAX));
        let _ = pace.next();
        let mut slow = Pace::new(NonZeroU32::MIN, WallTime::from_unix_ns(i64::MAX));
        slow.spend(u32::MAX, WallTime::from_unix_ns(i64::MIN));
        assert_eq!(slow.due(WallTime::from_unix_ns(i64::MAX)), 0);
        assert_eq!(slow.next(), WallTime::from_unix_ns(i64::MAX));
    }

    proptest! {
        #[test]
        fn whoever_sends_what_is_due_when_it_is_due_keeps_the_rate(
            per_second in 1u32..2_000_000,
            pauses_us in prop::collection::vec(0u64..3_000, 1..200),
        ) {
            let mut pace = pace(per_second);
            let (mut now, mut sent) = (START, 0u64);
            for pause in pauses_us {
                now = now.after(Duration::from_micros(pause));
                let due = pace.due(now);
                prop_assert!(due <= BURST);
                prop_assert_eq!(due > 0, pace.next() <= now);
                pace.spend(due, now);
                sent += u64::from(due);
                let allowed = now.ns_since(START) as u128 * u128::from(per_second) / NS_PER_SECOND;
                prop_assert!(u128::from(sent) <= allowed + 1, "{sent} of {allowed}");
            }
        }

        #[test]
        fn a_packet_is_due_at_the_moment_that_next_names_and_not_before(
            per_second: NonZeroU32,
            sent in 0u32..1_000_000,
        ) {
            let mut pace = Pace::new(per_second, START);
            pace.spend(sent, START);
            let next = pace.next();
            prop_assert!(pace.due(next) > 0);
            prop_assert_eq!(pace.due(next.before(Duration::from_nanos(1))), 0);
        }
    }
}
