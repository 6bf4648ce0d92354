//! What follows when servers come and go, for the clients that wait or talk across them.

use crate::rendezvous::server::connection::{Called, Met, Stage};
use crate::rendezvous::server::members::{Change, SHARES};
use crate::rendezvous::server::places::Coming;
use crate::rendezvous::server::{Audience, ConnectionId, Node, Output, Server, Word};
use crate::rendezvous::{Place, Refusal};
use std::time::Duration;

impl Server {
    /// Does and says what a change among the servers asks for.
    pub(in crate::rendezvous::server) fn apply(&mut self, change: Change, now: Duration) {
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
