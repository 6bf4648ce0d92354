//! Why a survey found nothing: what happened, and what to do.

use crate::sys::{CallFailed, DialError, GuardError};
use crate::wire::stun::NotABinding;
use nix::errno::Errno;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Why a survey found nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SurveyError {
    /// No server was named.
    #[error("there is no STUN server to ask")]
    NoServer,
    /// No port to ask from was named.
    #[error("there is no local port to ask from")]
    NoSource,
    /// The first local port, or the local address, cannot be used.
    #[error(transparent)]
    Local(GuardError),
    /// Every server is of the other IP version than the local address.
    #[error("STUN server {server} cannot be reached from {local}")]
    OtherFamily {
        /// The first.
        server: SocketAddr,
        /// Our address.
        local: IpAddr,
    },
    /// Nothing can be sent to the server.
    #[error("STUN server {server} cannot be reached: {}", errno.desc())]
    Unreachable {
        /// Which.
        server: SocketAddr,
        /// What the kernel or a router said.
        errno: Errno,
    },
    /// It answered the SYN with a reset.
    #[error("STUN server {0} refuses TCP connections")]
    Refused(SocketAddr),
    /// It answers over UDP alone.
    #[error("STUN server {0} answers over UDP, not over TCP")]
    OnlyUdp(SocketAddr),
    /// It closed the connection before it had answered.
    #[error("STUN server {server} closed the connection after {received} bytes of a response")]
    ClosedEarly {
        /// Which.
        server: SocketAddr,
        /// How much had come.
        received: usize,
    },
    /// It did not answer the SYN.
    #[error("STUN server {server} did not answer within {within:.1?}")]
    Silent {
        /// Which.
        server: SocketAddr,
        /// How long it was waited for.
        within: Duration,
    },
    /// It accepted the connection and said nothing more.
    #[error(
        "STUN server {server} accepted the connection and answered nothing within {within:.1?}"
    )]
    Mute {
        /// Which.
        server: SocketAddr,
        /// How long it was waited for.
        within: Duration,
    },
    /// What it said is no use.
    #[error("STUN server {server}: {why}")]
    NotABinding {
        /// Which.
        server: SocketAddr,
        /// What was wrong.
        why: NotABinding,
    },
    /// An earlier survey's connection between the same endpoints has not ended.
    #[error("an earlier connection to STUN server {0} from the same port is still closing")]
    StillClosing(SocketAddr),
    /// A system call failed.
    #[error(transparent)]
    Call(#[from] CallFailed),
}

impl SurveyError {
    /// What an error of connect(2), recv(2) or send(2) means.
    pub(in crate::engine) fn of_errno(server: SocketAddr, errno: Errno, received: usize) -> Self {
        match errno {
            Errno::ECONNREFUSED => Self::Refused(server),
            Errno::ECONNRESET | Errno::EPIPE => Self::ClosedEarly { server, received },
            errno => Self::Unreachable { server, errno },
        }
    }

    pub(in crate::engine) fn of_dial(server: SocketAddr, error: DialError) -> Self {
        match error {
            DialError::Local(error) => Self::Local(error),
            DialError::StillClosing(_) => Self::StillClosing(server),
            DialError::Call(failed) if failed.call.starts_with("connect") => {
                Self::of_errno(server, failed.errno, 0)
            }
            DialError::Call(failed) => Self::Call(failed),
        }
    }

    /// What to do about it, one line without its full stop.
    pub fn advice(&self) -> String {
        match self {
            Self::NoServer => "name one with --stun HOST:PORT".into(),
            Self::NoSource => "name one with --local PORT".into(),
            Self::Local(error) => error.advice(),
            Self::Unreachable { errno: Errno::EPERM | Errno::EACCES, .. } => {
                "a firewall rule of this host forbids it: see nft list ruleset, chain output".into()
            }
            Self::Unreachable { .. } => {
                "check the address, and that the network is up (ip route)".into()
            }
            Self::Refused(_) | Self::OnlyUdp(_) => {
                "name a server that offers STUN over TCP, which many offer over UDP alone".into()
            }
            Self::Silent { .. } => "check the address and port; a firewall may drop TCP to it, or \
                                    the server may offer STUN over UDP alone"
                .into(),
            Self::ClosedEarly { .. } | Self::Mute { .. } => {
                "check the port: this may be another service than STUN over TCP (usually 3478)"
                    .into()
            }
            Self::NotABinding { why, .. } => match why {
                NotABinding::OtherProtocol("a TLS server") => {
                    "give the server's port for plain TCP, usually 3478".into()
                }
                NotABinding::Error { code: 401, .. } => {
                    "name a server that answers without a password".into()
                }
                NotABinding::Error { .. }
                | NotABinding::Nonsense { .. }
                | NotABinding::NoAddress
                | NotABinding::ForeignTransaction
                | NotABinding::OtherMessage(_) => "do not trust it; name another server".into(),
                _ => "check the port: STUN over TCP is usually at 3478".into(),
            },
            Self::StillClosing(_) => {
                "wait a minute, run as root, or use another port with --local PORT".into()
            }
            Self::OtherFamily { .. } => {
                "give both in the same IP version, or --local with a port alone".into()
            }
            Self::Call(_) => "run tcp-punch doctor, which checks what this host can do".into(),
        }
    }
}
