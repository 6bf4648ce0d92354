//! One client's connection, as the server knows it.

use super::bus::Seat;
use crate::rendezvous::{Challenge, Place, PublicKey, Refusal};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::time::Duration;

/// Names one connection; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ConnectionId(pub(super) u64);

#[derive(Debug)]
pub(super) struct Connection {
    /// The client, as the server sees it.
    pub(super) remote: SocketAddr,
    /// Our end.
    pub(super) local: SocketAddr,
    pub(super) stage: Stage,
    /// When the connection ends if nothing happens.
    pub(super) deadline: Option<Duration>,
    /// When the message that has begun has to be whole.
    pub(super) message_deadline: Option<Duration>,
}

impl Connection {
    /// The sooner of both.
    pub(super) fn timeout(&self) -> Option<Duration> {
        self.deadline.into_iter().chain(self.message_deadline).min()
    }
}

#[derive(Debug)]
pub(super) enum Stage {
    /// Has not said what it speaks.
    Silent,
    Stun,
    Greeted,
    /// Waits for a peer.
    Waiting {
        place: Place,
        /// If it calls somebody.
        called: Option<Called>,
    },
    Met(Met),
    /// Has to prove that the name is its own.
    Challenged(Box<(PublicKey, Challenge)>),
    Listening {
        name: PublicKey,
        /// Calls it was told of and has not come to.
        calls: u16,
    },
    /// Told to go.
    Over,
}

/// How far a call has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Called {
    /// So many other servers have not said yet whether the one who is called is there.
    Sought(usize, Refusal),
    /// This listener was told.
    Told(Seat),
}

#[derive(Debug)]
pub(super) struct Met {
    /// As long as it is there.
    pub(super) peer: Option<Seat>,
    /// The peer came before this one's opening did.
    pub(super) opening_owed: bool,
    /// What went from this one to the peer.
    pub(super) messages: u16,
    pub(super) bytes: u32,
}
