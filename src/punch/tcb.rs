//! An established connection as plain values: what the kernel must be told to carry it on.

use crate::wire::{Segment, Seq, Tuple};

/// The transmission control block of RFC 9293 section 3.3.1 at the moment of establishment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EstablishedTcb {
    /// The connection.
    pub tuple: Tuple,
    /// Next sequence number to send: ISS + 1, nothing has been sent yet.
    pub snd_nxt: Seq,
    /// Next sequence number expected: IRS + 1.
    pub rcv_nxt: Seq,
    /// The peer's window, bytes.
    pub snd_wnd: u32,
    /// Sequence number of the segment that gave `snd_wnd`.
    pub snd_wl1: Seq,
    /// The window that we advertised, bytes.
    pub rcv_wnd: u32,
    /// What the handshake agreed on.
    pub agreed: Agreed,
}

/// Options in force in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// Largest segment the peer takes, bytes.
    pub mss: u16,
    /// Window scale shifts (ours to read the peer's window with, the peer's to read ours with);
    /// `None` when either end lacked the option.
    pub window_scale: Option<WindowScale>,
    /// Selective acknowledgments.
    pub sack: bool,
    /// Timestamps.
    pub timestamps: bool,
}

/// Both shifts of RFC 7323 section 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowScale {
    /// The peer's windows are shifted left by this.
    pub send: u8,
    /// Ours are.
    pub receive: u8,
}

impl EstablishedTcb {
    /// A pure acknowledgment of everything up to `rcv_nxt`, as the connection's next segment. Sent
    /// once the connection is installed, it completes a peer that still waits.
    pub fn acknowledge(&self, rcv_nxt: Seq, timestamps: Option<(u32, u32)>) -> Segment {
        let shift = self.agreed.window_scale.map_or(0, |scale| scale.receive);
        // The right edge of the window stays where it is until the kernel moves it.
        let window = self.rcv_wnd.saturating_sub(rcv_nxt - self.rcv_nxt);
        Segment {
            tuple: self.tuple,
            hop_limit: crate::wire::DEFAULT_HOP_LIMIT,
            seq: self.snd_nxt,
            ack: Some(rcv_nxt),
            syn: false,
            fin: false,
            rst: false,
            window: u16::try_from(window >> shift).unwrap_or(u16::MAX),
            options: crate::wire::Options {
                timestamps: timestamps.filter(|_| self.agreed.timestamps),
                ..Default::default()
            },
            payload: Vec::new(),
        }
    }

    /// The peer's side of it: a pure ACK as the peer would send it now. A kernel that is shown it
    /// knows the timestamp that it has to echo, for which repair has no option.
    pub fn peer_acknowledges(&self, timestamps: (u32, u32)) -> Segment {
        let shift = self.agreed.window_scale.map_or(0, |scale| scale.send);
        Segment {
            tuple: self.tuple.reversed(),
            seq: self.rcv_nxt,
            ack: Some(self.snd_nxt),
            window: u16::try_from(self.snd_wnd >> shift).unwrap_or(u16::MAX),
            ..self.acknowledge(self.rcv_nxt, Some(timestamps))
        }
    }
}
