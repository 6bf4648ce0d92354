//! Where the connection goes. PLACEHOLDER with the agreed shape until the branch `deliver` brings
//! the real one: on merge, take theirs.

use std::ffi::OsString;
use std::path::PathBuf;

/// Where the connection goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Joined to standard input and output.
    Stdio,
    /// Given to a command.
    Command {
        /// The command and its arguments.
        argv: Vec<OsString>,
        /// How the command gets it.
        passing: Passing,
        /// Run as this user.
        user: Option<String>,
    },
    /// Sent over this Unix socket.
    PassFd(PathBuf),
    /// Sent over standard output.
    FdPass,
    /// Joined to this local service.
    Connect(String),
    /// Joined to the first client here.
    Listen(String),
}

/// How a command gets the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passing {
    /// As standard input and output.
    Inetd,
    /// As descriptor 3.
    Descriptor3,
}
