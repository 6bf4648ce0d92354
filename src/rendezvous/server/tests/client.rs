//! A client of a server: what it says, and what it hears.

use crate::rendezvous::server::{ConnectionId, Output};
use crate::rendezvous::{Answer, Identity, Place, Refusal, Request, Ticket};
use std::net::SocketAddr;

/// Which server it is connected to, and its connection there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Client {
    pub(crate) at: usize,
    pub(crate) id: ConnectionId,
}

/// What comes to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    Answer(Answer),
    /// The answer to its clock, which says this.
    Clock(i64),
    Closed,
    Probe {
        id: u32,
        from: SocketAddr,
        to: SocketAddr,
    },
}

/// Who hears what: a line of a trace.
pub(crate) type Line = (Client, Heard);

impl Client {
    /// What a server has to say to one of its clients; else it is for other servers.
    pub(crate) fn line(at: usize, output: Output) -> Result<Line, Output> {
        let (id, heard) = match output {
            Output::Answer { to, answer } => (to, Heard::Answer(answer)),
            Output::Clock { to, sent_ns } => (to, Heard::Clock(sent_ns)),
            Output::Close(id) => (id, Heard::Closed),
            Output::Probe { asked_by, id, from, to } => (asked_by, Heard::Probe { id, from, to }),
            Output::Publish { .. } | Output::AskClock(_) => return Err(output),
        };
        Ok((Self { at, id }, heard))
    }

    pub(crate) fn gets(self, answer: Answer) -> Line {
        (self, Heard::Answer(answer))
    }

    pub(crate) fn gets_clock(self, sent_ns: i64) -> Line {
        (self, Heard::Clock(sent_ns))
    }

    pub(crate) fn is_given(self, number: u32) -> Line {
        self.gets(Answer::Allocated(number))
    }

    /// It meets one who has said this so far.
    pub(crate) fn meets(self, opening: &[u8]) -> Line {
        self.gets(Answer::Met { opening: opening.to_vec() })
    }

    /// Its peer says this.
    pub(crate) fn hears(self, bytes: &[u8]) -> Line {
        self.gets(Answer::Relayed(bytes.to_vec()))
    }

    /// Its peer leaves.
    pub(crate) fn is_left(self) -> Line {
        self.gets(Answer::Left)
    }

    pub(crate) fn is_closed(self) -> Line {
        (self, Heard::Closed)
    }

    pub(crate) fn is_refused(self, why: Refusal) -> [Line; 2] {
        [self.gets(Answer::Refused(why)), self.is_closed()]
    }

    pub(crate) fn is_probed(self, id: u32, from: &str, to: &str) -> Line {
        let [from, to] = [from, to].map(|it| it.parse().unwrap());
        (self, Heard::Probe { id, from, to })
    }

    /// The challenge, which is all that was heard.
    pub(crate) fn challenge_in(self, heard: &[Line]) -> [u8; 32] {
        match heard {
            [(to, Heard::Answer(Answer::Challenge(challenge)))] if *to == self => *challenge,
            other => panic!("{other:?}"),
        }
    }

    /// Where the caller waits, which is all that was heard.
    pub(crate) fn ticket_in(self, heard: &[Line]) -> Ticket {
        match heard {
            [(to, Heard::Answer(Answer::Called { ticket, opening }))]
                if *to == self && opening == b"b" =>
            {
                *ticket
            }
            other => panic!("{other:?}"),
        }
    }
}

pub(crate) fn join(number: u32, opening: &[u8]) -> Request {
    Request::Join { place: Place::Number(number), opening: opening.to_vec() }
}

/// A listener comes to its caller.
pub(crate) fn come(ticket: Ticket, opening: &[u8]) -> Request {
    Request::Join { place: Place::Ticket(ticket), opening: opening.to_vec() }
}

pub(crate) fn relay(bytes: &[u8]) -> Request {
    Request::Relay(bytes.to_vec())
}

pub(crate) fn clock(sent_ns: i64) -> Request {
    Request::Clock { sent_ns }
}

/// The caller's opening is `b`.
pub(crate) fn call(name: &Identity) -> Request {
    Request::Call { name: name.public(), opening: b"b".to_vec() }
}

/// The identity of one who listens.
pub(crate) fn home() -> Identity {
    Identity::generate([1; 32])
}
