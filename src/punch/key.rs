//! The shared secret and the initial sequence numbers that follow from it.

use crate::wire::{Seq, WallTime};
use std::fmt;
use std::time::Duration;

/// 32 secret bytes that both ends hold.
///
/// Both ends derive the same initial sequence number, for either direction: neither knows its own
/// external address here, so nothing that both know tells them apart. An attacker off the path
/// must guess 32 bits; one on the path sees every number anyway.
#[derive(Clone, PartialEq, Eq)]
pub struct Key([u8; 32]);

/// How long one sequence number serves. It bounds what an old capture is worth, and both ends'
/// instants may differ by as much.
const EPOCH: Duration = Duration::from_secs(60);

/// Clocks that are further apart make a punch too late anyhow.
const NEAR: Duration = Duration::from_secs(5);

impl Key {
    /// From 32 bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The initial sequence number of an attempt at this instant.
    pub fn iss(&self, at: WallTime) -> Seq {
        self.iss_of_epoch(epoch(at))
    }

    /// The peer's possible initial sequence numbers, the likeliest first: its instant may lie in
    /// the minute before or after ours, the nearer of them rather.
    pub fn expected_irs(&self, at: WallTime) -> [Seq; 3] {
        let now = epoch(at);
        let (before, after) = (now.saturating_sub(1), now.saturating_add(1));
        let is_early = at.since_epoch().as_secs() % EPOCH.as_secs() < EPOCH.as_secs() / 2;
        let epochs = if is_early { [now, before, after] } else { [now, after, before] };
        epochs.map(|epoch| self.iss_of_epoch(epoch))
    }

    /// Whether another minute than the instant's is near enough for a peer whose clock is some
    /// seconds off.
    pub(super) fn is_near_another_minute(at: WallTime) -> bool {
        let into = at.since_epoch().as_secs() % EPOCH.as_secs();
        into < NEAR.as_secs() || into >= EPOCH.as_secs() - NEAR.as_secs()
    }

    fn iss_of_epoch(&self, epoch: u64) -> Seq {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(b"tcp-punch initial sequence number");
        hasher.update(&epoch.to_be_bytes());
        let mut number = [0; 4];
        hasher.finalize_xof().fill(&mut number);
        Seq(u32::from_be_bytes(number))
    }
}

fn epoch(at: WallTime) -> u64 {
    at.since_epoch().as_secs() / EPOCH.as_secs()
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(secret)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> WallTime {
        WallTime::from_unix_ns(seconds * 1_000_000_000)
    }

    #[test]
    fn ends_whose_instants_lie_a_minute_apart_still_know_each_other() {
        let key = Key::from_bytes([7; 32]);
        assert!(key.expected_irs(at(6_000_000_059)).contains(&key.iss(at(6_000_000_060))));
        assert!(key.expected_irs(at(6_000_000_060)).contains(&key.iss(at(6_000_000_059))));
        assert!(!key.expected_irs(at(6_000_000_000)).contains(&key.iss(at(6_000_000_180))));
    }

    #[test]
    fn the_nearer_minute_is_the_likelier_one() {
        let key = Key::from_bytes([7; 32]);
        let [before, now, after] = [-60, 0, 60].map(|apart| key.iss(at(6_000_000_000 + apart)));
        assert_eq!(key.expected_irs(at(6_000_000_029)), [now, before, after]);
        assert_eq!(key.expected_irs(at(6_000_000_030)), [now, after, before]);
    }

    #[test]
    fn another_key_gives_other_numbers_and_debug_shows_none() {
        let (a, b) = (Key::from_bytes([1; 32]), Key::from_bytes([2; 32]));
        assert_ne!(a.iss(at(0)), b.iss(at(0)));
        assert_eq!(format!("{a:?}"), "Key(secret)");
    }
}
