//! Rest between batches while packets come thick, as network interfaces moderate interrupts: being
//! woken for each packet costs several times what carrying it does.

use std::time::{Duration, Instant};

/// Packets in one window from which on they are thick: 20,000 a second.
const THICK: usize = 20;
const WINDOW: Duration = Duration::from_millis(1);

/// How long packets then wait at most, twice on their way: once to be read and once to be written.
const REST: Duration = Duration::from_micros(100);

/// Decides when to rest.
pub(crate) struct Moderation {
    window: Instant,
    packets: usize,
    thick: bool,
}

impl Moderation {
    pub(crate) fn new(now: Instant) -> Self {
        Self { window: now, packets: 0, thick: false }
    }

    /// So many packets have been carried: how long to rest.
    pub(crate) fn rest(&mut self, packets: usize, now: Instant) -> Option<Duration> {
        self.packets += packets;
        if now.saturating_duration_since(self.window) >= WINDOW {
            self.thick = self.packets >= THICK;
            (self.window, self.packets) = (now, 0);
        }
        self.thick.then_some(REST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_only_while_packets_come_thick() {
        let start = Instant::now();
        let at = |us| start + Duration::from_micros(us);
        let mut moderation = Moderation::new(start);
        assert_eq!(moderation.rest(64, at(10)), None, "one burst is no flood");
        assert_eq!(moderation.rest(1, at(1000)), Some(REST));
        assert_eq!(moderation.rest(1, at(1500)), Some(REST));
        assert_eq!(moderation.rest(1, at(2100)), None);
    }
}
