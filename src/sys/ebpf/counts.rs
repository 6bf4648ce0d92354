//! What the programs have done, verdict by verdict.

use serde::{Deserialize, Serialize};

/// How many packets met which verdict. The counters that say what became of a packet overlap those
/// that say what it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Shown to the engine.
    pub copied: u64,
    /// Kept from this host's firewall and TCP.
    pub stolen: u64,
    /// Left to the socket that is installed for their tuple, and shown to the engine.
    pub let_in: u64,
    /// Of a tuple that was handed over: left alone.
    pub released: u64,
    /// SYNs answered in the kernel.
    pub answered: u64,
    /// Resets that came in.
    pub resets: u64,
    /// Resets of this host's that were kept from leaving.
    pub resets_held_back: u64,
    /// SYNs and SYN-ACKs of somebody without the key.
    pub foreign: u64,
    /// Our own SYNs, come back.
    pub own: u64,
    /// ICMP messages shown to the engine.
    pub icmp: u64,
    /// Fragments between the two addresses: left alone.
    pub fragments: u64,
    /// Cut off in a header, or shorter than they say: left alone.
    pub truncated: u64,
    /// Of a VLAN, and so of another network: left alone.
    pub vlan: u64,
    /// Shown to the engine without their end, being larger than 16 KiB.
    pub cut: u64,
    /// Not shown to the engine, because it had not taken what came before.
    pub lost: u64,
}

impl Counts {
    /// In the order of `enum count` in `ebpf/abi.h`.
    pub(super) fn from_counters(counter: impl Fn(u32) -> u64) -> Self {
        let mut numbers = 0..;
        let mut next = || numbers.next().map_or(0, &counter);
        Self {
            copied: next(),
            stolen: next(),
            let_in: next(),
            released: next(),
            answered: next(),
            resets: next(),
            resets_held_back: next(),
            foreign: next(),
            own: next(),
            icmp: next(),
            fragments: next(),
            truncated: next(),
            vlan: next(),
            cut: next(),
            lost: next(),
        }
    }
}
