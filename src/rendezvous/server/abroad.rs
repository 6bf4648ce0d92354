//! Clients of other servers, and places that other servers keep.
//!
//! A place is kept by one server: the one whose share of the numbers it is of (`Members`).
//! Whoever comes to it on another server sends word there ([`Word::Come`]); once two are there
//! their servers talk to each other alone. When servers come and go places move: each server sees
//! to its own clients that wait.
//!
//! The clock of a meeting is that of the server whose client was there first. The other server
//! tells its own client by how much its clock differs (`Answer::Shifted`); it has measured that
//! all along, so that a meeting across servers costs no exchange more.

mod calls;
mod changes;
mod meetings;

use super::places::Waiter;
use super::{Audience, BusMessage, ConnectionId, Node, Output, Seat, Server, Word};
use crate::rendezvous::{ClockExchange, Refusal};
use std::time::Duration;

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
            Word::Relay { to, from, bytes } => self.relayed(to, seat(from), bytes),
            Word::Left { to, from } => self.leave(to, seat(from)),
            Word::Listening(name) => {
                if let Some(before) = self.listeners.get(&name).copied() {
                    self.refuse(before, Refusal::Replaced, now);
                }
            }
            Word::Call { name, caller, ticket, opening } => {
                self.ring(name, seat(caller), ticket, opening);
            }
            Word::Ringing { caller, listener } => self.ringing(caller, seat(listener), now),
            Word::NotHere { caller, busy } => self.not_there(caller, busy, now),
            Word::CallOver { listener } => self.call_from_abroad_is_over(from, listener),
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
}

#[cfg(test)]
mod tests;
