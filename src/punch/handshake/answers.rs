//! What leaves in a handshake: our SYN, what answers the peer's, and what is repeated.

use super::peer_syn::PeerSyn;
use super::{Handshake, State};
use crate::wire::{Options, Segment};

impl Handshake {
    /// Our SYN, with timestamp value `tsval`.
    ///
    /// With a key it says its own number once more, in the echo field that receivers ignore in a
    /// SYN (RFC 7323 section 3.2), and so does our SYN-ACK: a middlebox that rewrites sequence
    /// numbers leaves that one alone, and the peer knows us by it. Repeating it later would be too
    /// late: a router that has seen our answers lets no SYN in any more.
    pub fn syn(&self, tsval: u32) -> Segment {
        let timestamps = match self.expected_irs {
            Some(_) => (self.offer.marked(tsval), self.iss.0),
            None => (tsval, 0),
        };
        Segment {
            syn: true,
            window: self.offer.window,
            options: Options {
                mss: Some(self.offer.mss),
                window_scale: Some(self.offer.window_scale),
                sack_permitted: true,
                timestamps: Some(timestamps),
            },
            ..Segment::new(self.tuple, self.iss)
        }
    }

    /// What the `nth` timeout since the last answer repeats (from 0); `None` once established.
    ///
    /// In SYN-RECEIVED the peer may be in any of three states, and netfilter, which has seen our
    /// ACK, lets no SYN-ACK of ours pass any more. So by turns: a probe one below the window, as a
    /// keepalive is (RFC 9293 section 3.8.4), which an established peer answers and which
    /// completes one in SYN-RECEIVED; and a SYN, for a peer that has heard nothing yet. Where
    /// both routers let no SYN in and our SYN-ACK was lost, neither would do: so an end that never
    /// saw the peer's SYN says in the probe all that the SYN-ACK said, its options and its window.
    ///
    /// An end that never saw the peer's SYN repeats its SYN-ACK, too: its own router may have seen
    /// that SYN since, and lets nothing else out then.
    pub fn retransmission(&self, nth: u32, tsval: u32) -> Option<Segment> {
        match self.state {
            State::SynSent if self.speculated && !nth.is_multiple_of(2) => {
                self.unasked_syn_ack(nth / 2 + 1, tsval)
            }
            State::SynSent => Some(self.syn(tsval)),
            State::SynReceived { peer, closed, .. } => {
                let turns = if self.lacks_syn() { 3 } else { 2 };
                match (nth + u32::from(closed)) % turns {
                    0 => Some(self.probe(&peer, tsval)),
                    1 => Some(self.syn(tsval)),
                    _ => Some(self.syn_ack(&peer, tsval)),
                }
            }
            State::Established => None,
        }
    }

    /// The SYN-ACK for a SYN that never came in, sent as often before. At first for the likeliest
    /// number, and near a minute for the others in between: the peer's instant may lie on its other
    /// side, and our router lets out the right one alone.
    pub(super) fn unasked_syn_ack(&self, before: u32, tsval: u32) -> Option<Segment> {
        let likelihood = [0, 0, 1, 0, 2][before as usize % 5];
        // A wrong number draws a reset from the peer's router if ours lets it out all the same.
        let irs = self.expected_irs?[if self.near_minute { likelihood } else { 0 }];
        let unseen = PeerSyn { irs, options: self.syn(0).options };
        Some(self.syn_ack(&unseen, tsval))
    }

    /// One below the window, and with a key all that our SYN-ACK says.
    fn probe(&self, peer: &PeerSyn, tsval: u32) -> Segment {
        if self.lacks_syn() {
            return Segment { syn: false, ..self.syn_ack(peer, tsval) };
        }
        Segment { seq: self.iss, ..self.ack(peer, tsval) }
    }

    pub(super) fn syn_ack(&self, peer: &PeerSyn, tsval: u32) -> Segment {
        let mut segment = self.syn(tsval);
        segment.ack = Some(peer.irs + 1);
        // As a listener does (RFC 7323 section 2.2): offer back what was offered.
        segment.options.window_scale = peer.options.window_scale.and(segment.options.window_scale);
        segment.options.sack_permitted &= peer.options.sack_permitted;
        if let (Some((_, echo)), None) = (&mut segment.options.timestamps, self.expected_irs) {
            *echo = peer.options.timestamps.map_or(0, |(theirs, _)| theirs);
        }
        segment.options.timestamps = peer.options.timestamps.and(segment.options.timestamps);
        segment
    }

    pub(super) fn ack(&self, peer: &PeerSyn, tsval: u32) -> Segment {
        let syn_ack = self.syn_ack(peer, tsval);
        let shift = syn_ack.options.window_scale.unwrap_or(0);
        let timestamps = peer.options.timestamps.map(|(theirs, _)| (tsval, theirs));
        let options = Options { timestamps, ..Options::default() };
        let (seq, window) = (self.iss + 1, self.offer.window >> shift);
        Segment { seq, syn: false, window, options, ..syn_ack }
    }
}
