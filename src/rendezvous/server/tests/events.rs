//! Whatever clients do.

use super::client::Client;
use super::world::{AT, SECOND, World, small};
use crate::rendezvous::server::connection::{Connection, Stage};
use crate::rendezvous::server::{ConnectionId, Server};
use crate::rendezvous::{Origin, Place, PublicKey, Reaction, Request, Ticket};
use proptest::prelude::*;
use std::time::Duration;

/// What may happen, with small numbers so that things collide.
#[derive(Clone, Debug)]
enum Event {
    Connects(u8),
    Greets(u8),
    Says(u8, Request),
    BeginsMessage(u8),
    EndsMessage(u8),
    Stun(u8),
    Probed(u8),
    Goes(u8),
    Wait(u16),
}

fn request() -> impl Strategy<Value = Request> {
    let opening = prop::collection::vec(any::<u8>(), 0..3);
    let place = prop_oneof![
        4 => (0u32..6).prop_map(Place::Number),
        1 => any::<u32>().prop_map(Place::Number),
        1 => any::<[u8; 16]>().prop_map(|bits| Place::Ticket(Ticket(bits)))
    ];
    let name = (0u8..3).prop_map(|n| PublicKey([n; 32]));
    let origin = prop_oneof![Just(Origin::OtherPort), Just(Origin::OtherAddress)];
    prop_oneof![
        any::<i64>().prop_map(|sent_ns| Request::Clock { sent_ns }),
        Just(Request::Allocate),
        (place, opening.clone()).prop_map(|(place, opening)| Request::Join { place, opening }),
        prop::collection::vec(any::<u8>(), 0..2000).prop_map(Request::Relay),
        name.clone().prop_map(Request::Listen),
        any::<[u8; 32]>().prop_map(Request::Prove),
        (name, opening).prop_map(|(name, opening)| Request::Call { name, opening }),
        (0usize..4, origin).prop_map(|(at, from)| {
            Request::Probe { id: 0, from, mapping: AT[at].parse().unwrap() }
        }),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (0u8..4).prop_map(Event::Connects),
        6 => any::<u8>().prop_map(Event::Greets),
        16 => (any::<u8>(), request()).prop_map(|(who, request)| Event::Says(who, request)),
        1 => any::<u8>().prop_map(Event::BeginsMessage),
        1 => any::<u8>().prop_map(Event::EndsMessage),
        2 => any::<u8>().prop_map(Event::Stun),
        2 => any::<u8>().prop_map(Event::Probed),
        4 => any::<u8>().prop_map(Event::Goes),
        2 => any::<u16>().prop_map(Event::Wait),
    ]
}

/// One of those who ever came, also if it has gone; at first, one whom the server does not know.
fn one_of(clients: &[Client], nth: u8) -> Client {
    let nobody = Client { at: 0, id: ConnectionId(9) };
    clients.get(usize::from(nth) % clients.len().max(1)).copied().unwrap_or(nobody)
}

impl World {
    fn undergoes(&mut self, event: Event, clients: &mut Vec<Client>) {
        let who = |nth| one_of(clients, nth);
        match event {
            Event::Connects(at) => clients.extend(self.connect(AT[usize::from(at)])),
            Event::Greets(it) => _ = self.greets(who(it)),
            Event::Says(it, request) => _ = self.says(who(it), request),
            Event::BeginsMessage(it) => self.begins_message(who(it)),
            Event::EndsMessage(it) => self.ends_message(who(it)),
            Event::Stun(it) => _ = self.server.stun(who(it).id, self.now),
            Event::Probed(it) => {
                self.server.probed(who(it).id, 0, Reaction::Reset, Duration::ZERO);
            }
            Event::Goes(it) => _ = self.goes(who(it)),
            Event::Wait(seconds) => _ = self.after(u32::from(seconds) * SECOND),
        }
        self.heard();
    }
}

fn keeps_its_books(server: &Server) -> Result<(), TestCaseError> {
    prop_assert!(server.places.is_consistent());
    prop_assert!(server.connections.len() <= small().connections);
    prop_assert!(server.deadlines.len() <= server.connections.len());
    let waits = |it: &&Connection| matches!(it.stage, Stage::Waiting { .. });
    let waiting = server.connections.values().filter(waits).count();
    prop_assert_eq!(server.counts().waiting, waiting as u64);
    Ok(())
}

fn has_forgotten_everybody(server: &Server) -> Result<(), TestCaseError> {
    prop_assert_eq!(server.places.len(), 0);
    prop_assert_eq!(server.quotas.len(), 0);
    prop_assert!(server.endpoints.is_empty() && server.listeners.is_empty());
    prop_assert_eq!(server.counts().open, 0);
    prop_assert_eq!(server.poll_timeout(), None);
    Ok(())
}

proptest! {
    #[test]
    fn whatever_clients_do_nothing_panics_and_nothing_is_left_of_them(
        events in prop::collection::vec(event(), 0..200)
    ) {
        let mut world = World::small();
        let mut clients = Vec::new();
        for event in events {
            world.undergoes(event, &mut clients);
            keeps_its_books(&world.server)?;
        }
        for client in clients {
            world.goes(client);
        }
        world.after(4000 * SECOND);
        has_forgotten_everybody(&world.server)?;
    }
}
