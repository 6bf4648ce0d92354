//! What an attempt saw, and what it follows from that when it fails.

use super::handshake::Reaction;
use crate::wire::Segment;
use std::net::{IpAddr, SocketAddr};

/// Counts of what left and came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// SYNs and SYN-ACKs sent from the instant on, answers not counted.
    pub sent: u64,
    /// SYNs of the peer, and what serves as one.
    pub peer_syns: u64,
    /// Resets.
    pub resets: u64,
    /// Segments whose sender did not hold the key.
    pub wrong_key: u64,
    /// Whether a peer was heard that holds the key but uses another strategy.
    pub other_strategy: bool,
    /// Our own SYNs that came back.
    pub own_syns: u64,
    /// Segments of no use.
    pub stray: u64,
    /// The ports were searched.
    pub searched: bool,
    /// Who last said that the peer cannot be reached.
    pub unreachable: Option<IpAddr>,
    /// Where else at the peer's address segments came from.
    pub other_port: Option<SocketAddr>,
}

/// Why an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Somebody else is there.
    WrongKey,
    /// The peer goes about it by another strategy.
    OtherStrategy,
    /// The peer's address is this host's own.
    Ourselves,
    /// The peer's router gave it another port.
    OtherPort(SocketAddr),
    /// The peer is heard, but hears nothing.
    Unheard,
    /// Nothing but resets came.
    OnlyResets,
    /// A router says that there is no way.
    Unreachable,
    /// Nothing came at all.
    Silence,
}

impl Evidence {
    pub(super) fn count(&mut self, segment: &Segment, reaction: &Reaction) {
        match reaction {
            Reaction::WrongKey(_) => self.wrong_key += 1,
            Reaction::Reset { .. } => self.resets += 1,
            Reaction::OtherStrategy(_) => self.other_strategy = true,
            Reaction::OwnSyn(_) => self.own_syns += 1,
            Reaction::Ignored(_) => self.stray += 1,
            Reaction::Answered { .. } => self.peer_syns += 1,
            Reaction::Completed { .. } => self.peer_syns += u64::from(segment.syn),
        }
    }

    /// Takes in what another attempt of the same punch has seen.
    pub fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.peer_syns += other.peer_syns;
        self.resets += other.resets;
        self.wrong_key += other.wrong_key;
        self.other_strategy |= other.other_strategy;
        self.own_syns += other.own_syns;
        self.stray += other.stray;
        self.searched |= other.searched;
        self.unreachable = self.unreachable.or(other.unreachable);
        self.other_port = self.other_port.or(other.other_port);
    }

    /// Why the attempt failed, as far as what came in tells.
    pub fn cause(&self) -> Cause {
        if self.peer_syns > 0 {
            Cause::Unheard
        } else if self.other_strategy {
            Cause::OtherStrategy
        } else if self.wrong_key > 0 {
            Cause::WrongKey
        } else if self.own_syns > 0 {
            Cause::Ourselves
        } else if let Some(other) = self.other_port {
            Cause::OtherPort(other)
        } else if self.resets > 0 {
            Cause::OnlyResets
        } else if self.unreachable.is_some() {
            Cause::Unreachable
        } else {
            Cause::Silence
        }
    }

    /// What happened, one sentence without its full stop.
    pub fn verdict(&self) -> String {
        let Self { sent, peer_syns, resets, wrong_key, .. } = self;
        match self.cause() {
            Cause::WrongKey => {
                format!("{wrong_key} segments came from somebody who does not hold the key")
            }
            Cause::OtherStrategy => "the peer is there but uses another strategy".to_owned(),
            Cause::Ourselves => {
                "our own SYN came back: the peer's address is this host's own".to_owned()
            }
            Cause::OtherPort(other) => {
                format!("the peer's SYNs come from {other}: its router maps ports otherwise")
            }
            Cause::Unheard => {
                format!("{peer_syns} SYNs of the peer came in, but it took none of our answers")
            }
            Cause::OnlyResets => {
                format!("{sent} SYNs left, and {resets} resets came back, but nothing of the peer")
            }
            Cause::Unreachable => {
                let who = self.unreachable.map_or_else(String::new, |from| format!(" by {from}"));
                format!("{sent} SYNs left and were called undeliverable{who}")
            }
            Cause::Silence => format!("{sent} SYNs left and nothing came back"),
        }
    }

    /// What to do, one sentence without its full stop.
    pub fn advice(&self) -> String {
        let advice = match self.cause() {
            Cause::OtherPort(other) => return format!("try again with --peer {other}"),
            Cause::WrongKey => {
                "give both sides the same key, and instants less than a minute apart"
            }
            Cause::OtherStrategy => "give both sides the same --strategy, or none",
            Cause::Ourselves => "give the peer's public address, not your own",
            Cause::Unheard => {
                "something drops segments on the way to the peer: let it check its firewall, and its opener (--opener auto)"
            }
            Cause::Silence | Cause::OnlyResets if self.searched => {
                "check that both sides search for the same instant with the same budget, and that each gave its own model as the other one's --peer-model; where routers let no SYN in, give both a key and try --strategy mid-stream"
            }
            Cause::OnlyResets => {
                "no mapping of the peer was open: start both sides for the same instant and check the peer's address and port; if a connection was cut off before, choose another port: a router may hold on to it"
            }
            Cause::Unreachable => "check the peer's address, and the route to it",
            Cause::Silence => {
                "check that the peer runs for the same instant, and its address and port as seen from outside; its router may map ports otherwise"
            }
        };
        advice.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_is_the_strongest_thing_seen() {
        let mut seen = Evidence { sent: 5, ..Evidence::default() };
        assert_eq!(seen.cause(), Cause::Silence);
        seen.unreachable = Some([192, 0, 2, 1].into());
        assert_eq!(seen.cause(), Cause::Unreachable);
        assert_eq!(seen.verdict(), "5 SYNs left and were called undeliverable by 192.0.2.1");
        seen.resets = 3;
        assert_eq!(seen.cause(), Cause::OnlyResets);
        seen.wrong_key = 1;
        assert_eq!(seen.cause(), Cause::WrongKey);
        seen.other_strategy = true;
        assert_eq!(seen.cause(), Cause::OtherStrategy);
        seen.peer_syns = 1;
        assert_eq!(seen.cause(), Cause::Unheard);
    }
}
