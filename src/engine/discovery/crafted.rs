//! Segments that no socket sends.

use crate::wire::{DEFAULT_HOP_LIMIT, Options, Segment, Seq, Tuple};

/// A SYN, with the options of a kernel's: some routers drop one without.
pub(super) fn syn(tuple: Tuple, hop_limit: u8, seq: u32) -> Vec<u8> {
    let options =
        Options { mss: Some(1460), window_scale: Some(7), sack_permitted: true, timestamps: None };
    Segment { syn: true, options, ..segment(tuple, hop_limit, seq) }.to_packet()
}

/// An ACK that begins a connection. The reset to it says `ack` again (RFC 9293 section 3.10.7.1).
pub(super) fn ack(tuple: Tuple, seq: u32, ack: Seq) -> Vec<u8> {
    Segment { ack: Some(ack), ..segment(tuple, DEFAULT_HOP_LIMIT, seq) }.to_packet()
}

/// What refuses a SYN.
pub(super) fn reset(syn: &Segment) -> Vec<u8> {
    let segment = segment(syn.tuple.reversed(), DEFAULT_HOP_LIMIT, 0);
    Segment { rst: true, ack: Some(syn.end()), window: 0, ..segment }.to_packet()
}

fn segment(tuple: Tuple, hop_limit: u8, seq: u32) -> Segment {
    Segment {
        tuple,
        hop_limit,
        seq: Seq(seq),
        ack: None,
        syn: false,
        fin: false,
        rst: false,
        window: 64_240,
        options: Options::default(),
        payload: Vec::new(),
    }
}
