//! What is exchanged on one tuple, by whichever strategy.

use super::attempt::AttemptConfig;
use super::handshake::{Handshake, Reaction};
use super::key::Key;
use super::mid_stream::MidStream;
use super::strategy::{First, Strategy};
use crate::wire::Segment;

/// A handshake, or a connection that begins in its middle.
#[derive(Clone, Debug)]
pub(super) enum Exchange {
    Handshake(Handshake),
    MidStream(MidStream),
}

impl Exchange {
    pub(super) fn new(config: &AttemptConfig) -> Self {
        let AttemptConfig { tuple, iss, offer, expected_irs, strategy, racing, .. } = *config;
        match (strategy.traits().first, expected_irs) {
            (First::Probe, Some(irs)) => Self::MidStream(MidStream::new(tuple, iss, offer, irs)),
            (First::Probe | First::Syn, _) => {
                let near = Key::is_near_another_minute(config.agreed);
                let handshake = Handshake::new(tuple, iss, offer, expected_irs).near_minute(near);
                Self::Handshake(if racing { handshake.racing() } else { handshake })
            }
        }
    }

    /// What leaves at the instant, and as opener.
    pub(super) fn first(&self, tsval: u32) -> Segment {
        match self {
            Self::Handshake(handshake) => handshake.syn(tsval),
            Self::MidStream(mid_stream) => mid_stream.probe(tsval),
        }
    }

    /// What the `nth` timeout repeats.
    pub(super) fn retransmission(&self, nth: u32, tsval: u32) -> Option<Segment> {
        match self {
            Self::Handshake(handshake) => handshake.retransmission(nth, tsval),
            Self::MidStream(mid_stream) => Some(mid_stream.probe(tsval)),
        }
    }

    /// Whether the peer has been heard and answered, and its acknowledgment is awaited.
    pub(super) fn is_answering(&self) -> bool {
        match self {
            Self::Handshake(handshake) => handshake.is_syn_received(),
            Self::MidStream(mid_stream) => mid_stream.is_answering(),
        }
    }

    pub(super) fn receive(&mut self, segment: &Segment, tsval: u32) -> Reaction {
        match self {
            Self::Handshake(handshake) => handshake.receive(segment, tsval),
            Self::MidStream(mid_stream) => mid_stream.receive(segment, tsval),
        }
    }

    /// The SYN-ACK that nobody asked for.
    pub(super) fn speculate(&mut self, tsval: u32) -> Option<Segment> {
        match self {
            Self::Handshake(handshake) => handshake.speculate(tsval),
            Self::MidStream(_) => None,
        }
    }

    /// What a middlebox on the way seems to do, as a clause.
    pub(super) fn remark(&self) -> Option<&'static str> {
        match self {
            Self::Handshake(handshake) => handshake.remark(),
            Self::MidStream(_) => None,
        }
    }

    /// The strategy that came to pass.
    pub(super) fn strategy(&self) -> Strategy {
        match self {
            Self::Handshake(handshake) if handshake.met_unasked() => Strategy::SynAck,
            Self::Handshake(_) => Strategy::Syn,
            Self::MidStream(_) => Strategy::MidStream,
        }
    }
}
