//! The servers that are joined: who is there, which numbers each gives out, and how their clocks
//! stand to ours.

use super::bus::Node;
use crate::rendezvous::{ClockEstimate, ClockExchange, ClockFilter, Place};
use crate::wire::WallTime;
use std::collections::BTreeMap;
use std::time::Duration;

/// So many servers can be joined: each gives out the numbers that leave its share as the
/// remainder. More would make codes longer for everybody.
pub const SHARES: u16 = 256;

/// How often a server says that it is there.
const BEAT: Duration = Duration::from_secs(1);
/// Three beats missed, and some delay: it has died.
const DEAD: Duration = Duration::from_millis(3500);
/// Others have so long to answer, and so long to object to a share. Across a continent an answer
/// takes 0.1 s.
const HEARING: Duration = Duration::from_millis(300);
/// So many exchanges of clocks in a row: the least delayed of them is hardly delayed at all.
const BURST: usize = 8;
/// And then one at a time, to follow the drift.
const REPEAT: Duration = Duration::from_secs(5);

#[derive(Debug)]
struct Member {
    share: Option<u8>,
    firm: bool,
    heard: Duration,
    clock: ClockFilter,
    /// When the last exchange came back, by our clock and since the server started.
    measured: Option<(WallTime, Duration)>,
}

/// Where we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Alone, without a bus.
    Alone,
    /// Hears who is there, until then.
    Hears(Duration),
    /// Has taken a share, to which others may object until then.
    Claims(u8, Duration),
    /// The share is ours.
    Holds(u8),
    /// Every share is taken.
    Full,
}

/// All servers.
#[derive(Debug)]
pub(super) struct Members {
    us: Node,
    standing: Standing,
    beat: Duration,
    others: BTreeMap<Node, Member>,
}

/// What changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    /// Say to all that we are there, and whether we know nobody.
    pub(super) announce: Option<bool>,
    /// Say it to this one, and whether we knew nothing of it.
    pub(super) reply: Option<(Node, bool)>,
    /// This one has forgotten us, and all that we told it.
    pub(super) anew: Option<Node>,
    /// Ask it for its clock.
    pub(super) ask_clock: Vec<Node>,
    /// Places are kept elsewhere now.
    pub(super) moved: bool,
    /// They are there no more.
    pub(super) gone: Vec<Node>,
}

impl Members {
    pub(super) fn new(us: Node) -> Self {
        Self { us, standing: Standing::Alone, beat: Duration::ZERO, others: BTreeMap::new() }
    }

    pub(super) fn us(&self) -> Node {
        self.us
    }

    pub(super) fn is_alone(&self) -> bool {
        self.standing == Standing::Alone
    }

    pub(super) fn is_full(&self) -> bool {
        self.standing == Standing::Full
    }

    /// The numbers that are ours to give out.
    pub(super) fn share(&self) -> Option<u8> {
        match self.standing {
            Standing::Holds(share) => Some(share),
            _ => None,
        }
    }

