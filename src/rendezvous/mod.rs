//! How two peers meet: messages, codes and keys, the common clock, what they tell each other and
//! what follows from it, the server's and the client's states. Pure; imports `wire`, `nat` and
//! `punch`.

mod agreement;
mod candidate;
mod clock;
mod evidence;
mod frame;
mod message;
mod report;
mod role;
mod shared_model;

pub use agreement::{Agreement, AgreementError, Pair, PairKind};
pub use candidate::{Candidate, CandidateKind};
pub use clock::{ClockEstimate, ClockExchange, ClockFilter, ServerTime, Taken};
pub use evidence::{Account, Joined, Seen, joined};
pub use frame::{FrameError, Frames, GREETING, MAX_FRAME, frame, greeting};
pub use message::{
    Answer, ClockTimes, Origin, Place, PublicKey, Reaction, Refusal, Request, Ticket,
};
pub use report::{Report, ReportError};
pub use role::Role;
pub use shared_model::SharedModel;
