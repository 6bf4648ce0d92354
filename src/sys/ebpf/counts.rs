//! What the programs have done, verdict by verdict.

use aya::maps::{MapData, PerCpuArray};
use serde::{Deserialize, Serialize};
use std::borrow::Borrow;
use std::fmt;

/// What the map of the counters is called, in `ebpf/maps.h` and in the kernel.
pub(super) const MAP: &str = "punch_counts";

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
    /// How many counters there are.
    pub(super) const COUNT: u32 = 15;

    /// What all processors have counted together.
    pub(super) fn of(map: &PerCpuArray<impl Borrow<MapData>, u64>) -> Self {
        Self::from_counters(|counter| map.get(&counter, 0).map_or(0, |values| values.iter().sum()))
    }

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

impl fmt::Display for Counts {
    /// All that is not zero, in one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { copied, stolen, let_in, released, answered, resets, resets_held_back, .. } =
            *self;
        let Self { foreign, own, icmp, fragments, truncated, vlan, cut, lost, .. } = *self;
        let said: Vec<String> = [
            ("copied", copied),
            ("stolen", stolen),
            ("let in", let_in),
            ("released", released),
            ("answered", answered),
            ("resets", resets),
            ("resets held back", resets_held_back),
            ("foreign", foreign),
            ("own", own),
            ("icmp", icmp),
            ("fragments", fragments),
            ("truncated", truncated),
            ("vlan", vlan),
            ("cut", cut),
            ("lost", lost),
        ]
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
        match said.as_slice() {
            [] => f.write_str("nothing yet"),
            said => f.write_str(&said.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_is_said_by_its_name_but_those_that_are_zero() {
        assert_eq!(Counts::default().to_string(), "nothing yet");
        let counts =
            Counts::from_counters(|counter| u64::from(counter != 2) * (10 + u64::from(counter)));
        let fields = serde_json::to_value(counts).unwrap();
        let fields = fields.as_object().unwrap();
        assert_eq!(fields.len() as u32, Counts::COUNT);
        let said = counts.to_string();
        let said: Vec<&str> = said.split(", ").collect();
        assert_eq!(said.len() as u32, Counts::COUNT - 1);
        for (name, count) in fields.iter().filter(|(name, _)| *name != "let_in") {
            let expected = format!("{} {count}", name.replace('_', " "));
            assert!(said.contains(&expected.as_str()), "{expected}: {said:?}");
        }
    }
}
