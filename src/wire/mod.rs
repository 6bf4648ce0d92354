//! Bytes and values: what travels, and the names of its parts. Pure; imports no other room.

mod time;
mod tuple;

pub use time::WallTime;
pub use tuple::Tuple;
