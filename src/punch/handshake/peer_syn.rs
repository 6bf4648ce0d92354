//! What the peer's SYN or SYN-ACK said, and what both ends agree on by it.

use crate::punch::offer::Offer;
use crate::punch::tcb::{Agreed, WindowScale};
use crate::wire::{Options, Segment, Seq};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PeerSyn {
    pub(super) irs: Seq,
    /// The segment size is there, even if it was not said.
    pub(super) options: Options,
}

impl PeerSyn {
    /// What two segments of one peer say together: a middlebox may strip an option from the one and
    /// not from the other, and only what both carried can be in force at the peer.
    pub(super) fn and(self, other: Self) -> Self {
        let (one, other) = (self.options, other.options);
        let options = Options {
            mss: one.mss.min(other.mss),
            window_scale: one.window_scale.and(other.window_scale),
            sack_permitted: one.sack_permitted && other.sack_permitted,
            timestamps: one.timestamps.and(other.timestamps),
        };
        Self { options, ..self }
    }

    /// What is in force in both directions, given what we offer.
    pub(super) fn agreed(&self, offer: &Offer) -> Agreed {
        let Options { mss, window_scale, sack_permitted, timestamps } = self.options;
        Agreed {
            // Linux takes nothing below 88 (TCP_MIN_MSS).
            mss: mss.unwrap_or(0).max(88),
            window_scale: window_scale
                .map(|send| WindowScale { send, receive: offer.window_scale }),
            sack: sack_permitted,
            timestamps: timestamps.is_some(),
        }
    }

    /// What it says of middleboxes.
    pub(super) fn remark(&self, rewritten: bool) -> Option<&'static str> {
        let Options { window_scale, sack_permitted, timestamps, .. } = self.options;
        if rewritten {
            Some("a middlebox rewrites the peer's sequence numbers")
        } else if window_scale.is_none() || !sack_permitted || timestamps.is_none() {
            Some(
                "TCP options are missing from the peer's SYN: a middlebox strips them, or the peer sends none",
            )
        } else {
            None
        }
    }
}

impl From<&Segment> for PeerSyn {
    fn from(syn: &Segment) -> Self {
        // RFC 9293 section 3.7.1, where the option is missing.
        let default = if syn.tuple.is_ipv6() { 1220 } else { 536 };
        let mss = syn.options.mss.or(Some(default));
        Self { irs: syn.seq, options: Options { mss, ..syn.options } }
    }
}
