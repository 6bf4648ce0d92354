//! Clients that listen under a name, and calls to them.

use super::connection::{Called, Connection, Stage};
use super::places::Waiter;
use super::{Audience, ConnectionId, MAX_CALLS, Server, Word};
use crate::rendezvous::{Answer, Challenge, Place, PublicKey, Refusal, Ticket};
use std::time::Duration;

impl Server {
    pub(super) fn listen(&mut self, id: ConnectionId, name: PublicKey, now: Duration) {
        let random = self.draw("challenge");
        match self.connections.get_mut(&id) {
            Some(Connection { stage: stage @ Stage::Greeted, .. }) => {
                let challenge = Challenge::new(random);
                let public = challenge.public();
                *stage = Stage::Challenged(Box::new((name, challenge)));
                self.answer(id, Answer::Challenge(public));
                self.set_deadline(id, Some(now + self.limits.unfinished));
            }
            _ => self.refuse(id, Refusal::NotUnderstood, now),
        }
    }

    pub(super) fn prove(&mut self, id: ConnectionId, mac: [u8; 32], now: Duration) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let Stage::Challenged(question) = &connection.stage else {
            return self.refuse(id, Refusal::NotUnderstood, now);
        };
        let (name, challenge) = &**question;
        let name = *name;
        if !challenge.check(name, &mac) {
            return self.refuse(id, Refusal::NotYours, now);
        }
        if !self.quotas.wait(connection.remote.ip()) {
            return self.refuse(id, Refusal::TooMany, now);
        }
        connection.stage = Stage::Listening { name, calls: 0 };
        self.set_deadline(id, None);
        // After a change of network the old connection may look alive for long.
        if let Some(before) = self.listeners.insert(name, id) {
            self.refuse(before, Refusal::Replaced, now);
        }
        self.answer(id, Answer::Listening);
        self.publish(Audience::All, Word::Listening(name));
    }

    pub(super) fn call(
        &mut self,
        id: ConnectionId,
        name: PublicKey,
        opening: Vec<u8>,
        now: Duration,
    ) {
        if let Err(refusal) = self.may_wait(id, &opening, now) {
            return self.refuse(id, refusal, now);
        }
        let listener = self.listeners.get(&name).copied();
        if listener.is_none() && self.members.others().next().is_some() {
            return self.call_abroad(id, name, opening, now);
        }
        let refusal = match listener.and_then(|it| self.connections.get_mut(&it)) {
            Some(Connection { stage: Stage::Listening { calls, .. }, .. })
                if *calls < MAX_CALLS =>
            {
                *calls += 1;
                None
            }
            Some(_) => Some(Refusal::TooMany),
            None => Some(Refusal::NobodyThere),
        };
        let (Some(listener), None) = (listener, refusal) else {
            self.stop_waiting(id);
            return self.refuse(id, refusal.unwrap_or(Refusal::NobodyThere), now);
        };
        let ticket = self.ticket();
        let told = Answer::Called { ticket, opening: opening.clone() };
        self.places.open(ticket, Waiter { who: self.seat(id), opening });
        let called = Called::Told(self.seat(listener));
        self.wait(id, Place::Ticket(ticket), Some(called), now + self.limits.calling);
        self.counts.calls += 1;
        self.answer(listener, told);
    }

    /// A new place for a call. Whoever hears of it can tell from it who keeps it.
    pub(super) fn ticket(&mut self) -> Ticket {
        let [mut ticket @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = self.draw("ticket");
        if let Some(share) = self.members.share() {
            ticket[0] = share;
        }
        Ticket(ticket)
    }

    /// A caller waits no longer: the listener may be told of one more.
    pub(super) fn answered(&mut self, caller: ConnectionId) {
        let listener = match self.connections.get(&caller).map(|connection| &connection.stage) {
            Some(Stage::Waiting { called: Some(Called::Told(listener)), .. }) => *listener,
            _ => return,
        };
        if listener.node == self.members.us() {
            self.call_is_over(listener.id);
        } else {
            let word = Word::CallOver { listener: listener.id };
            self.publish(Audience::One(listener.node), word);
        }
    }

    pub(super) fn call_is_over(&mut self, listener: ConnectionId) {
        let listener = self.connections.get_mut(&listener);
        if let Some(Connection { stage: Stage::Listening { calls, .. }, .. }) = listener {
            *calls = calls.saturating_sub(1);
        }
    }
}
