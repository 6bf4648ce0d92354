//! The SYN of the instant.

use super::drive::Drive;
use crate::punch::Purpose;
use crate::sys::{clock, spin_until};
use crate::wire::{Segment, WallTime, echo_request};
use std::time::Duration;

/// When, before the instant, packets are sent to learn what sending costs: close to it, since a
/// path that was not walked for a millisecond costs more. Few: each draws an ICMP message of the
/// first router, and Linux sends six at once and one a second.
const REHEARSALS: [Duration; 3] =
    [Duration::from_micros(1800), Duration::from_micros(1200), Duration::from_micros(600)];
/// A driver stamps a packet when it takes it, within this time or not at all.
const STAMP_PATIENCE: Duration = Duration::from_micros(100);
/// Later than this is worth a warning.
const LATE: Duration = Duration::from_millis(1);

/// Whether this is sent when the peer sends the same.
pub(super) fn is_timed(purpose: Purpose) -> bool {
    matches!(purpose, Purpose::Syn | Purpose::Probe | Purpose::Retransmission)
}

impl Drive {
    /// Spins until `due` and sends `syn`, early by what sending costs. Answers that come in
    /// meanwhile wait in the capture.
    pub(super) fn fire(&mut self, syn: &Segment, purpose: Purpose, due: WallTime) {
        let packet = syn.to_packet();
        let cost = match self.fired.send_cost_ns {
            // Rehearsing draws ICMP messages, of which routers send few.
            Some(known) => Duration::from_nanos(known.unsigned_abs()),
            None => self.rehearse(due),
        };
        self.fired.send_cost_ns = i64::try_from(cost.as_nanos()).ok();
        let now = spin_until(due.before(cost));
        let sent = self.sender.send(&packet);
        match sent {
            Ok(id) => {
                self.send_error = None;
                self.recorder.sent(syn, &packet, now, id, purpose.words());
                if self.fired_id.is_none() {
                    self.fired_id = Some(id);
                }
                self.arm();
            }
            Err(error) => self.refused(error),
        }
        if purpose != Purpose::Retransmission && now > due.after(LATE) {
            tracing::warn!("the SYN left {:?} after the instant", due.until(now));
        }
    }

    /// What sending costs on this path, from the call to the transmit timestamp: the least of a few
    /// echo requests as long as a SYN that die at the first hop. The least, since whatever disturbs
    /// a rehearsal only makes it longer. Zero where the driver gives no timestamps.
    fn rehearse(&mut self, at: WallTime) -> Duration {
        let (local, peer) = (self.tuple.local.ip(), self.tuple.remote.ip());
        let packet = echo_request(local, peer, 1, 0, 0);
        let mut least: Option<Duration> = None;
        for ahead in REHEARSALS {
            let due = at.before(ahead);
            if clock::now() > due {
                continue;
            }
            let began = spin_until(due);
            let Ok(id) = self.sender.send(&packet) else { continue };
            if let Some(stamped) = self.await_stamp(id) {
                let cost = began.until(stamped);
                least = Some(least.map_or(cost, |known| known.min(cost)));
            }
            self.recorder.sent_probe(&packet, began);
        }
        least.unwrap_or_default()
    }

    fn await_stamp(&mut self, id: u32) -> Option<WallTime> {
        let deadline = clock::now().after(STAMP_PATIENCE);
        while clock::now() < deadline {
            if let Some(time) = self.sender.transmit_time() {
                if time.id == id {
                    return Some(time.at);
                }
                self.note_transmission(time.id, time.at);
            }
        }
        None
    }
}
