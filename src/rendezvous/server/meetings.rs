//! Two clients that meet at a place, and what they tell each other.

use super::abroad::Away;
use super::connection::{Called, Connection, Met, Stage};
use super::places::{Coming, Waiter};
use super::{
    Audience, ConnectionId, MAX_OPENING, MAX_RELAYED_BYTES, MAX_RELAYED_MESSAGES, Seat, Server,
    Word,
};
use crate::rendezvous::{Answer, Place, Refusal};
use std::time::Duration;

impl Server {
    pub(super) fn allocate(&mut self, id: ConnectionId, now: Duration) {
        if let Err(refusal) = self.may_wait(id, &[], now) {
            return self.refuse(id, refusal, now);
        }
        let who = self.seat(id);
        let number = match self.gives_numbers() {
            true => self.places.allocate(Waiter { who, opening: Vec::new() }),
            false => None,
        };
        match number {
            Some(number) => {
                self.answer(id, Answer::Allocated(number));
                self.wait(id, Place::Number(number), None, now + self.limits.waiting);
            }
            None => {
                self.stop_waiting(id);
                self.refuse(id, Refusal::Full, now);
            }
        }
    }

    pub(super) fn join(&mut self, id: ConnectionId, place: Place, opening: Vec<u8>, now: Duration) {
        // Who was given this number waits there already, and has had nothing to say yet.
        let speaks = opening.len() <= MAX_OPENING;
        if speaks
            && (self.places.speak(place, self.seat(id), &opening)
                || self.speak_abroad(id, place, &opening))
        {
            return;
        }
        // Or did when this left, and has been met meanwhile.
        if let Some(Connection { stage: Stage::Met(met), .. }) = self.connections.get_mut(&id)
            && opening.len() <= MAX_OPENING
            && std::mem::take(&mut met.opening_owed)
        {
            return self.relay(id, opening, now);
        }
        if let Err(refusal) = self.may_wait(id, &opening, now) {
            return self.refuse(id, refusal, now);
        }
        self.go(id, place, opening, now);
    }

    /// Goes to a place, whoever keeps it.
    fn go(&mut self, id: ConnectionId, place: Place, opening: Vec<u8>, now: Duration) {
        if let Some(keeper) = self.members.keeper(place) {
            let patience = match place {
                Place::Number(_) => self.limits.waiting,
                Place::Ticket(_) => self.limits.calling,
            };
            self.wait(id, place, None, now + patience);
            return self.go_abroad(id, keeper, place, opening);
        }
        match self.places.come(place, self.seat(id), &opening, now) {
            Coming::Waits => self.wait(id, place, None, now + self.limits.waiting),
            Coming::Meets(waiter) => {
                self.stop_waiting(id);
                self.meet(id, opening, waiter, now);
            }
            Coming::Occupied => {
                self.stop_waiting(id);
                self.refuse(id, Refusal::Occupied, now);
            }
            Coming::Unknown => {
                self.stop_waiting(id);
                self.refuse(id, Refusal::NoSuchPlace, now);
            }
        }
    }

    /// `id` came, and does not wait.
    pub(super) fn meet(
        &mut self,
        id: ConnectionId,
        opening: Vec<u8>,
        waiter: Waiter,
        now: Duration,
    ) {
        let seat = self.seat(id);
        if waiter.who.node != seat.node {
            return self.meet_abroad(id, opening, waiter, now);
        }
        self.counts.meetings += 1;
        let said = self.stop_waiting_to_meet(waiter.who.id, now);
        let theirs = if waiter.opening.is_empty() { said } else { waiter.opening };
        let owed = [theirs.is_empty(), opening.is_empty()];
        self.introduce(waiter.who.id, seat, opening, owed[0], now);
        self.introduce(id, waiter.who, theirs, owed[1], now);
    }

