//! Who says what to one server, and who hears what.

mod calls;
pub(super) mod client;
mod connections;
mod deadlines;
mod events;
mod limits;
mod meetings;
mod numbers;
mod probes;
mod world;