    /// Every other server.
    pub(super) fn others(&self) -> impl Iterator<Item = Node> + '_ {
        self.others.keys().copied()
    }

    pub(super) fn knows(&self, node: Node) -> bool {
        self.others.contains_key(&node)
    }

    /// What [`super::bus::Word::Alive`] says.
    pub(super) fn claim(&self) -> (Option<u8>, bool) {
        match self.standing {
            Standing::Claims(share, _) => (Some(share), false),
            Standing::Holds(share) => (Some(share), true),
            _ => (None, false),
        }
    }

    /// The bus is there, for the first time or again.
    pub(super) fn join(&mut self, now: Duration) -> Change {
        self.beat = now + BEAT;
        if self.share().is_none() {
            self.standing = Standing::Hears(now + HEARING);
        }
        Change { announce: Some(true), ..Change::default() }
    }

    /// The bus is gone, and everybody with it.
    pub(super) fn part(&mut self) -> Change {
        let gone: Vec<Node> = self.others().collect();
        self.others.clear();
        Change { moved: !gone.is_empty(), gone, ..Change::default() }
    }

    /// A server said that it is there.
    pub(super) fn alive(
        &mut self,
        node: Node,
        claim: (Option<u8>, bool),
        asks: bool,
        now: Duration,
    ) -> Change {
        let mut change = Change::default();
        if node == self.us {
            return change;
        }
        let (share, firm) = claim;
        let new = !self.others.contains_key(&node);
        let member = self.others.entry(node).or_insert_with(|| Member {
            share: None,
            firm: false,
            heard: now,
            clock: ClockFilter::default(),
            measured: None,
        });
        change.moved = (firm || member.firm) && (member.share, member.firm) != (share, firm);
        (member.share, member.firm, member.heard) = (share, firm, now);
        // Also when a burst was cut short; and what is known ages.
        let aged = member.measured.is_none_or(|(_, at)| at + REPEAT <= now);
        if aged || member.clock.len() < BURST {
            change.ask_clock.push(node);
        }
        if new || asks {
            change.reply = Some((node, new));
        }
        change.anew = (asks && !new).then_some(node);
        self.yield_to(node, share, firm, now, &mut change);
        change
    }

    /// Two claim one share: who holds it for good keeps it, else the lesser name.
    fn yield_to(
        &mut self,
        node: Node,
        share: Option<u8>,
        firm: bool,
        now: Duration,
        change: &mut Change,
    ) {
        let (Some(theirs), (Some(ours), ours_firm)) = (share, self.claim()) else { return };
        if theirs != ours {
            return;
        }
        let wins = if firm == ours_firm { node < self.us } else { firm };
        if wins {
            change.moved |= ours_firm;
            self.standing = Standing::Hears(now);
        } else {
            change.reply = change.reply.or(Some((node, false)));
        }
    }

    pub(super) fn gone(&mut self, node: Node) -> Change {
        match self.others.remove(&node) {
            Some(member) => Change { moved: member.firm, gone: vec![node], ..Change::default() },
            None => Change::default(),
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Duration> {
        match self.standing {
            Standing::Alone => None,
            Standing::Hears(at) | Standing::Claims(_, at) => Some(at.min(self.beat)),
            Standing::Holds(_) | Standing::Full => Some(self.beat),
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Duration) -> Change {
        let mut change = Change::default();
        if self.is_alone() {
            return change;
        }
        match self.standing {
            Standing::Hears(at) if at <= now => {
                self.standing = match self.free_share() {
                    Some(share) => Standing::Claims(share, now + HEARING),
                    None => Standing::Full,
                };
                change.announce = Some(false);
            }
            Standing::Claims(share, at) if at <= now => {
                self.standing = Standing::Holds(share);
                change.announce = Some(false);
                change.moved = true;
            }
            Standing::Full if self.free_share().is_some() => self.standing = Standing::Hears(now),
            _ => {}
        }
        if self.beat <= now {
            self.beat = now + BEAT;
            change.announce = change.announce.or(Some(false));
        }
        let dead = self.others.iter().filter(|(_, member)| member.heard + DEAD <= now);
        let dead: Vec<Node> = dead.map(|(node, _)| *node).collect();
        for node in dead {
            let one = self.gone(node);
            change.moved |= one.moved;
            change.gone.extend(one.gone);
        }
        change
    }

    /// The least share that nobody has; of those who choose at the same time each takes another.
    fn free_share(&self) -> Option<u8> {
        let taken = |share: u8| self.others.values().any(|member| member.share == Some(share));
        let before =
            self.others.iter().filter(|(node, it)| it.share.is_none() && **node < self.us).count();
        let free: Vec<u8> = (0..=u8::MAX).filter(|share| !taken(*share)).collect();
        free.get(before).or(free.last()).copied()
    }

    /// Who keeps a place; `None` for us. The one whose share a number is of, else whom the number
    /// prefers: all who know of the same servers say the same.
    pub(super) fn keeper(&self, place: Place) -> Option<Node> {
        let ours = self.share();
        let share = match place {
            Place::Number(number) => number.wrapping_sub(1).to_le_bytes()[0],
            Place::Ticket(ticket) => ticket.0[0],
        };
        if ours == Some(share) {
            return None;
        }
        let firm = || self.others.iter().filter(|(_, member)| member.firm);
        if let Some((node, _)) = firm().find(|(_, member)| member.share == Some(share)) {
            return Some(*node);
        }
        let Place::Number(number) = place else { return None };
        let us = ours.map(|_| self.us);
        let all = firm().map(|(node, _)| *node).chain(us);
        all.max_by_key(|node| preference(*node, number)).filter(|node| *node != self.us)
    }

    /// An exchange of clocks came back. Whether to ask once more.
    pub(super) fn measured(&mut self, node: Node, exchange: ClockExchange, now: Duration) -> bool {
        let Some(member) = self.others.get_mut(&node) else { return false };
        member.measured = Some((exchange.returned, now));
        // A step is forgotten and measured anew.
        let _ = member.clock.push(exchange);
        member.clock.len() < BURST
    }

    /// How its clock stands to ours.
    pub(super) fn clock(&self, node: Node, now: Duration) -> Option<ClockEstimate> {
        let member = self.others.get(&node)?;
        let (wall, at) = member.measured?;
        member.clock.estimate(wall.after(now.saturating_sub(at)))
    }
}

pub(super) fn preference(node: Node, number: u32) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&node.0.to_be_bytes());
    hasher.update(&number.to_be_bytes());
    hasher.finalize().into()
}
