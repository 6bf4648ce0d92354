//! How the program ends: its exit status, and the two lines that go with every failure.

use std::fmt;
use std::process::ExitCode;

/// The documented exit statuses. With a command, the command's own status is returned instead,
/// 128+n for a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// What was asked for is done.
    Done = 0,
    /// This program or this host failed in a way that no other status names.
    Internal = 1,
    /// The command line, or a file that it names, is wrong.
    Usage = 2,
    /// A capability is missing.
    Privilege = 3,
    /// The rendezvous server could not be used.
    Rendezvous = 4,
    /// The punch cannot succeed; said before trying.
    Impossible = 5,
    /// Nobody completed the handshake in time.
    TimedOut = 6,
    /// Only resets came, or somebody who is not the peer.
    Refused = 7,
    /// The connection stood but could not be handed over.
    HandOver = 8,
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        Self::from(status as u8)
    }
}

/// Why the program stops, in two lines: what happened, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The exit status.
    pub status: Status,
    /// What happened, one line without a full stop.
    pub happened: String,
    /// What to do about it, one line without a full stop.
    pub todo: String,
}

impl Failure {
    /// A failure with `status`.
    pub fn new(status: Status, happened: impl fmt::Display, todo: impl fmt::Display) -> Self {
        Self { status, happened: happened.to_string(), todo: todo.to_string() }
    }

    /// The command line, or a file that it names, is wrong.
    pub fn usage(happened: impl fmt::Display, todo: impl fmt::Display) -> Self {
        Self::new(Status::Usage, happened, todo)
    }
}

/// Exactly two lines. Control characters are escaped: much of the text quotes what somebody typed
/// or sent, and it must neither add lines nor drive the terminal.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tcp-punch: {}\n  {}", one_line(&self.happened), one_line(&self.todo))
    }
}

/// `text` with its control characters escaped.
pub fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_two_lines_whatever_it_quotes() {
        let failure = Failure::usage("\"a\nb\x1b[2J\" is no address", "write ADDRESS:PORT");
        assert_eq!(
            failure.to_string(),
            "tcp-punch: \"a\\nb\\u{1b}[2J\" is no address\n  write ADDRESS:PORT"
        );
    }
}
