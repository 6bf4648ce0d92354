//! One attempt, decided without clock, socket or randomness. Pure; imports `wire` and `nat`.

mod attempt;
mod evidence;
mod handshake;
mod key;
mod pace;
#[cfg(test)]
mod sample;
mod tcb;

pub use attempt::{Attempt, AttemptConfig, Opener, Output, Purpose, tsval};
pub use evidence::{Cause, Evidence};
pub use handshake::{Handshake, Offer, Reaction};
pub use key::Key;
pub use pace::Pace;
pub use tcb::{Agreed, EstablishedTcb, WindowScale};
