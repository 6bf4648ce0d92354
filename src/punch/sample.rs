//! Segments for tests: those of a peer at 203.0.113.1 to a host at 192.168.1.2.

use super::Offer;
use crate::wire::{Options, Segment, Seq, Tuple};

pub(crate) const OFFER: Offer = Offer { mss: 1460, window_scale: 7, window: 65408, mark: 5 };

pub(crate) const OPTIONS: Options = Options {
    mss: Some(1400),
    window_scale: Some(9),
    sack_permitted: true,
    timestamps: Some((900, 0)),
};

/// The connection as the host sees it.
pub(crate) fn tuple() -> Tuple {
    Tuple {
        local: "192.168.1.2:40000".parse().unwrap(),
        remote: "203.0.113.1:40001".parse().unwrap(),
    }
}

/// An empty ACK of the peer.
pub(crate) fn segment() -> Segment {
    Segment {
        hop_limit: 60,
        ack: Some(Seq(0)),
        window: 500,
        options: Options { timestamps: Some((901, 0)), ..Options::default() },
        ..Segment::new(tuple().reversed(), Seq(0))
    }
}

/// The peer's SYN.
pub(crate) fn syn(seq: u32) -> Segment {
    Segment { seq: Seq(seq), ack: None, syn: true, window: 64000, options: OPTIONS, ..segment() }
}

/// The peer's SYN-ACK.
pub(crate) fn syn_ack(seq: u32, ack: u32) -> Segment {
    Segment { ack: Some(Seq(ack)), ..syn(seq) }
}

/// The peer's ACK.
pub(crate) fn ack(seq: u32, ack: u32) -> Segment {
    Segment { seq: Seq(seq), ack: Some(Seq(ack)), ..segment() }
}

/// A reset.
pub(crate) fn rst(seq: u32, ack: Option<u32>) -> Segment {
    Segment {
        seq: Seq(seq),
        ack: ack.map(Seq),
        rst: true,
        options: Options::default(),
        ..segment()
    }
}
