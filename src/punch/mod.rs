//! One attempt, decided without clock, socket or randomness. Pure; imports `wire` and `nat`.

mod attempt;
mod evidence;
mod exchange;
mod handshake;
mod key;
mod mid_stream;
mod offer;
mod plan;
mod race;
#[cfg(test)]
mod sample;
mod search;
mod strategy;
mod tcb;

pub use attempt::{Attempt, AttemptConfig, Opener, Purpose, tsval};
pub use evidence::{Cause, Evidence};
pub use handshake::{Handshake, Reaction};
pub use key::Key;
pub use mid_stream::MidStream;
pub use offer::Offer;
pub use plan::{Budget, BudgetError, End, Plan, PlanError, Sources};
pub use race::{Output, Race, RaceConfig, Reserve, SECOND_INSTANT};
pub use search::{Batch, Search, SearchConfig, Wave};
pub use strategy::{First, Strategies, Strategy, StrategyError, Traits};
pub use tcb::{Agreed, EstablishedTcb, WindowScale};
