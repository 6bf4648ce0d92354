//! How two peers meet: messages, codes and keys, the common clock, what they tell each other and
//! what follows from it, the server's and the client's states. Pure; imports `wire`, `nat` and
//! `punch`.

mod frame;
mod message;
pub mod server;

pub use frame::{FrameError, Frames, GREETING, MAX_FRAME, frame, greeting};
pub use message::{
    Answer, ClockTimes, Origin, Place, PublicKey, Reaction, Refusal, Request, Ticket,
};
