//! What the server has done since it started.

use crate::rendezvous::{Reaction, Refusal};

/// Counters that only grow, but for the last three.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections accepted.
    pub connections: u64,
    /// Connections that were one too many.
    pub turned_away: u64,
    /// Requests of any kind.
    pub requests: u64,
    /// STUN messages answered.
    pub stun: u64,
    /// Pairs that met.
    pub meetings: u64,
    /// Calls passed on.
    pub calls: u64,
    /// Bytes passed from peer to peer.
    pub relayed_bytes: u64,
    /// Connections ended because their time was over.
    pub timeouts: u64,
    /// Probes by what came of them, in the order of [`Counts::REACTIONS`].
    pub probes: [u64; 5],
    /// Refusals by reason, in the order of [`Counts::REFUSALS`].
    pub refusals: [u64; 10],
    /// Connections open now.
    pub open: u64,
    /// Peers that wait now.
    pub waiting: u64,
    /// Names under which somebody listens now.
    pub listening: u64,
}

impl Counts {
    /// Names for [`Counts::probes`].
    pub const REACTIONS: [(Reaction, &'static str); 5] = [
        (Reaction::Answered, "answered"),
        (Reaction::Reset, "reset"),
        (Reaction::Unreachable, "unreachable"),
        (Reaction::Silent, "silent"),
        (Reaction::NotSent, "not_sent"),
    ];

    /// Names for [`Counts::refusals`].
    pub const REFUSALS: [(Refusal, &'static str); 10] = [
        (Refusal::Occupied, "occupied"),
        (Refusal::NoSuchPlace, "no_such_place"),
        (Refusal::NobodyThere, "nobody_there"),
        (Refusal::NotYours, "not_yours"),
        (Refusal::TooMany, "too_many"),
        (Refusal::Full, "full"),
        (Refusal::WaitedTooLong, "waited_too_long"),
        (Refusal::GoingDown, "going_down"),
        (Refusal::NotUnderstood, "not_understood"),
        (Refusal::Replaced, "replaced"),
    ];

    pub(super) fn refused(&mut self, why: Refusal) {
        let counters = Self::REFUSALS.iter().zip(&mut self.refusals);
        counters.filter(|((refusal, _), _)| *refusal == why).for_each(|(_, count)| *count += 1);
    }

    pub(super) fn probed(&mut self, what: Reaction) {
        let counters = Self::REACTIONS.iter().zip(&mut self.probes);
        counters.filter(|((reaction, _), _)| *reaction == what).for_each(|(_, count)| *count += 1);
    }
}
