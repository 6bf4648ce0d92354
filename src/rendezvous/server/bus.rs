//! What servers that are joined say to each other.
//!
//! Every server hears what is said to all and what is said to it. Messages of one server to
//! another arrive in order, or not at all.

use super::ConnectionId;
use crate::rendezvous::{ClockTimes, MAX_FRAME, Place, PublicKey, Refusal, Ticket};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The first byte of every message. Servers of another version hear nothing of each other: the
/// subjects carry it, too.
pub const BUS_VERSION: u8 = 1;

/// The longest message: what a client says at once, and what goes around it.
const MAX_MESSAGE: usize = MAX_FRAME + 256;

/// One run of a server, by 64 random bits.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, Default,
)]
pub struct Node(pub u64);

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A client's connection, on whichever server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Seat {
    /// The server.
    pub node: Node,
    /// The connection there.
    pub id: ConnectionId,
}

/// Who shall hear it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Every other server.
    All,
    /// One.
    One(Node),
}

/// A message, as it travels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BusMessage {
    /// Who says it.
    pub from: Node,
    /// What.
    pub word: Word,
}

/// What one server says to others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Word {
    /// I am there. Said every second.
    Alive {
        /// My share of the numbers.
        share: Option<u8>,
        /// It is mine for good: nobody has objected.
        firm: bool,
        /// I know nothing of you, or not any more: say that you are there, and what I have to
        /// know of your clients.
        asks: bool,
    },
    /// I go.
    Gone,
    /// What is your clock? The time is mine, and comes back as it is.
    AskClock(i64),
    /// That.
    Clock(ClockTimes),
    /// A client of mine comes to a place that is kept by you.
    Come {
        /// Where.
        place: Place,
        /// Who.
        who: ConnectionId,
        /// The first message of its key exchange.
        opening: Vec<u8>,
    },
    /// It goes from there.
    Leave {
        /// Where.
        place: Place,
        /// Who.
        who: ConnectionId,
    },
    /// It cannot come there.
    Refused {
        /// Who.
        who: ConnectionId,
        /// Why.
        why: Refusal,
    },
    /// Your client, which came, finds somebody there.
    Found {
        /// Who came.
        who: ConnectionId,
        /// Who waited.
        peer: Seat,
        /// The first message of its key exchange.
        opening: Vec<u8>,
        /// The one who waited has been told. Otherwise you tell its server by [`Word::Met`]:
        /// so what you say on behalf of the one who came arrives after it.
        told: bool,
    },
    /// Your client, which waits, is found by somebody.
    Met {
        /// Who waits.
        who: ConnectionId,
        /// Who came: a client of mine.
        peer: Seat,
        /// The first message of its key exchange.
        opening: Vec<u8>,
    },
    /// From my client to yours.
    Relay {
        /// Whom.
        to: ConnectionId,
        /// Who.
        from: ConnectionId,
        /// What.
        bytes: Vec<u8>,
    },
    /// My client has gone from yours.
    Left {
        /// Whom.
        to: ConnectionId,
        /// Who.
        from: ConnectionId,
    },
    /// A client of mine has proven this name, and is called under it from now on.
    Listening(PublicKey),
    /// A client of mine calls this name, and waits at a place that I keep.
    Call {
        /// Whom.
        name: PublicKey,
        /// Who.
        caller: ConnectionId,
        /// Where.
        ticket: Ticket,
        /// The first message of its key exchange.
        opening: Vec<u8>,
    },
    /// Your client's call is passed on to this client of mine.
    Ringing {
        /// Who calls.
        caller: ConnectionId,
        /// Who is called.
        listener: ConnectionId,
    },
    /// It is not.
    NotHere {
        /// Who calls.
        caller: ConnectionId,
        /// Somebody listens under that name but has been called too often.
        busy: bool,
    },
    /// A call of mine that your client was told of is over.
    CallOver {
        /// Who was called.
        listener: ConnectionId,
    },
}

/// Bytes that are no message of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a message on the bus is not understood")]
pub struct NotUnderstood;

impl BusMessage {
    /// As bytes.
    ///
    /// # Errors
    /// [`NotUnderstood`] if it is too long for others to understand.
    pub fn to_bytes(&self) -> Result<Vec<u8>, NotUnderstood> {
        let bytes = postcard::to_extend(self, vec![BUS_VERSION]).map_err(|_| NotUnderstood)?;
        if bytes.len() > MAX_MESSAGE { Err(NotUnderstood) } else { Ok(bytes) }
    }

    /// Of bytes.
    ///
    /// # Errors
    /// [`NotUnderstood`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, NotUnderstood> {
        let Some((&BUS_VERSION, rest)) = bytes.split_first() else { return Err(NotUnderstood) };
        if bytes.len() > MAX_MESSAGE {
            return Err(NotUnderstood);
        }
        match postcard::take_from_bytes(rest) {
            Ok((message, [])) => Ok(message),
            _ => Err(NotUnderstood),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn another_version_more_bytes_and_long_messages_are_not_understood() {
        let message = BusMessage { from: Node(7), word: Word::Gone };
        let bytes = message.to_bytes().unwrap();
        assert_eq!(BusMessage::from_bytes(&bytes), Ok(message));
        let mut other = bytes.clone();
        other[0] = 2;
        let more = [&bytes[..], &[0]].concat();
        for wrong in [&other[..], &more, &bytes[..1], &[]] {
            assert_eq!(BusMessage::from_bytes(wrong), Err(NotUnderstood));
        }
        let id = ConnectionId(1);
        let word = Word::Relay { to: id, from: id, bytes: vec![0; MAX_MESSAGE] };
        assert_eq!(BusMessage { from: Node(7), word }.to_bytes(), Err(NotUnderstood));
    }

    proptest! {
        #[test]
        fn random_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = BusMessage::from_bytes(&bytes);
            let _ = BusMessage::from_bytes(&[&[BUS_VERSION][..], &bytes].concat());
        }
    }
}
