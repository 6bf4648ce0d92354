//! Calls to listeners of other servers.

use crate::rendezvous::server::connection::{Called, Connection, Stage};
use crate::rendezvous::server::places::Waiter;
use crate::rendezvous::server::{Audience, ConnectionId, MAX_CALLS, Node, Seat, Server, Word};
use crate::rendezvous::{Answer, Place, PublicKey, Refusal, Ticket};
use std::time::Duration;

/// Other servers have so long to say whether somebody listens there. All say no long before; one
/// that has just died does not.
const SEEKING: Duration = Duration::from_secs(1);

impl Server {
    /// Nobody listens here under this name: perhaps elsewhere.
    pub(in crate::rendezvous::server) fn call_abroad(
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

    /// A client of another server calls: perhaps one of ours.
    pub(super) fn ring(&mut self, name: PublicKey, caller: Seat, ticket: Ticket, opening: Vec<u8>) {
        let Seat { node, id: caller } = caller;
        let word = match self.find(name, node) {
            Ok(listener) => {
                self.answer(listener, Answer::Called { ticket, opening });
                Word::Ringing { caller, listener }
            }
            Err(busy) => Word::NotHere { caller, busy },
        };
        self.publish(Audience::One(node), word);
    }

    /// The listener of ours that another server has a call for; else whether it has too many
    /// already.
    fn find(&mut self, name: PublicKey, from: Node) -> Result<ConnectionId, bool> {
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

    /// The caller does not wait any more.
    pub(super) fn call_from_abroad_is_over(&mut self, from: Node, listener: ConnectionId) {
        if let Some(rung) = self.rung.get_mut(&(from, listener)) {
            *rung -= 1;
            if *rung == 0 {
                self.rung.remove(&(from, listener));
            }
            self.call_is_over(listener);
        }
    }

    /// A listener elsewhere was told of the call.
    pub(super) fn ringing(&mut self, caller: ConnectionId, listener: Seat, now: Duration) {
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

    /// One more server has no such listener, or one that is told of enough calls.
    pub(super) fn not_there(&mut self, caller: ConnectionId, busy: bool, now: Duration) {
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
}
