//! Meetings with clients of other servers.

use super::Away;
use crate::rendezvous::server::connection::{Connection, Stage};
use crate::rendezvous::server::places::{Coming, Waiter};
use crate::rendezvous::server::{Audience, ConnectionId, MAX_OPENING, Node, Seat, Server, Word};
use crate::rendezvous::{Answer, ClockShift, Place, Refusal};
use std::time::Duration;

impl Server {
    pub(in crate::rendezvous::server) fn go_abroad(
        &mut self,
        id: ConnectionId,
        keeper: Node,
        place: Place,
        opening: Vec<u8>,
    ) {
        self.away.insert(id, Away { keeper, opening: opening.clone() });
        self.publish(Audience::One(keeper), Word::Come { place, who: id, opening });
    }

    /// Gives the opening of one who was given a number that another server keeps meanwhile.
    pub(in crate::rendezvous::server) fn speak_abroad(
        &mut self,
        id: ConnectionId,
        place: Place,
        opening: &[u8],
    ) -> bool {
        let waits = matches!(
            self.connections.get(&id),
            Some(Connection { stage: Stage::Waiting { place: at, .. }, .. }) if *at == place
        );
        match self.away.get(&id) {
            Some(away) if waits && away.opening.is_empty() => {
                let keeper = away.keeper;
                self.go_abroad(id, keeper, place, opening.to_vec());
                true
            }
            _ => false,
        }
    }

    /// The one whom `id` finds is a client of another server.
    pub(in crate::rendezvous::server) fn meet_abroad(
        &mut self,
        id: ConnectionId,
        opening: Vec<u8>,
        waiter: Waiter,
        now: Duration,
    ) {
        let word = Word::Met { who: waiter.who.id, peer: self.seat(id), opening };
        self.publish(Audience::One(waiter.who.node), word);
        self.counts.meetings += 1;
        self.introduce_abroad(id, waiter, now);
    }

    /// A client of another server comes to a place of ours.
    pub(super) fn come(&mut self, place: Place, seat: Seat, opening: Vec<u8>, now: Duration) {
        if opening.len() > MAX_OPENING
            || self.places.speak(place, seat, &opening)
            || self.places.has(place, seat)
        {
            return;
        }
        let word = match self.places.come(place, seat, &opening, now) {
            Coming::Waits => return,
            Coming::Occupied => Word::Refused { who: seat.id, why: Refusal::Occupied },
            Coming::Unknown => Word::Refused { who: seat.id, why: Refusal::NoSuchPlace },
            Coming::Meets(waiter) => {
                let told = waiter.who.node == self.members.us();
                if told {
                    self.stop_waiting_to_meet(waiter.who.id, now);
                    let owed = waiter.opening.is_empty();
                    self.introduce(waiter.who.id, seat, opening, owed, now);
                }
                Word::Found { who: seat.id, peer: waiter.who, opening: waiter.opening, told }
            }
        };
        self.publish(Audience::One(seat.node), word);
    }

    /// Our client finds somebody at a place that another server keeps, or kept when it came there.
    pub(super) fn found(
        &mut self,
        from: Node,
        who: ConnectionId,
        peer: Waiter,
        told: bool,
        now: Duration,
    ) {
        if !self.waits(who) {
            return self.missed(who, peer.who, told, now);
        }
        let opening = if self.away.get(&who).is_some_and(|away| away.keeper == from) {
            self.away.remove(&who).map(|away| away.opening).unwrap_or_default()
        } else {
            // It has moved meanwhile: where it is now nobody shall find it any more.
            self.withdraw(who, now)
        };
        if let Some(connection) = self.connections.get_mut(&who) {
            connection.stage = Stage::Greeted;
        }
        self.stop_waiting(who);
        if told {
            self.counts.meetings += 1;
            self.introduce_abroad(who, peer, now);
        } else if peer.who.node == self.members.us() && !self.waits(peer.who.id) {
            // One of ours as well, which has gone since the keeper of the place said so.
            let gone = peer.who;
            self.introduce(who, gone, peer.opening, false, now);
            self.leave(who, gone);
        } else {
            self.meet(who, opening, peer, now);
        }
    }

    /// Our client, which waits, is found.
    pub(super) fn met(&mut self, who: ConnectionId, peer: Seat, opening: Vec<u8>, now: Duration) {
        match self.connections.get(&who) {
            Some(Connection { stage: Stage::Waiting { .. }, .. }) => {
                let owed = self.stop_waiting_to_meet(who, now).is_empty();
                self.introduce(who, peer, opening, owed, now);
            }
            _ => self.publish(Audience::One(peer.node), Word::Left { to: peer.id, from: who }),
        }
    }

    /// One has something to say to its peer, which is ours.
    pub(super) fn relayed(&mut self, to: ConnectionId, from: Seat, bytes: Vec<u8>) {
        if let Some(Connection { stage: Stage::Met(met), .. }) = self.connections.get(&to)
            && met.peer == Some(from)
        {
            self.answer(to, Answer::Relayed(bytes));
        }
    }

    /// Our client has gone before it was found, or moved: its peer takes leave of it.
    fn missed(&mut self, who: ConnectionId, peer: Seat, told: bool, now: Duration) {
        let us = self.seat(who);
        if peer.node == us.node {
            self.met(peer.id, us, Vec::new(), now);
            return self.leave(peer.id, us);
        }
        if !told {
            let word = Word::Met { who: peer.id, peer: us, opening: Vec::new() };
            self.publish(Audience::One(peer.node), word);
        }
        self.publish(Audience::One(peer.node), Word::Left { to: peer.id, from: who });
    }

    fn waits(&self, id: ConnectionId) -> bool {
        let stage = self.connections.get(&id).map(|connection| &connection.stage);
        matches!(stage, Some(Stage::Waiting { .. }))
    }

    /// With the difference of the clocks first.
    fn introduce_abroad(&mut self, id: ConnectionId, peer: Waiter, now: Duration) {
        match self.shift(peer.who.node, now) {
            Some(shift) => {
                self.answer(id, Answer::Shifted(shift));
                self.introduce(id, peer.who, peer.opening, false, now);
            }
            // It has come this very moment. Without a common clock a meeting is of no use.
            None => {
                let word = Word::Left { to: peer.who.id, from: id };
                self.publish(Audience::One(peer.who.node), word);
                self.refuse(id, Refusal::Full, now);
            }
        }
    }

    /// How far that server's clock, the meeting's, is ahead of ours.
    fn shift(&self, node: Node, now: Duration) -> Option<ClockShift> {
        let clock = self.members.clock(node, now)?;
        let ns = |span: Duration| u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        Some(ClockShift {
            ahead_ns: clock.offset_ns,
            bound_ns: ns(clock.bound),
            likely_ns: ns(clock.likely),
        })
    }
}
