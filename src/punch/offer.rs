//! What an end offers, and by which it knows its own segments.

use crate::wire::Segment;

/// What we offer in our SYN and SYN-ACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Largest segment we take, bytes.
    pub mss: u16,
    /// Shift of the windows that we advertise.
    pub window_scale: u8,
    /// The window that we advertise, bytes; unscaled in the handshake, as RFC 7323 asks.
    pub window: u16,
    /// With a key, the lowest [`Offer::MARK_BITS`] of the timestamps in our SYNs, SYN-ACKs and
    /// probes: both ends may start at one number then, and by these and the window we know what is
    /// our own.
    pub mark: u8,
}

impl Offer {
    /// So many bits of [`Offer::mark`] count.
    pub const MARK_BITS: u32 = 3;
    const MARK: u32 = (1 << Self::MARK_BITS) - 1;

    /// The timestamp value with our mark, some milliseconds behind the clock: what the kernel sends
    /// later must never seem to be older (RFC 7323 section 5, PAWS).
    pub(super) fn marked(&self, tsval: u32) -> u32 {
        tsval.wrapping_sub(Self::MARK + 1) & !Self::MARK | u32::from(self.mark) & Self::MARK
    }

    /// Between two ends that race several tuples, the one with the larger rank nominates: its window
    /// counts, and where there is a key and the windows are equal, its mark.
    pub(super) fn rank(&self, keyed: bool) -> u32 {
        rank(self.window, if keyed { self.mark.into() } else { 0 })
    }

    /// The rank of the peer that has sent this SYN, SYN-ACK or probe.
    pub(super) fn rank_of(segment: &Segment, keyed: bool) -> u32 {
        let marked = segment.options.timestamps.filter(|_| keyed);
        rank(segment.window, marked.map_or(0, |(theirs, _)| theirs))
    }

    /// Whether this segment, which starts where ours do, offers just what we do.
    pub(super) fn is_ours(&self, segment: &Segment) -> bool {
        let marked = |(theirs, _): (u32, u32)| (theirs ^ u32::from(self.mark)) & Self::MARK == 0;
        segment.window == self.window && segment.options.timestamps.is_none_or(marked)
    }
}

fn rank(window: u16, mark: u32) -> u32 {
    u32::from(window) << Offer::MARK_BITS | mark & Offer::MARK
}
