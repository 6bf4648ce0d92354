//! What can go wrong with a destination, and what to do about it.

use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::PathBuf;

use nix::errno::Errno;

use super::{JoinError, NoClient};
use crate::sys::account::AccountError;
use crate::sys::child::SpawnError;
use crate::sys::privilege::PrivilegeError;

/// What was wrong, in one line; [`DestinationError::advice`] is the second.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the message of each says what its fields are")]
pub enum DestinationError {
    #[error("no command was given")]
    NoCommand,
    #[error("command not found: {}", command.display())]
    CommandNotFound { command: OsString },
    #[error("{} is not executable{}", path.display(), by(user))]
    NotExecutable { path: PathBuf, user: Option<String> },
    #[error("{} needs the interpreter {}, which does not exist", command.display(), interpreter.display())]
    NoInterpreter { command: OsString, interpreter: PathBuf },
    #[error("an argument of the command contains a zero byte")]
    NulInArgument,
    #[error("{0}")]
    Account(#[from] AccountError),
    #[error("the command cannot run as {name}: CAP_SETUID and CAP_SETGID are missing")]
    MayNotChangeUser { name: String },
    #[error("{} is not a socket", path.display())]
    NotASocket { path: PathBuf },
    #[error("cannot connect to {}: {source}", path.display())]
    PassFd { path: PathBuf, source: io::Error },
    #[error("standard output is not a connected Unix stream socket")]
    StdoutNotSocket,
    #[error("{text:?} is not an address to use: {source}")]
    Address { text: String, source: io::Error },
    #[error("cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: io::Error },

    #[error("privileges could not be dropped: {0}")]
    Privilege(#[from] PrivilegeError),
    #[error("the connection's descriptor could not be made ready: fcntl: {source}")]
    Descriptor { source: Errno },
    #[error("standard input and output could not be taken: {source}")]
    StandardStreams { source: io::Error },
    #[error("{} could not be started: {source}", command.display())]
    Spawn { command: OsString, source: SpawnError },
    #[error("the command's end could not be awaited: {source}")]
    Wait { source: Errno },
    #[error("the descriptor could not be sent: sendmsg: {source}")]
    Send { source: Errno },
    #[error("cannot connect to {service}: {source}")]
    Service { service: String, source: io::Error },
    #[error(transparent)]
    NoClient(#[from] NoClient),

    #[error("{}", broken(.0))]
    Broken(#[from] JoinError),
}

impl DestinationError {
    /// What to do, in one line.
    #[must_use]
    pub fn advice(&self) -> String {
        match self {
            Self::NoCommand => "give a command after `--`".into(),
            Self::CommandNotFound { .. } => {
                "check its name and PATH (sudo sets its own), or give its full path".into()
            }
            Self::NotExecutable { path, user: None } => {
                format!("chmod +x {}, or name another command", path.display())
            }
            Self::NotExecutable { path, .. } => format!(
                "make {} and the directories above it accessible, or choose with --user",
                path.display()
            ),
            Self::NoInterpreter { .. } => "install it, or correct the script's first line".into(),
            Self::NulInArgument => "remove it: the kernel cannot pass one on".into(),
            Self::Account(AccountError::Unknown(_)) => {
                "give --user a name or number that `getent passwd` knows".into()
            }
            Self::Account(AccountError::Call { .. }) => {
                "check the user with `id`, or choose another with --user".into()
            }
            Self::MayNotChangeUser { .. } => "run with sudo, or leave --user out".into(),
            Self::NotASocket { .. } | Self::PassFd { .. } => {
                "start the receiver first: it must listen there on a Unix stream socket".into()
            }
            Self::StdoutNotSocket => {
                "--fdpass is for ssh's ProxyCommand with ProxyUseFdpass yes; leave it out otherwise"
                    .into()
            }
            Self::Address { .. } => {
                "write HOST:PORT, for example localhost:8022 or [::1]:8022".into()
            }
            Self::Listen { source, .. } if source.kind() == ErrorKind::AddrInUse => {
                "choose another port, or see with `ss -ltnp` who has it".into()
            }
            Self::Listen { .. } => {
                "choose an address of this host and a port of 1024 or more".into()
            }
            Self::Privilege(_) => {
                "run as root or with file capabilities, without a sandbox that forbids the call"
                    .into()
            }
            Self::Spawn { command, .. } => format!(
                "run {} by itself to see whether it works here, then punch again",
                command.display()
            ),
            Self::Send { .. } => "see why the receiver left before the connection came".into(),
            Self::Service { .. } => "start the service, then punch again".into(),
            Self::NoClient(NoClient::PeerGone) => {
                "punch again, and connect the local client sooner".into()
            }
            Self::Broken(JoinError::Connection(_)) => {
                "see why the other end closed; what had arrived was written out".into()
            }
            Self::Broken(JoinError::Local(_)) => {
                "see why the local program or file failed, then punch again".into()
            }
            Self::Broken(JoinError::Ended) => "start it again".into(),
            Self::Descriptor { .. }
            | Self::StandardStreams { .. }
            | Self::Wait { .. }
            | Self::NoClient(NoClient::Call(_))
            | Self::Broken(JoinError::Setup(_)) => {
                "check the limits on processes and open files (ulimit -a), then punch again".into()
            }
        }
    }

    /// The exit status: 2 for what was wrong before the punch, 3 for a missing privilege, 8 for
    /// a failed hand-over, 1 for a stream that broke afterwards.
    #[must_use]
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::NoCommand
            | Self::CommandNotFound { .. }
            | Self::NotExecutable { .. }
            | Self::NoInterpreter { .. }
            | Self::NulInArgument
            | Self::Account(AccountError::Unknown(_))
            | Self::NotASocket { .. }
            | Self::PassFd { .. }
            | Self::StdoutNotSocket
            | Self::Address { .. }
            | Self::Listen { .. } => 2,
            Self::MayNotChangeUser { .. } => 3,
            Self::Account(AccountError::Call { .. })
            | Self::Privilege(_)
            | Self::Descriptor { .. }
            | Self::StandardStreams { .. }
            | Self::Spawn { .. }
            | Self::Wait { .. }
            | Self::Send { .. }
            | Self::Service { .. }
            | Self::NoClient(_) => 8,
            Self::Broken(_) => 1,
        }
    }
}

fn by(user: &Option<String>) -> String {
    user.as_ref().map(|name| format!(" by {name}")).unwrap_or_default()
}

fn broken(error: &JoinError) -> String {
    match error {
        JoinError::Connection(source) if source.kind() == ErrorKind::ConnectionReset => {
            "the peer reset the connection".into()
        }
        JoinError::Connection(source) if source.kind() == ErrorKind::BrokenPipe => {
            "the peer closed the connection before it had taken everything".into()
        }
        JoinError::Connection(source) => format!("the connection was lost: {source}"),
        JoinError::Local(source) => format!("the local end failed: {source}"),
        JoinError::Ended => "the connection was ended from here".into(),
        JoinError::Setup(source) => format!("the connection could not be joined: {source}"),
    }
}
