//! Why two peers did not meet: what happened, and what to do.

use crate::engine::{PunchError, Report};
use crate::rendezvous::{AgreementError, Joined, PublicKey, Refusal, SessionError};
use crate::sys::{CallFailed, DialError, GuardError, RouteError};
use std::net::SocketAddr;
use std::time::Duration;

/// A meeting that failed, with the report of the attempt that came furthest.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct MeetFailure {
    /// Why.
    pub error: MeetError,
    /// What was seen; absent when nothing was tried.
    pub report: Option<Box<Report>>,
}

impl<E: Into<MeetError>> From<E> for MeetFailure {
    fn from(error: E) -> Self {
        Self { error: error.into(), report: None }
    }
}

/// Why two peers did not meet.
#[derive(Debug, thiserror::Error)]
pub enum MeetError {
    /// There is no way to the server.
    #[error("server: {0}")]
    Route(#[from] RouteError),
    /// No local port can be used.
    #[error(transparent)]
    Local(GuardError),
    /// It refuses connections.
    #[error("nobody listens at {0}")]
    NobodyListens(SocketAddr),
    /// It does not answer.
    #[error("the server {server} did not answer within {within:.1?}")]
    Silent {
        /// Which.
        server: SocketAddr,
        /// How long it was waited for.
        within: Duration,
    },
    /// It closed the connection.
    #[error("the server {0} closed the connection")]
    Closed(SocketAddr),
    /// What was said there led to nothing.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The peer left before the connection stood.
    #[error("the peer left")]
    PeerLeft,
    /// The peer came and told nothing.
    #[error("the peer came, and told nothing within {0:.1?}")]
    PeerSilent(Duration),
    /// Both reports make no agreement.
    #[error(transparent)]
    Agreement(#[from] AgreementError),
    /// There is no way to measure the server's clock.
    #[error("the server does not answer questions for its clock")]
    NoClock,
    /// Nothing was tried: it would not succeed.
    #[error("{0}")]
    Hopeless(PunchError),
    /// Nothing stands, from what both ends saw.
    #[error("{}", .0.happened)]
    Failed(Joined),
    /// Somebody answered who does not hold the key.
    #[error("whoever answered does not hold the key")]
    Stranger,
    /// The caller is none of those who may call.
    #[error("a stranger called: {0}")]
    NotAllowed(PublicKey),
    /// A call that was taken before.
    #[error("a call came a second time: somebody has overheard it")]
    Repeated,
    /// We are none of those who may call.
    #[error("the other side does not let this key in")]
    NotLetIn,
    /// This host's clock was set between agreement and connection, or the host slept.
    #[error("this host's clock was set by {0:.1?} in the middle of the punch, or it slept")]
    ClockSet(Duration),
    /// A system call failed.
    #[error(transparent)]
    Call(#[from] CallFailed),
    /// The caller asked to stop.
    #[error("interrupted")]
    Interrupted,
}

impl MeetError {
    pub(in crate::engine) fn of_dial(local: SocketAddr, error: DialError) -> Self {
        match error {
            DialError::Local(error) => Self::Local(error),
            DialError::StillClosing(_) => Self::Local(GuardError::PortInUse(local.port())),
            DialError::Call(call) => Self::Call(call),
        }
    }

    /// Whether the server is gone, which says nothing against what it had brought.
    pub(super) fn is_loss(&self) -> bool {
        match self {
            Self::Session(error) => {
                matches!(error, SessionError::Refused(_) | SessionError::Silent(_))
            }
            Self::Silent { .. } | Self::Closed(_) | Self::Call(_) => true,
            _ => false,
        }
    }

    /// What to do about it, one line without its full stop.
    pub fn advice(&self) -> String {
        match self {
            Self::Route(_) => "check the server's address, and that the network is up (ip route)",
            Self::Local(error) => return error.advice(),
            Self::NobodyListens(_) => "check --server, or start it there: tcp-punch serve",
            Self::Silent { .. } => "check --server, and that no firewall is in between",
            Self::Closed(_) => "try again; if it stays so, see the server's log",
            Self::Session(error) => return advice(error),
            Self::PeerLeft | Self::PeerSilent(_) => "see what it said there, and start both again",
            Self::Agreement(AgreementError::NoPair { .. }) => {
                "give one of both the other's IP version, or use a network that has it"
            }
            Self::Agreement(_) => "start both again",
            Self::ClockSet(_) => "start both again",
            Self::NoClock => "use a server of the same version: tcp-punch serve",
            Self::Hopeless(error) => return error.advice(),
            Self::Failed(joined) => return joined.advice.clone(),
            Self::NotAllowed(key) => return format!("to let it in, add a line there: NAME {key}"),
            Self::Repeated => "nothing was done for it; the server's network may be worth a look",
            Self::NotLetIn => {
                "add it to the peers file there: NAME and what tcp-punch key prints here"
            }
            Self::Stranger => "somebody is in between: use another network or a fresh code",
            Self::Call(failed) => return failed.advice(),
            Self::Interrupted => "run it again on both sides",
        }
        .into()
    }
}

fn advice(error: &SessionError) -> String {
    match error {
        SessionError::Refused(refusal) => match refusal {
            Refusal::Occupied | Refusal::NoSuchPlace | Refusal::WaitedTooLong => {
                "make a new code: tcp-punch meet, without one"
            }
            Refusal::NobodyThere => "start tcp-punch expose there, with the same server",
            Refusal::NotYours => "use the key that the name belongs to",
            Refusal::Replaced => "let one program use this key at a time",
            Refusal::TooMany | Refusal::Full | Refusal::GoingDown => "try again in a minute",
            Refusal::NotUnderstood => "use the same version on both sides",
        },
        SessionError::WrongCode => {
            "compare the code letter by letter; a wrong guess spends it, so make a new one"
        }
        SessionError::Silent(_) => {
            "check that the server and the network in between are up, and make a new code"
        }
        SessionError::PeerSilent(_) => "see what it said there, and start both again",
        SessionError::Observed { .. } => "use another server: this one tells nonsense",
        SessionError::Altered => "use another server: this one changes what it relays",
        SessionError::Frame(_) | SessionError::OutOfTurn => {
            "check --server: something else may listen there, or another version"
        }
        SessionError::Exchange(_) | SessionError::Told(_) => "use the same version on both sides",
    }
    .into()
}
