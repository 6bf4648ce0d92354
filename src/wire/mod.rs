//! Bytes and values: what travels, and the names of its parts. Pure; imports no other room.

mod icmp;
mod nonsense;
mod pcapng;
mod segment;
mod seq;
pub mod stun;
mod template;
mod time;
mod tuple;

pub use icmp::{Icmp, IcmpKind, Quote, echo_request};
pub use nonsense::{Nonsense, Scope};
pub use pcapng::PacketLog;
pub use segment::{DEFAULT_HOP_LIMIT, NotASegment, Options, Segment};
pub use seq::Seq;
pub use template::Template;
pub use time::WallTime;
pub use tuple::Tuple;
