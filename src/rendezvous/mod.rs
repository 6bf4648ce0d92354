//! How two peers meet: messages, codes and keys, the common clock, what they tell each other and
//! what follows from it, the server's and the client's states. Pure; imports `wire`, `nat` and
//! `punch`.

mod code;
mod exchange;
mod frame;
mod identity;
mod message;
mod noise;
mod secrets;
mod seed;
pub mod server;

pub use code::{Code, CodeError};
pub use exchange::{Exchange, ExchangeError};
pub use frame::{FrameError, Frames, GREETING, MAX_FRAME, frame, greeting};
pub use identity::{Challenge, Identity, KeyError};
pub use message::{
    Answer, ClockTimes, Origin, Place, PublicKey, Reaction, Refusal, Request, Ticket,
};
pub use secrets::{NotSealed, Role, Secrets};
