//! What a client and a server say to each other.
//!
//! A connection begins with the client's [greeting](super::GREETING); after it both sides send
//! frames, each one [`Request`] or [`Answer`]. The server keeps the order of what one client
//! sends. What peers tell each other is sealed and passes through it as bytes.

use crate::wire::WallTime;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::SocketAddr;

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Asks for the server's clock. Answered by [`Answer::Clock`], at once.
    Clock {
        /// The client's clock when this left; it comes back as it is.
        sent_ns: i64,
    },
    /// Asks for a meeting place with a number that nobody uses. Answered by
    /// [`Answer::Allocated`]; the place is kept until this client joins it, or leaves.
    Allocate,
    /// Goes to a meeting place. Who comes first waits; the second meets it at once; there is no
    /// third. [`Answer::Met`] follows when both are there.
    Join {
        /// Where.
        place: Place,
        /// The first message of the key exchange, for the peer. May be empty where the peer has
        /// to speak first.
        opening: Vec<u8>,
    },
    /// Bytes for the peer that was met. Delivered as [`Answer::Relayed`].
    Relay(Vec<u8>),
    /// Waits to be called under a name: the public key itself. Answered by
    /// [`Answer::Challenge`].
    Listen(PublicKey),
    /// Proves that the name is one's own: a MAC of the challenge by the secret that both keys
    /// make. Answered by [`Answer::Listening`], then [`Answer::Called`] for each call.
    Prove([u8; 32]),
    /// Calls who listens under a name. The server makes a place, sends its ticket to the listener
    /// and has the caller wait there: [`Answer::Met`] follows, as from [`Request::Join`].
    Call {
        /// Who.
        name: PublicKey,
        /// The first message of the key exchange.
        opening: Vec<u8>,
    },
    /// Asks the server to open a connection towards one of this client's own mappings, from
    /// another of its addresses or ports. Answered by [`Answer::Probed`].
    Probe {
        /// Comes back in the answer.
        id: u32,
        /// From where.
        from: Origin,
        /// The mapping, as [`Answer::Welcome`] or a STUN response on a connection that is still
        /// open told it. Its address has to be the one this client is seen under.
        mapping: SocketAddr,
    },
}

/// What the server says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The first frame on every connection, sent when the greeting has come in.
    Welcome {
        /// Where this connection comes from, as the server sees it.
        observed: SocketAddr,
        /// The server's other port at the same address.
        other_port: Option<SocketAddr>,
        /// The server's other address, both ports.
        other_address: Vec<SocketAddr>,
    },
    /// To [`Request::Clock`].
    Clock(ClockTimes),
    /// To [`Request::Allocate`]: the number of the place.
    Allocated(u32),
    /// The peer is there.
    Met {
        /// The first message of its key exchange. Empty if it speaks second, or has not spoken
        /// yet: the message then follows as [`Answer::Relayed`].
        opening: Vec<u8>,
    },
    /// Bytes from the peer.
    Relayed(Vec<u8>),
    /// The peer has gone. Nothing further comes from it.
    Left,
    /// To [`Request::Listen`]: an X25519 public key of the server, made for this one question.
    Challenge([u8; 32]),
    /// To [`Request::Prove`]: this client is called under its name from now on.
    Listening,
    /// Somebody calls: go with a new connection.
    Called {
        /// Where to.
        ticket: Ticket,
        /// The first message of the caller's key exchange, which shows who calls. It comes again
        /// with [`Answer::Met`].
        opening: Vec<u8>,
    },
    /// To [`Request::Probe`].
    Probed {
        /// As in the request.
        id: u32,
        /// What came of the server's SYN.
        reaction: Reaction,
        /// After how long, in milliseconds; for silence how long the server waited.
        after_ms: u32,
    },
    /// What was asked is not done, and the connection ends.
    Refused(Refusal),
    /// The peer is connected to another server, whose clock is the clock of this meeting. Comes
    /// before [`Answer::Met`], to one of both peers.
    Shifted(ClockShift),
}

/// How the clock of a meeting stands to the server's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockShift {
    /// The meeting's clock less this server's, in nanoseconds.
    pub ahead_ns: i64,
    /// That is wrong by no more than this, in nanoseconds.
    pub bound_ns: u64,
    /// And hardly by more than this.
    pub likely_ns: u64,
}

/// A meeting place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Place {
    /// The number at the head of a code.
    Number(u32),
    /// Made for one call.
    Ticket(Ticket),
}

/// 128 random bits that stand for a place.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Ticket(pub [u8; 16]);

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ticket(secret)")
    }
}

/// An X25519 public key: the name of who is reached under it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PublicKey(pub [u8; 32]);

/// Where a probe of the server's comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Origin {
    /// The address that the client is connected to, another port.
    OtherPort,
    /// Another address, the port that the client is connected to.
    OtherAddress,
}

/// What came of a SYN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Reaction {
    /// A SYN-ACK.
    Answered,
    /// A reset.
    Reset,
    /// An ICMP error.
    Unreachable,
    /// Nothing.
    Silent,
    /// The server could not send it: no such address, or no port left.
    NotSent,
}

/// The three of the four timestamps of an exchange (RFC 5905 section 8) that the client does not
/// note itself, in nanoseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockTimes {
    /// The client's clock when the request left, as the client said.
    pub sent_ns: i64,
    /// The server's clock when the request came in.
    pub received_ns: i64,
    /// The server's clock when this answer left.
    pub answered_ns: i64,
}

impl ClockTimes {
    /// When the request came in, by the server's clock.
    pub fn received(&self) -> WallTime {
        WallTime::from_unix_ns(self.received_ns)
    }
}

/// Why the server does not do what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// Two are there already.
    #[error("somebody else used this code; make a new one")]
    Occupied,
    /// Nobody has waited there long enough, or a ticket that never was.
    #[error("this meeting is over")]
    NoSuchPlace,
    /// Nobody listens under that name.
    #[error("nobody listens under that name now")]
    NobodyThere,
    /// The name was not proven.
    #[error("this name belongs to another key")]
    NotYours,
    /// One client asks for too much.
    #[error("the server has heard too much from this address; try again in a minute")]
    TooMany,
    /// The server is full.
    #[error("the server is full; try again later")]
    Full,
    /// Waited longer than the server lets anybody wait.
    #[error("nobody came")]
    WaitedTooLong,
    /// The server goes down.
    #[error("the server is shutting down")]
    GoingDown,
    /// What was sent is no request, or not at this point.
    #[error("the server does not understand this version of tcp-punch")]
    NotUnderstood,
    /// Another client has proven the same name since, and is called instead.
    #[error("another client listens under this name now")]
    Replaced,
}
