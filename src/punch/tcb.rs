//! An established connection as plain values: what the kernel must be told to carry it on.

use crate::wire::{Segment, Seq, Tuple};

/// The transmission control block of RFC 9293 section 3.3.1 as it is, or will be, at establishment.
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
    /// Whether a kernel socket for `other` serves this connection: all that the kernel does not
    /// learn from the next segment agrees.
    pub fn is_same(&self, other: &Self) -> bool {
        let fixed = |tcb: &Self| (tcb.tuple, tcb.snd_nxt, tcb.rcv_nxt, tcb.agreed);
        fixed(self) == fixed(other)
    }

    /// The ACK that completes a peer which has answered our SYN. Sent once the connection is
    /// installed, so that the kernel hears whatever the peer sends next.
    pub fn acknowledge(&self, timestamps: Option<(u32, u32)>) -> Segment {
        let shift = self.agreed.window_scale.map_or(0, |scale| scale.receive);
        Segment {
            tuple: self.tuple,
            hop_limit: crate::wire::DEFAULT_HOP_LIMIT,
            seq: self.snd_nxt,
            ack: Some(self.rcv_nxt),
            syn: false,
            fin: false,
            rst: false,
            window: u16::try_from(self.rcv_wnd >> shift).unwrap_or(u16::MAX),
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
            ..self.acknowledge(Some(timestamps))
        }
    }
}
