//! How two peers meet: messages, codes and keys, the common clock, what they tell each other and
//! what follows from it, the server's and the client's states. Pure; imports `wire`, `nat` and
//! `punch`.

mod agreement;
mod backoff;
mod candidate;
mod clock;
mod code;
mod evidence;
mod exchange;
mod frame;
mod identity;
mod listener;
mod message;
mod noise;
mod report;
mod secrets;
mod seed;
pub mod server;
mod session;
mod shared_model;
mod told;

pub use agreement::{Agreement, AgreementError, Pair, PairKind};
pub use backoff::Backoff;
pub use candidate::{Candidate, CandidateKind};
pub use clock::{ClockEstimate, ClockExchange, ClockFilter, ServerTime, Taken};
pub use code::{Code, CodeError};
pub use evidence::{Account, Joined, NoAccount, Seen, joined};
pub use exchange::{Exchange, ExchangeError};
pub use frame::{FrameError, Frames, GREETING, MAX_FRAME, frame, greeting};
pub use identity::{Challenge, Identity, KeyError};
pub use listener::{Heard, Listener, ListenerError};
pub use message::{
    Answer, ClockShift, ClockTimes, Origin, Place, PublicKey, Reaction, Refusal, Request, Ticket,
};
pub use report::{Report, ReportError};
pub use secrets::{NotSealed, Role, Secrets};
pub use session::{Event, Purpose, Session, SessionError};
pub use shared_model::SharedModel;
pub use told::{NotTold, Told};
