//! A Linux MASQUERADE router as nf_conntrack_proto_tcp.c steers it, for one connection: which
//! segments it lets pass translated, which it takes for its own, and what resets do to it.

use tcp_punch::wire::{Segment, Seq};

/// What the router holds of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    SynSent,
    SynSent2,
    SynReceived,
    Established,
    /// One FIN was seen; as left by a connection whose other FIN it overlooked.
    CloseWait,
    Closed,
}

/// What it does with a SYN for nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reaction {
    Reset,
    Drop,
}

/// Where a segment goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Passage {
    Translated,
    /// Forwarded with its private source address, to be lost upstream.
    Untranslated,
    /// Taken for the router itself.
    Own,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Syn,
    SynAck,
    Ack,
    Rst,
}

/// The router of one host.
#[derive(Debug)]
pub(crate) struct Router {
    pub(crate) entry: Option<Entry>,
    pub(crate) reaction: Reaction,
    /// A SYN of ours that it ignored: the answer to it shows that the connection is a new one.
    ignored_syn_end: Option<Seq>,
}

impl Router {
    pub(crate) fn new(reaction: Reaction, entry: Option<Entry>) -> Self {
        Self { entry, reaction, ignored_syn_end: None }
    }

    /// A segment from the host.
    pub(crate) fn outbound(&mut self, segment: &Segment) -> Passage {
        use Entry::{CloseWait, Closed, Established, SynReceived, SynSent, SynSent2};
        let (next, passage) = match (kind(segment), self.entry) {
            (Kind::Syn, None | Some(SynSent | Closed)) => (Some(SynSent), Passage::Translated),
            (Kind::Syn, Some(SynSent2)) => (self.entry, Passage::Translated),
            (Kind::Syn, Some(SynReceived | Established | CloseWait)) => {
                self.ignored_syn_end = Some(segment.end());
                (self.entry, Passage::Translated)
            }
            (Kind::SynAck, Some(SynSent2 | SynReceived)) => {
                (Some(SynReceived), Passage::Translated)
            }
            (Kind::SynAck, _) => (self.entry, Passage::Untranslated),
            (Kind::Ack, Some(SynSent | SynSent2)) => (self.entry, Passage::Untranslated),
            (Kind::Ack, Some(CloseWait | Closed)) => (self.entry, Passage::Translated),
            // With nothing known, tcp_loose picks the connection up.
            (Kind::Ack, None | Some(SynReceived | Established)) => {
                (Some(Established), Passage::Translated)
            }
            (Kind::Rst, _) => (self.entry.map(|_| Closed), Passage::Translated),
        };
        self.entry = next;
        passage
    }

    /// A segment from outside.
    pub(crate) fn inbound(&mut self, segment: &Segment) -> Passage {
        use Entry::{CloseWait, Closed, Established, SynReceived, SynSent, SynSent2};
        let Some(entry) = self.entry else { return Passage::Own };
        let answers_ignored = segment.ack.is_some() && segment.ack == self.ignored_syn_end;
        let (next, passage) = match (kind(segment), entry) {
            (Kind::Syn, SynSent | SynSent2) => (Some(SynSent2), Passage::Translated),
            (Kind::Syn, _) => (Some(entry), Passage::Own),
            (Kind::SynAck, SynSent | SynSent2) => (Some(SynReceived), Passage::Translated),
            (Kind::SynAck, _) if answers_ignored => (Some(SynReceived), Passage::Translated),
            (Kind::SynAck, _) => (Some(entry), Passage::Translated),
            (Kind::Ack, SynReceived) => (Some(Established), Passage::Translated),
            (Kind::Ack, _) => (Some(entry), Passage::Translated),
            // An entry that never saw an answer is deleted at once.
            (Kind::Rst, SynSent) => (None, Passage::Translated),
            (Kind::Rst, Closed) => (Some(Closed), Passage::Translated),
            // The answer to a SYN that it ignored: the old connection is over; a living one stays,
            // in case the other end would rather challenge the reset.
            (Kind::Rst, CloseWait) if answers_ignored => (Some(Closed), Passage::Translated),
            (Kind::Rst, Established) if answers_ignored => (Some(entry), Passage::Translated),
            // A reset that answers a segment with an ACK has the right number, one that answers a
            // SYN has number 0, which lies outside of the window.
            (Kind::Rst, SynSent2 | SynReceived) if segment.seq != Seq(0) => {
                (Some(Closed), Passage::Translated)
            }
            (Kind::Rst, _) => (Some(entry), Passage::Own),
        };
        self.entry = next;
        passage
    }
}

fn kind(segment: &Segment) -> Kind {
    match (segment.rst, segment.syn, segment.ack) {
        (true, ..) => Kind::Rst,
        (false, true, None) => Kind::Syn,
        (false, true, Some(_)) => Kind::SynAck,
        (false, false, _) => Kind::Ack,
    }
}
