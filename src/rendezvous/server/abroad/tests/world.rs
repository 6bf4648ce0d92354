//! Several servers and the bus between them, under one virtual clock.

use super::bus::{Bus, Way};
use crate::rendezvous::server::tests::client::{Client, Line};
use crate::rendezvous::server::{
    Addresses, Audience, BusMessage, Limits, Node, Output, Server, Word,
};
use crate::rendezvous::{ClockExchange, ClockTimes};
use crate::wire::WallTime;
use std::time::Duration;

pub(super) const SECOND: Duration = Duration::from_secs(1);

pub(super) struct World {
    /// `None`: killed.
    pub(super) servers: Vec<Option<Server>>,
    pub(super) bus: Bus,
    /// How far each server's clock is ahead, in nanoseconds.
    pub(super) ahead_ns: Vec<i64>,
    /// What clients have heard.
    pub(super) heard: Vec<Line>,
    /// How many clients have come.
    pub(super) clients: u16,
    now: Duration,
}

impl World {
    /// So many servers that have joined.
    pub(super) fn new(servers: usize) -> Self {
        Self::with_dice(servers, 1)
    }

    /// The dice decide whose words arrive first.
    pub(super) fn with_dice(servers: usize, dice: u64) -> Self {
        let mut world = Self {
            servers: Vec::new(),
            bus: Bus::new(dice),
            ahead_ns: Vec::new(),
            now: Duration::ZERO,
            heard: Vec::new(),
            clients: 0,
        };
        for _ in 0..servers {
            world.start();
        }
        world.pass(2 * SECOND);
        world
    }

    /// One more server.
    pub(super) fn start(&mut self) -> usize {
        let at = self.servers.len();
        let seed = [u8::try_from(at).unwrap() + 1; 32];
        let server = Server::new(Addresses::default(), Limits::default(), seed);
        self.servers.push(Some(server));
        self.ahead_ns.push(i64::try_from(at).unwrap() * 7_000_000_000);
        self.join(at);
        at
    }

    pub(super) fn kill(&mut self, at: usize) {
        self.servers[at] = None;
        self.bus.forget(at);
    }

    /// The server loses its connection to the bus.
    pub(super) fn cut_off(&mut self, at: usize) {
        self.bus.cut_off(at);
        self.tell(at, Server::lose_bus);
    }

    /// Every server is connected to the bus again, all at once.
    pub(super) fn join_all(&mut self) {
        (0..self.servers.len()).for_each(|at| self.bus.join(at));
        (0..self.servers.len()).for_each(|at| self.join(at));
    }

    /// The server is connected to the bus, perhaps again.
    pub(super) fn join(&mut self, at: usize) {
        self.bus.join(at);
        self.tell(at, Server::join_bus);
    }

    pub(super) fn server(&self, at: usize) -> &Server {
        self.servers[at].as_ref().unwrap()
    }

    /// The numbers that this server keeps.
    pub(super) fn numbers_of(&self, keeper: usize) -> impl Iterator<Item = u32> + use<> {
        let first = u32::from(self.server(keeper).members.share().unwrap()) + 1;
        (0..).map(move |nth| first + 256 * nth)
    }

    /// Tells a server something, and takes what it has to say.
    pub(super) fn tell<T>(
        &mut self,
        at: usize,
        what: impl FnOnce(&mut Server, Duration) -> T,
    ) -> T {
        let told = what(self.servers[at].as_mut().unwrap(), self.now);
        self.drain(at);
        told
    }

    fn drain(&mut self, at: usize) {
        while let Some(output) = self.servers[at].as_mut().and_then(Server::poll) {
            let (to, word) = match Client::line(at, output) {
                Ok(line) => {
                    self.heard.push(line);
                    continue;
                }
                Err(Output::Publish { to, word }) => (to, word),
                Err(Output::AskClock(node)) => (Audience::One(node), Word::AskClock(self.wall(at))),
                Err(other) => unreachable!("{other:?}"),
            };
            for other in 0..self.servers.len() {
                let hears = match (&self.servers[other], to) {
                    (Some(_), Audience::All) => other != at,
                    (Some(server), Audience::One(node)) => server.node() == node,
                    (None, _) => false,
                };
                if hears {
                    self.bus.carry(at, other, word.clone());
                }
            }
        }
    }

    /// What this server's clock shows.
    fn wall(&self, at: usize) -> i64 {
        let now = i64::try_from(self.now.as_nanos()).unwrap();
        1_800_000_000_000_000_000 + now + self.ahead_ns[at]
    }
}

/// What goes over the bus.
impl World {
    /// One word arrives. Whether there was any.
    pub(super) fn deliver(&mut self) -> bool {
        self.bus.next().is_some_and(|way| self.deliver_on(way))
    }

    /// Everything arrives that is on its way from one to another.
    pub(super) fn deliver_all(&mut self, from: usize, to: usize) {
        while self.deliver_on((from, to)) {}
    }

    /// Everything arrives.
    pub(super) fn settle(&mut self) {
        while self.deliver() {}
    }

    fn deliver_on(&mut self, (from, to): Way) -> bool {
        let Some(word) = self.bus.take((from, to)) else { return false };
        self.now += Duration::from_micros(100);
        let wall = self.wall(to);
        let Some(node) = self.servers[from].as_ref().map(Server::node) else { return true };
        match word {
            Word::AskClock(sent_ns) => {
                let times = ClockTimes { sent_ns, received_ns: wall, answered_ns: wall };
                self.bus.carry(to, from, Word::Clock(times));
            }
            Word::Clock(times) => {
                let exchange = ClockExchange::of(&times, WallTime::from_unix_ns(wall));
                self.tell(to, |server, now| server.measured(node, exchange, now));
            }
            word => self.hears(to, node, word),
        }
        true
    }

    /// A server hears this from another.
    pub(super) fn hears(&mut self, at: usize, from: Node, word: Word) {
        self.tell(at, |server, now| server.handle_bus(BusMessage { from, word }, now));
    }

    pub(super) fn pass(&mut self, span: Duration) {
        let until = self.now + span;
        while self.now < until {
            for at in 0..self.servers.len() {
                if self.servers[at].is_some() {
                    self.tell(at, Server::handle_timeout);
                }
            }
            self.settle();
            self.now += Duration::from_millis(50);
        }
    }
}
