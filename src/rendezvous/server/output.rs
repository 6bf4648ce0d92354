//! What the server has its caller do.

use super::{Audience, ConnectionId, Node, Word};
use crate::rendezvous::Answer;
use std::net::SocketAddr;

/// What the caller has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send this.
    Answer {
        /// To whom.
        to: ConnectionId,
        /// What.
        answer: Answer,
    },
    /// Send [`Answer::Clock`], with the times of just before and just after.
    Clock {
        /// To whom.
        to: ConnectionId,
        /// The client's clock, as it said.
        sent_ns: i64,
    },
    /// End the connection when everything is sent.
    Close(ConnectionId),
    /// Open a connection, see what comes of it, reset it, and tell [`super::Server::probed`].
    Probe {
        /// Who asked.
        asked_by: ConnectionId,
        /// Its name for the probe.
        id: u32,
        /// From here.
        from: SocketAddr,
        /// To here.
        to: SocketAddr,
    },
    /// Say this on the bus.
    Publish {
        /// To whom.
        to: Audience,
        /// What.
        word: Word,
    },
    /// Say [`Word::AskClock`] on the bus with the time of just before, and tell
    /// [`super::Server::measured`] when the answer is there.
    AskClock(Node),
}
