//! Which of two peers decides.

use std::fmt;

/// The part of an end in a meeting. Both ends know both parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Nominates the connection that is kept.
    Controlling,
    /// Takes the connection that the other end nominates.
    Controlled,
}

impl Role {
    /// The other end's.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Controlling => Self::Controlled,
            Self::Controlled => Self::Controlling,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Controlling => "controlling",
            Self::Controlled => "controlled",
        })
    }
}
