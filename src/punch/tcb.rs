//! An established connection as plain values: what the kernel must be told to carry it on.

use crate::wire::{Options, Segment, Seq, Tuple};

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
    /// The connection as this segment of the peer leaves it, whose window is shifted by `shift`.
    /// Both ends' initial sequence numbers, ours first, and the window that we offered.
    pub(super) fn left_by(
        segment: &Segment,
        shift: u8,
        [iss, irs]: [Seq; 2],
        offered: u16,
        agreed: Agreed,
    ) -> Self {
        let rounded = agreed.window_scale.map_or(0, |scale| scale.receive);
        Self {
            tuple: segment.tuple.reversed(),
            snd_nxt: iss + 1,
            rcv_nxt: irs + 1,
            snd_wnd: u32::from(segment.window) << shift,
            snd_wl1: segment.seq,
            rcv_wnd: u32::from(offered >> rounded << rounded),
            agreed,
        }
    }

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
        let timestamps = timestamps.filter(|_| self.agreed.timestamps);
        Segment {
            ack: Some(self.rcv_nxt),
            window: u16::try_from(self.rcv_wnd >> shift).unwrap_or(u16::MAX),
            options: Options { timestamps, ..Options::default() },
            ..Segment::new(self.tuple, self.snd_nxt)
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
