//! Clients of other servers, and places that other servers keep.
//!
//! A place is kept by one server: the one whose share of the numbers it is of ([`Members`]).
//! Whoever comes to it on another server sends word there ([`Word::Come`]); once two are there
//! their servers talk to each other alone. When servers come and go places move: each server sees
//! to its own clients that wait.
//!
//! The clock of a meeting is that of the server whose client was there first. The other server
//! tells its own client by how much its clock differs ([`Answer::Shifted`]); it has measured that
//! all along, so that a meeting across servers costs no exchange more.

use super::connection::{Called, Connection, Met, Stage};
use super::members::{Change, SHARES};
use super::places::{Coming, Waiter};
use super::{
    Audience, BusMessage, ConnectionId, MAX_CALLS, MAX_OPENING, Node, Output, Seat, Server, Word,
};
use crate::rendezvous::{Answer, ClockExchange, ClockShift, Place, PublicKey, Refusal};
use std::time::Duration;

/// Other servers have so long to say whether somebody listens there. All say no long before; one
/// that has just died does not.
const SEEKING: Duration = Duration::from_secs(1);

/// One who waits at a place that another server keeps.
#[derive(Debug)]
pub(super) struct Away {
    pub(super) keeper: Node,
    /// To say again if the place moves.
    pub(super) opening: Vec<u8>,
}

impl Server {
    /// The bus is there. Until [`Server::is_joined`] nobody gets a number.
    pub fn join_bus(&mut self, now: Duration) {
        let change = self.members.join(now);
        self.apply(change, now);
    }

    /// The bus is gone. Meetings on this server go on.
    pub fn lose_bus(&mut self, now: Duration) {
        let change = self.members.part();
        self.apply(change, now);
    }

    /// Whether this server has a share of the numbers.
    pub fn is_joined(&self) -> bool {
        self.members.share().is_some()
    }

    /// Whether it cannot have one, because so many servers are joined already.
    pub fn has_no_room(&self) -> bool {
        self.members.is_full()
    }

    /// Its name on the bus.
    pub fn node(&self) -> Node {
        self.members.us()
    }

    /// How many other servers it knows of.
    pub fn others(&self) -> usize {
        self.members.others().count()
    }

    /// What came of [`Output::AskClock`].
    pub fn measured(&mut self, node: Node, exchange: ClockExchange, now: Duration) {
        if self.members.measured(node, exchange, now) {
            self.outputs.push_back(Output::AskClock(node));
        }
    }

    /// Another server says something.
    pub fn handle_bus(&mut self, message: BusMessage, now: Duration) {
        let BusMessage { from, word } = message;
        if from == self.members.us() || self.members.is_alone() {
            return;
        }
        if !self.members.knows(from) && !matches!(word, Word::Alive { .. } | Word::Gone) {
            let change = self.members.alive(from, (None, false), false, now);
            self.apply(change, now);
        }
        let seat = |id| Seat { node: from, id };
        match word {
            Word::Alive { share, firm, asks } => {
                let change = self.members.alive(from, (share, firm), asks, now);
                self.apply(change, now);
            }
            Word::Gone => {
                let change = self.members.gone(from);
                self.apply(change, now);
            }
            // Clocks are answered where they are read.
            Word::AskClock(_) | Word::Clock(_) => {}
            Word::Come { place, who, opening } => self.come(place, seat(who), opening, now),
            Word::Leave { place, who } => {
                self.places.leave(place, seat(who), now);
            }
            Word::Refused { who, why } => {
                if self.away.get(&who).is_some_and(|away| away.keeper == from) {
                    self.away.remove(&who);
                    self.refuse(who, why, now);
                }
            }
            Word::Found { who, peer, opening, told } => {
                self.found(from, who, Waiter { who: peer, opening }, told, now);
            }
            Word::Met { who, peer, opening } => self.met(who, peer, opening, now),
            Word::Relay { to, from, bytes } => {
                if let Some(Connection { stage: Stage::Met(met), .. }) = self.connections.get(&to)
                    && met.peer == Some(seat(from))
                {
                    self.answer(to, Answer::Relayed(bytes));
                }
            }
            Word::Left { to, from } => self.leave(to, seat(from)),
            Word::Listening(name) => {
                if let Some(before) = self.listeners.get(&name).copied() {
                    self.refuse(before, Refusal::Replaced, now);
                }
            }
            Word::Call { name, caller, ticket, opening } => {
                let word = match self.ring(name, from) {
                    Ok(listener) => {
                        self.answer(listener, Answer::Called { ticket, opening });
                        Word::Ringing { caller, listener }
                    }
                    Err(busy) => Word::NotHere { caller, busy },
                };
                self.publish(Audience::One(from), word);
            }
            Word::Ringing { caller, listener } => self.ringing(caller, seat(listener), now),
            Word::NotHere { caller, busy } => self.not_there(caller, busy, now),
            Word::CallOver { listener } => {
                if let Some(rung) = self.rung.get_mut(&(from, listener)) {
                    *rung -= 1;
                    if *rung == 0 {
                        self.rung.remove(&(from, listener));
                    }
                    self.call_is_over(listener);
                }
            }
        }
    }

