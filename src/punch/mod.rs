//! One attempt, decided without clock, socket or randomness. Pure; imports `wire` and `nat`.

mod key;

pub use key::Key;
