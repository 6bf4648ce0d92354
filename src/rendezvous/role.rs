//! Which of two peers decides.

/// Which end decides where both have to do the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Decides.
    Controlling,
    /// Follows.
    Controlled,
}

impl Role {
    /// The peer's.
    pub fn other(self) -> Self {
        match self {
            Self::Controlling => Self::Controlled,
            Self::Controlled => Self::Controlling,
        }
    }
}
