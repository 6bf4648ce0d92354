//! Packets on their way, in order of arrival.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::time::Instant;

use crate::packet::Packet;

/// Packets under way towards one router before more are dropped: 200,000 a second for more than
/// half a second, in 256 MiB of room, so that only a flood meets it.
const LIMIT: usize = 1 << 17;

/// Packets towards one router.
#[derive(Default)]
pub(crate) struct DelayQueue {
    heap: BinaryHeap<Reverse<Entry>>,
    pushed: u64,
}

struct Entry {
    due: Instant,
    /// Packets that are due at the same instant keep their order.
    order: u64,
    packet: Packet,
}

impl DelayQueue {
    /// Gives the packet back when there is no room for it.
    pub(crate) fn push(&mut self, due: Instant, packet: Packet) -> Result<(), Packet> {
        if self.heap.len() >= LIMIT {
            return Err(packet);
        }
        self.heap.push(Reverse(Entry { due, order: self.pushed, packet }));
        self.pushed += 1;
        Ok(())
    }

    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse(entry)| entry.due)
    }

    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<Packet> {
        if self.next_due()? > now {
            return None;
        }
        let Reverse(entry) = self.heap.pop()?;
        Some(entry.packet)
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.due, self.order).cmp(&(other.due, other.order))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn packet(byte: u8) -> Packet {
        let mut packet = Packet::new();
        packet.copy_from(&[byte]);
        packet
    }

    #[test]
    fn leaves_in_order_of_due_time_then_of_entry() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut queue = DelayQueue::default();
        for (ms, byte) in [(20, 3), (10, 1), (10, 2), (30, 4)] {
            assert!(queue.push(at(ms), packet(byte)).is_ok());
        }
        assert_eq!(queue.next_due(), Some(at(10)));
        assert!(queue.pop_due(at(9)).is_none());
        let mut left = Vec::new();
        while let Some(packet) = queue.pop_due(at(20)) {
            left.push(packet.bytes()[0]);
        }
        assert_eq!(left, [1, 2, 3]);
        assert_eq!(queue.next_due(), Some(at(30)));
    }

    #[test]
    fn is_bounded() {
        let now = Instant::now();
        let mut queue = DelayQueue::default();
        let taken = (0..LIMIT + 1).filter(|_| queue.push(now, packet(0)).is_ok());
        assert_eq!(taken.count(), LIMIT);
    }
}
