//! Whatever clients, servers and the bus do.

use super::world::{SECOND, World};
use crate::rendezvous::server::Server;
use crate::rendezvous::server::connection::{Connection, Stage};
use crate::rendezvous::server::tests::client::{Client, join};
use crate::rendezvous::{Place, Request};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::time::Duration;

const MAX_SERVERS: usize = 8;

#[derive(Clone, Debug)]
enum Step {
    Client(usize),
    Join(usize, u32),
    Allocate(usize),
    Goes(usize),
    Deliver(u8),
    Pass(u16),
    Kill(usize),
    Start,
    CutOff(usize),
    JoinAgain(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..MAX_SERVERS).prop_map(Step::Client),
        8 => (any::<usize>(), 1u32..6).prop_map(|(who, number)| Step::Join(who, number)),
        1 => any::<usize>().prop_map(Step::Allocate),
        3 => any::<usize>().prop_map(Step::Goes),
        6 => (0u8..8).prop_map(Step::Deliver),
        2 => (0u16..3000).prop_map(Step::Pass),
        1 => (0..MAX_SERVERS).prop_map(Step::Kill),
        1 => Just(Step::Start),
        1 => (0..MAX_SERVERS).prop_map(Step::CutOff),
        1 => (0..MAX_SERVERS).prop_map(Step::JoinAgain),
    ]
}

impl World {
    fn undergoes(&mut self, step: Step, clients: &mut Vec<Client>) {
        clients.retain(|client| self.is_there(client.at));
        let who = |nth: usize| clients.get(nth % clients.len().max(1)).copied();
        let servers = self.servers.len();
        match step {
            Step::Client(at) if self.is_there(at % servers) => {
                clients.push(self.client(at % servers));
            }
            Step::Join(it, number) => {
                who(it).into_iter().for_each(|it| self.asks(it, join(number, b"x")));
            }
            Step::Allocate(it) => {
                who(it).into_iter().for_each(|it| self.asks(it, Request::Allocate));
            }
            Step::Goes(it) => who(it).into_iter().for_each(|it| self.goes(it)),
            Step::Deliver(words) => (0..words).for_each(|_| _ = self.deliver()),
            Step::Pass(ms) => self.pass(Duration::from_millis(ms.into())),
            Step::Kill(at) if self.servers.iter().flatten().count() > 1 => self.kill(at % servers),
            Step::Start if servers < MAX_SERVERS => _ = self.start(),
            Step::CutOff(at) if self.is_there(at % servers) => self.cut_off(at % servers),
            Step::JoinAgain(at) if self.bus.is_cut_off(at) => self.join(at),
            _ => {}
        }
    }

    fn is_there(&self, at: usize) -> bool {
        self.servers[at].is_some()
    }

    /// Everything that there is to wait for has come.
    fn comes_to_rest(&mut self) {
        for at in 0..self.servers.len() {
            if self.bus.is_cut_off(at) {
                self.join(at);
            }
        }
        self.settle();
        self.pass(6 * SECOND);
    }
}

/// The places where its clients wait.
fn waiting(server: &Server) -> impl Iterator<Item = Place> {
    server.connections.values().filter_map(|Connection { stage, .. }| match stage {
        Stage::Waiting { place, .. } => Some(*place),
        _ => None,
    })
}

fn nobody_waits_beside_another(world: &World) -> Result<(), TestCaseError> {
    let places: Vec<Place> = world.servers.iter().flatten().flat_map(waiting).collect();
    let different: BTreeSet<Place> = places.iter().copied().collect();
    prop_assert_eq!(different.len(), places.len(), "two wait for each other: {:?}", places);
    Ok(())
}

fn each_has_a_share_of_its_own(world: &World) -> Result<(), TestCaseError> {
    let shares: Vec<Option<u8>> =
        world.servers.iter().flatten().map(|it| it.members.share()).collect();
    prop_assert!(shares.iter().all(Option::is_some));
    let different: BTreeSet<Option<u8>> = shares.iter().copied().collect();
    prop_assert_eq!(different.len(), shares.len(), "a share that two have: {:?}", shares);
    Ok(())
}

fn each_keeps_its_books(world: &World) -> Result<(), TestCaseError> {
    for server in world.servers.iter().flatten() {
        prop_assert!(server.places.is_consistent());
        prop_assert_eq!(server.counts().waiting, waiting(server).count() as u64);
    }
    Ok(())
}

proptest! {
    #[test]
    fn nobody_waits_beside_another_for_long_whatever_happens(
        steps in prop::collection::vec(step(), 0..60),
        dice in any::<u64>(),
    ) {
        let mut world = World::with_dice(3, dice);
        let mut clients = Vec::new();
        for step in steps {
            world.undergoes(step, &mut clients);
        }
        world.comes_to_rest();
        nobody_waits_beside_another(&world)?;
        each_has_a_share_of_its_own(&world)?;
        each_keeps_its_books(&world)?;
        clients.retain(|client| world.servers[client.at].is_some());
        for client in clients {
            world.goes(client);
        }
        world.settle();
        world.forgets_everybody();
    }
}