    /// One who waited is found, not always where it waits now. What it had to say there.
    pub(super) fn stop_waiting_to_meet(&mut self, id: ConnectionId, now: Duration) -> Vec<u8> {
        self.answered(id);
        let said = self.withdraw(id, now);
        self.stop_waiting(id);
        said
    }

    /// Takes one of ours from where it waits, and gives what it had to say there.
    pub(super) fn withdraw(&mut self, id: ConnectionId, now: Duration) -> Vec<u8> {
        let Some(Connection { stage: Stage::Waiting { place, .. }, .. }) =
            self.connections.get(&id)
        else {
            return Vec::new();
        };
        let place = *place;
        if let Some(Away { keeper, opening }) = self.away.remove(&id) {
            self.publish(Audience::One(keeper), Word::Leave { place, who: id });
            return opening;
        }
        self.places.leave(place, self.seat(id), now).unwrap_or_default()
    }

    /// The first word about its peer, to one who does not wait any more.
    pub(super) fn introduce(
        &mut self,
        who: ConnectionId,
        peer: Seat,
        opening: Vec<u8>,
        opening_owed: bool,
        now: Duration,
    ) {
        if let Some(connection) = self.connections.get_mut(&who) {
            let met = Met { peer: Some(peer), opening_owed, messages: 0, bytes: 0 };
            connection.stage = Stage::Met(met);
        }
        self.answer(who, Answer::Met { opening });
        self.set_deadline(who, Some(now + self.limits.idle));
    }

    /// Everything that a client has to fulfil before it goes to a place. It then counts as one who
    /// waits.
    pub(super) fn may_wait(
        &mut self,
        id: ConnectionId,
        opening: &[u8],
        now: Duration,
    ) -> Result<(), Refusal> {
        let Some(connection) = self.connections.get(&id) else {
            return Err(Refusal::NotUnderstood);
        };
        let ip = connection.remote.ip();
        if !matches!(connection.stage, Stage::Greeted) || opening.len() > MAX_OPENING {
            return Err(Refusal::NotUnderstood);
        }
        if !self.quotas.meeting(ip, now) || !self.quotas.wait(ip) {
            return Err(Refusal::TooMany);
        }
        self.counts.waiting += 1;
        Ok(())
    }

    pub(super) fn wait(
        &mut self,
        id: ConnectionId,
        place: Place,
        called: Option<Called>,
        until: Duration,
    ) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.stage = Stage::Waiting { place, called };
        }
        self.set_deadline(id, Some(until));
    }

    pub(super) fn stop_waiting(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get(&id) {
            self.quotas.wait_over(connection.remote.ip());
            self.counts.waiting -= 1;
        }
    }

    pub(super) fn relay(&mut self, id: ConnectionId, bytes: Vec<u8>, now: Duration) {
        let Some(Connection { stage: Stage::Met(met), .. }) = self.connections.get_mut(&id) else {
            return self.refuse(id, Refusal::NotUnderstood, now);
        };
        met.messages += 1;
        met.bytes = met.bytes.saturating_add(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        if met.messages > MAX_RELAYED_MESSAGES || met.bytes > MAX_RELAYED_BYTES {
            return self.refuse(id, Refusal::TooMany, now);
        }
        // Without a peer it was told that the peer has left.
        if let Some(peer) = met.peer {
            self.counts.relayed_bytes += bytes.len() as u64;
            if peer.node == self.members.us() {
                self.answer(peer.id, Answer::Relayed(bytes));
            } else {
                let word = Word::Relay { to: peer.id, from: id, bytes };
                self.publish(Audience::One(peer.node), word);
            }
        }
    }

    /// Tells one that its peer has gone, if it still has that peer.
    pub(super) fn leave(&mut self, id: ConnectionId, peer: Seat) {
        if let Some(Connection { stage: Stage::Met(met), .. }) = self.connections.get_mut(&id)
            && met.peer == Some(peer)
        {
            met.peer = None;
            self.answer(id, Answer::Left);
        }
    }
}
