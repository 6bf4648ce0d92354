//! Bytes that the peer sent before our kernel socket stood.

use crate::wire::{Segment, Seq};
use std::collections::BTreeMap;

/// Puts early segments into order. It knows one connection's receive side only.
#[derive(Clone, Debug)]
pub struct EarlyData {
    irs: Seq,
    /// Segments by their distance from IRS; never past [`EarlyData::LIMIT`].
    segments: BTreeMap<u32, Vec<u8>>,
    fin_at: Option<u32>,
}

impl EarlyData {
    /// How many bytes are kept: the peer may not send more than the window that we offered.
    pub const LIMIT: u32 = 65_536;

    /// Nothing received yet; `rcv_nxt` is the peer's first byte.
    pub fn new(rcv_nxt: Seq) -> Self {
        Self { irs: rcv_nxt, segments: BTreeMap::new(), fin_at: None }
    }

    /// A segment of the connection came in. Whatever lies outside the window is dropped.
    pub fn receive(&mut self, segment: &Segment) {
        if segment.rst || segment.syn || segment.ack.is_none() {
            return;
        }
        let from = segment.seq - self.irs;
        let Ok(len) = u32::try_from(segment.payload.len()) else { return };
        let Some(end) = from.checked_add(len).filter(|end| *end <= Self::LIMIT) else { return };
        if segment.fin {
            self.fin_at = Some(end);
        }
        let known = self.segments.get(&from).map_or(0, Vec::len);
        if segment.payload.len() > known {
            self.segments.insert(from, segment.payload.clone());
        }
    }

    /// The bytes in order from `rcv_nxt` on, as far as they are contiguous.
    pub fn contiguous_from(&self, rcv_nxt: Seq) -> Vec<u8> {
        let start = rcv_nxt - self.irs;
        let mut at = start;
        let mut bytes = Vec::new();
        for (from, payload) in &self.segments {
            if *from > at {
                break;
            }
            if let Some(fresh) = payload.get((at - from) as usize..) {
                bytes.extend_from_slice(fresh);
                at = start + u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            }
        }
        bytes
    }

    /// Whether the peer's FIN stands right at `rcv_nxt`: it has sent everything and said so.
    pub fn is_finished_at(&self, rcv_nxt: Seq) -> bool {
        self.fin_at == Some(rcv_nxt - self.irs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::punch::sample::segment;
    use proptest::prelude::*;

    fn data(at: u32, payload: &[u8]) -> Segment {
        Segment { seq: Seq(at), payload: payload.to_vec(), ..segment() }
    }

    #[test]
    fn bytes_out_of_order_and_twice_come_out_once_in_order() {
        let mut early = EarlyData::new(Seq(u32::MAX));
        early.receive(&data(2, b"def"));
        assert_eq!(early.contiguous_from(Seq(u32::MAX)), b"");
        early.receive(&data(u32::MAX, b"abc"));
        early.receive(&data(u32::MAX, b"ab"));
        assert_eq!(early.contiguous_from(Seq(u32::MAX)), b"abcdef");
        assert_eq!(early.contiguous_from(Seq(1)), b"cdef");
    }

    #[test]
    fn a_fin_counts_only_when_everything_before_it_is_there() {
        let mut early = EarlyData::new(Seq(10));
        early.receive(&Segment { fin: true, ..data(13, b"") });
        assert!(!early.is_finished_at(Seq(10)));
        early.receive(&data(10, b"abc"));
        assert_eq!(early.contiguous_from(Seq(10)).len(), 3);
        assert!(early.is_finished_at(Seq(13)));
    }

    #[test]
    fn what_lies_outside_the_window_is_dropped() {
        let mut early = EarlyData::new(Seq(10));
        early.receive(&data(9, b"stale"));
        early.receive(&data(10 + EarlyData::LIMIT, b"x"));
        assert!(early.segments.is_empty());
    }

    proptest! {
        /// Whatever order, overlap and repetition the network gives them, the bytes are those
        /// that were sent.
        #[test]
        fn any_arrival_of_any_cut_gives_the_bytes_sent(
            start: u32,
            cuts in prop::collection::vec((0usize..300, 0usize..300), 0..40),
        ) {
            let sent: Vec<u8> = (0..=255u8).cycle().take(300).collect();
            let mut early = EarlyData::new(Seq(start));
            for (a, b) in cuts {
                let (from, to) = (a.min(b), a.max(b));
                early.receive(&data(start.wrapping_add(from as u32), &sent[from..to]));
            }
            let got = early.contiguous_from(Seq(start));
            prop_assert_eq!(&got[..], &sent[..got.len()]);
            early.receive(&data(start, &sent));
            prop_assert_eq!(early.contiguous_from(Seq(start)), sent);
        }
    }
}