    pub(super) fn seat(&self, id: ConnectionId) -> Seat {
        Seat { node: self.members.us(), id }
    }

    /// A server that is to join others has no numbers before it knows its share.
    pub(super) fn gives_numbers(&self) -> bool {
        self.members.is_alone() || self.is_joined()
    }

    pub(super) fn publish(&mut self, to: Audience, word: Word) {
        let heard = match to {
            Audience::All => !self.members.is_alone(),
            Audience::One(node) => self.members.knows(node),
        };
        if heard {
            self.outputs.push_back(Output::Publish { to, word });
        }
    }

    pub(super) fn go_abroad(
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
    pub(super) fn speak_abroad(&mut self, id: ConnectionId, place: Place, opening: &[u8]) -> bool {
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
    pub(super) fn meet_abroad(
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

    fn shift(&self, node: Node, now: Duration) -> Option<ClockShift> {
        let clock = self.members.clock(node, now)?;
        let ns = |span: Duration| u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        Some(ClockShift {
            ahead_ns: clock.offset_ns,
            bound_ns: ns(clock.bound),
            likely_ns: ns(clock.likely),
        })
    }

    /// A client of another server comes to a place of ours.
    fn come(&mut self, place: Place, seat: Seat, opening: Vec<u8>, now: Duration) {
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
    fn found(&mut self, from: Node, who: ConnectionId, peer: Waiter, told: bool, now: Duration) {
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

    fn waits(&self, id: ConnectionId) -> bool {
        let stage = self.connections.get(&id).map(|connection| &connection.stage);
        matches!(stage, Some(Stage::Waiting { .. }))
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

    /// Our client, which waits, is found.
    fn met(&mut self, who: ConnectionId, peer: Seat, opening: Vec<u8>, now: Duration) {
        match self.connections.get(&who) {
            Some(Connection { stage: Stage::Waiting { .. }, .. }) => {
                let owed = self.stop_waiting_to_meet(who, now).is_empty();
                self.introduce(who, peer, opening, owed, now);
            }
            _ => self.publish(Audience::One(peer.node), Word::Left { to: peer.id, from: who }),
        }
    }

    /// Nobody listens here under this name: perhaps elsewhere.
    pub(super) fn call_abroad(
        &mut self,
        id: ConnectionId,
        name: PublicKey,
        opening: Vec<u8>,
        now: Duration,
    ) {
        let ticket = self.ticket();
        let word = Word::Call { name, caller: id, ticket, opening: opening.clone() };
        self.places.open(ticket, Waiter { who: self.seat(id), opening });
        let called = Called::Sought(self.others(), Refusal::NobodyThere);
        self.wait(id, Place::Ticket(ticket), Some(called), now + SEEKING);
        self.publish(Audience::All, word);
    }

    /// Another server has a call for one of ours; else whether it has too many already.
    fn ring(&mut self, name: PublicKey, from: Node) -> Result<ConnectionId, bool> {
        let listener = self.listeners.get(&name).copied().ok_or(false)?;
        match self.connections.get_mut(&listener) {
            Some(Connection { stage: Stage::Listening { calls, .. }, .. })
                if *calls < MAX_CALLS =>
            {
                *calls += 1;
                *self.rung.entry((from, listener)).or_default() += 1;
                Ok(listener)
            }
            _ => Err(true),
        }
    }

    fn ringing(&mut self, caller: ConnectionId, listener: Seat, now: Duration) {
        match self.connections.get_mut(&caller) {
            Some(Connection { stage: Stage::Waiting { called: Some(called), .. }, .. })
                if matches!(called, Called::Sought(..)) =>
            {
                *called = Called::Told(listener);
                self.counts.calls += 1;
                self.set_deadline(caller, Some(now + self.limits.calling));
            }
            _ => {
                let word = Word::CallOver { listener: listener.id };
                self.publish(Audience::One(listener.node), word);
            }
        }
    }

    fn not_there(&mut self, caller: ConnectionId, busy: bool, now: Duration) {
        if let Some(Connection { stage: Stage::Waiting { called: Some(called), .. }, .. }) =
            self.connections.get_mut(&caller)
            && let Called::Sought(left, why) = called
        {
            *left = left.saturating_sub(1);
            if busy {
                *why = Refusal::TooMany;
            }
            if *left == 0 {
                let why = *why;
                self.refuse(caller, why, now);
            }
        }
    }

    pub(super) fn apply(&mut self, change: Change, now: Duration) {
        let (share, firm) = self.members.claim();
        if let Some(asks) = change.announce {
            self.publish(Audience::All, Word::Alive { share, firm, asks });
        }
        if let Some((node, asks)) = change.reply {
            self.publish(Audience::One(node), Word::Alive { share, firm, asks });
        }
        self.outputs.extend(change.ask_clock.into_iter().map(Output::AskClock));
        for node in change.gone {
            self.bury(node, now);
        }
        if let Some(node) = change.anew {
            self.bury(node, now);
            self.come_again(node);
        }
        if change.moved {
            if let Some(share) = self.members.share() {
                self.places.give_out(share, SHARES);
            }
            self.move_places(now);
        }
    }

    /// A server is there no more: nobody waits for it or its clients.
    fn bury(&mut self, node: Node, now: Duration) {
        self.places.forget(|_, it| it == node, now);
        let rung: Vec<_> = self.rung.extract_if(|(caller, _), _| *caller == node).collect();
        for ((_, listener), calls) in rung {
            (0..calls).for_each(|_| self.call_is_over(listener));
        }
        let mut left = Vec::new();
        let mut refused = Vec::new();
        for (id, connection) in &self.connections {
            match connection.stage {
                Stage::Met(Met { peer: Some(peer), .. }) if peer.node == node => {
                    left.push((*id, peer));
                }
                Stage::Waiting { called: Some(Called::Told(listener)), .. }
                    if listener.node == node =>
                {
                    refused.push((*id, Refusal::NobodyThere));
                }
                Stage::Waiting { place: Place::Ticket(_), .. }
                    if self.away.get(id).is_some_and(|away| away.keeper == node) =>
                {
                    refused.push((*id, Refusal::NoSuchPlace));
                }
                _ => {}
            }
        }
        left.sort_unstable();
        for (id, peer) in left {
            self.leave(id, peer);
        }
        refused.sort_unstable_by_key(|(id, _)| *id);
        for (id, why) in refused {
            self.refuse(id, why, now);
        }
    }

    /// Sends our clients again who wait at places that `keeper` keeps: it knows nothing of them.
    fn come_again(&mut self, keeper: Node) {
        let mut waiting: Vec<_> = self.away.iter().filter(|(_, it)| it.keeper == keeper).collect();
        waiting.sort_unstable_by_key(|(id, _)| **id);
        let words: Vec<_> = waiting
            .into_iter()
            .filter_map(|(id, away)| match self.connections.get(id)?.stage {
                Stage::Waiting { place, .. } => {
                    Some(Word::Come { place, who: *id, opening: away.opening.clone() })
                }
                _ => None,
            })
            .collect();
        for word in words {
            self.publish(Audience::One(keeper), word);
        }
    }

    /// Has our clients wait where their places are kept now.
    fn move_places(&mut self, now: Duration) {
        let waiting = self.connections.iter().filter_map(|(id, it)| match it.stage {
            Stage::Waiting { place: Place::Number(number), .. } => Some((*id, number)),
            _ => None,
        });
        let mut waiting: Vec<_> = waiting.collect();
        waiting.sort_unstable();
        for (id, number) in waiting {
            let place = Place::Number(number);
            let keeper = self.members.keeper(place);
            let before = self.away.get(&id).map(|away| away.keeper);
            if keeper == before {
                continue;
            }
            let opening = match before {
                Some(before) => {
                    self.publish(Audience::One(before), Word::Leave { place, who: id });
                    self.away.remove(&id).map(|away| away.opening)
                }
                None => self.places.leave(place, self.seat(id), now),
            };
            // Else it has met somebody just now.
            let Some(opening) = opening else { continue };
            match keeper {
                Some(keeper) => self.go_abroad(id, keeper, place, opening),
                None => self.come_home(id, place, opening, now),
            }
        }
    }

    /// The place of one of ours that waits is kept by us now.
    fn come_home(&mut self, id: ConnectionId, place: Place, opening: Vec<u8>, now: Duration) {
        match self.places.come(place, self.seat(id), &opening, now) {
            Coming::Waits => {}
            Coming::Meets(waiter) => {
                if let Some(connection) = self.connections.get_mut(&id) {
                    connection.stage = Stage::Greeted;
                }
                self.stop_waiting(id);
                self.meet(id, opening, waiter, now);
            }
            Coming::Occupied | Coming::Unknown => self.refuse(id, Refusal::Occupied, now),
        }
    }
}

#[cfg(test)]
mod tests;
