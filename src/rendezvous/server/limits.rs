//! How much the server does for one address and for all, and how long it waits.

use std::time::Duration;

/// Bounds of everything that grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// For one address, or one /64 of IPv6.
    pub address: AddressLimits,
    /// Connections open at once.
    pub connections: usize,
    /// Until the first whole message, and for the rest of any message that has begun.
    pub unfinished: Duration,
    /// Without a request from a connection that neither waits nor listens.
    pub idle: Duration,
    /// How long anybody waits at a place.
    pub waiting: Duration,
    /// How long a caller waits for the one who listens to come.
    pub calling: Duration,
    /// How long a number is not given out again after it was used.
    pub resting: Duration,
}

/// Bounds for one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressLimits {
    /// Connections open at once.
    pub connections: u32,
    /// Places where it waits at once, and names under which it listens.
    pub waiting: u32,
    /// Places it goes to and calls it makes, a minute.
    pub meetings: u32,
    /// Probes it asks for, a minute.
    pub probes: u32,
    /// Requests of any kind, a second.
    pub requests: u32,
}

/// The longest opening: message 1 of Noise IK with a payload has about a hundred bytes, a SPAKE2
/// message 33. A hundred thousand who wait hold one each.
pub const MAX_OPENING: usize = 512;
/// What one peer may send to the other by way of the server: reports, proofs and evidence, a few
/// kilobytes. This is no relay.
pub const MAX_RELAYED_BYTES: u32 = 64 << 10;
/// Likewise, in messages.
pub const MAX_RELAYED_MESSAGES: u16 = 64;
/// Calls that one listener has been told of and has not come to.
pub const MAX_CALLS: u16 = 64;

impl Default for AddressLimits {
    /// A company behind one address, each of whose people opens a dozen connections to meet.
    fn default() -> Self {
        Self { connections: 512, waiting: 64, meetings: 120, probes: 240, requests: 1000 }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            address: AddressLimits::default(),
            connections: 120_000,
            unfinished: Duration::from_secs(10),
            // Longer than any punch and any survey.
            idle: Duration::from_secs(180),
            waiting: Duration::from_secs(3600),
            // One round trip to the listener and one back; half a minute covers lost packets.
            calling: Duration::from_secs(30),
            resting: Duration::from_secs(60),
        }
    }
}
