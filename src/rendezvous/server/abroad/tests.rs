//! Several servers and the bus between them, under one virtual clock.

use super::super::{Addresses, Limits};
use super::*;
use crate::rendezvous::{ClockTimes, Identity, Request, Ticket};
use crate::wire::WallTime;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A client: its server, and its connection there.
type Client = (usize, ConnectionId);

struct World {
    /// `None`: killed.
    servers: Vec<Option<Server>>,
    /// From one to another, in order.
    bus: BTreeMap<(usize, usize), VecDeque<Word>>,
    /// The servers' clocks, in nanoseconds of difference.
    skew: Vec<i64>,
    /// Who has no bus.
    cut_off: BTreeSet<usize>,
    /// From one to another, where nothing arrives for now.
    held_up: BTreeSet<(usize, usize)>,
    said: Vec<(Client, Answer)>,
    now: Duration,
    /// Decides which message is delivered next.
    dice: u64,
    clients: u16,
}

impl World {
    fn new(servers: usize) -> Self {
        let mut world = Self {
            servers: Vec::new(),
            bus: BTreeMap::new(),
            skew: Vec::new(),
            cut_off: BTreeSet::new(),
            held_up: BTreeSet::new(),
            said: Vec::new(),
            now: Duration::ZERO,
            dice: 1,
            clients: 0,
        };
        for _ in 0..servers {
            world.start();
        }
        world.pass(Duration::from_secs(2));
        world
    }

    fn start(&mut self) -> usize {
        let at = self.servers.len();
        let seed = [u8::try_from(at).unwrap() + 1; 32];
        let mut server = Server::new(Addresses::default(), Limits::default(), seed);
        server.join_bus(self.now);
        self.servers.push(Some(server));
        self.skew.push(i64::try_from(at).unwrap() * 7_000_000_000);
        self.drain(at);
        at
    }

    fn kill(&mut self, at: usize) {
        self.servers[at] = None;
        self.cut_off.remove(&at);
        self.bus.retain(|(_, to), _| *to != at);
    }

    /// The server loses its connection to the bus, and what was on its way to it.
    fn cut_off(&mut self, at: usize) {
        self.cut_off.insert(at);
        self.bus.retain(|(_, to), _| *to != at);
        let now = self.now;
        self.server(at).lose_bus(now);
        self.drain(at);
    }

    fn join_again(&mut self, at: usize) {
        self.cut_off.remove(&at);
        let now = self.now;
        self.server(at).join_bus(now);
        self.drain(at);
    }

    fn server(&mut self, at: usize) -> &mut Server {
        self.servers[at].as_mut().unwrap()
    }

    fn wall(&self, at: usize) -> i64 {
        1_800_000_000_000_000_000 + i64::try_from(self.now.as_nanos()).unwrap() + self.skew[at]
    }

    fn index(&self, node: Node) -> Option<usize> {
        self.servers.iter().position(|it| it.as_ref().is_some_and(|it| it.node() == node))
    }

    /// Takes what a server has to say.
    fn drain(&mut self, at: usize) {
        while let Some(output) = self.servers[at].as_mut().and_then(Server::poll) {
            let (to, word) = match output {
                Output::Answer { to, answer } => {
                    self.said.push(((at, to), answer));
                    continue;
                }
                Output::Publish { to, word } => (to, word),
                Output::AskClock(node) => (Audience::One(node), Word::AskClock(self.wall(at))),
                _ => continue,
            };
            if self.cut_off.contains(&at) {
                continue;
            }
            let bytes = BusMessage { from: Node(0), word }.to_bytes().unwrap();
            let word = BusMessage::from_bytes(&bytes).unwrap().word;
            let hear: Vec<usize> = match to {
                Audience::All => (0..self.servers.len()).filter(|it| *it != at).collect(),
                Audience::One(node) => self.index(node).into_iter().collect(),
            };
            let is_there = |it: &usize| self.servers[*it].is_some() && !self.cut_off.contains(it);
            for other in hear.into_iter().filter(is_there) {
                self.bus.entry((at, other)).or_default().push_back(word.clone());
            }
        }
    }

    /// Delivers one message: of any server to any other, but in order between two.
    fn deliver(&mut self) -> bool {
        self.bus.retain(|_, queue| !queue.is_empty());
        self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let waiting = self.bus.keys().filter(|way| !self.held_up.contains(way));
        let waiting: Vec<_> = waiting.copied().collect();
        if waiting.is_empty() {
            return false;
        }
        let (from, to) = waiting[(self.dice >> 33) as usize % waiting.len()];
        self.deliver_one(from, to)
    }

    /// Delivers the next message from one to another.
    fn deliver_one(&mut self, from: usize, to: usize) -> bool {
        let word = self.bus.get_mut(&(from, to)).and_then(VecDeque::pop_front).unwrap();
        self.now += Duration::from_micros(100);
        let (now, wall) = (self.now, self.wall(to));
        let Some(node) = self.servers[from].as_ref().map(Server::node) else { return true };
        match word {
            Word::AskClock(sent_ns) => {
                let times = ClockTimes { sent_ns, received_ns: wall, answered_ns: wall };
                if !self.cut_off.contains(&from) {
                    self.bus.entry((to, from)).or_default().push_back(Word::Clock(times));
                }
            }
            Word::Clock(times) => {
                let exchange = ClockExchange::of(&times, WallTime::from_unix_ns(wall));
                self.server(to).measured(node, exchange, now);
            }
            word => self.server(to).handle_bus(BusMessage { from: node, word }, now),
        }
        self.drain(to);
        true
    }

    fn settle(&mut self) {
        while self.deliver() {}
    }

    /// Delivers everything that is on its way from one to another.
    fn deliver_all(&mut self, from: usize, to: usize) {
        while self.bus.get(&(from, to)).is_some_and(|queue| !queue.is_empty()) {
            self.deliver_one(from, to);
        }
    }

    /// A number that this server keeps.
    fn number_of(&mut self, keeper: usize) -> u32 {
        u32::from(self.server(keeper).members.share().unwrap()) + 1
    }

    /// Nothing is left of who waited, once all numbers have rested.
    fn is_empty(&mut self) {
        self.pass(Duration::from_secs(62));
        for server in self.servers.iter().flatten() {
            assert_eq!(server.places.len(), 0);
            assert!(server.away.is_empty() && server.rung.is_empty());
        }
    }

    fn pass(&mut self, span: Duration) {
        let until = self.now + span;
        while self.now < until {
            for at in 0..self.servers.len() {
                let now = self.now;
                if let Some(server) = &mut self.servers[at] {
                    server.handle_timeout(now);
                }
                self.drain(at);
            }
            self.settle();
            self.now += Duration::from_millis(50);
        }
    }

    fn client(&mut self, at: usize) -> Client {
        self.clients += 1;
        let remote = format!("198.51.{}.{}:40000", self.clients / 200, self.clients % 200);
        let now = self.now;
        let server = self.server(at);
        let local = "203.0.113.2:3478".parse().unwrap();
        let id = server.connect(remote.parse().unwrap(), local, now).unwrap();
        server.greet(id, now);
        self.drain(at);
        self.said.clear();
        (at, id)
    }

    fn asks(&mut self, (at, id): Client, request: Request) {
        let now = self.now;
        self.server(at).handle(id, request, now);
        self.drain(at);
    }

    fn goes(&mut self, (at, id): Client) {
        let now = self.now;
        self.server(at).disconnect(id, now);
        self.drain(at);
    }

    /// What was said to whom since the last time, after everything has arrived.
    fn heard(&mut self) -> Vec<(Client, Answer)> {
        self.settle();
        std::mem::take(&mut self.said)
    }

    fn says(&mut self, client: Client, request: Request) -> Vec<(Client, Answer)> {
        self.asks(client, request);
        self.heard()
    }

    fn allocate(&mut self, client: Client) -> u32 {
        match self.says(client, Request::Allocate)[..] {
            [(_, Answer::Allocated(number))] => number,
            ref other => panic!("{other:?}"),
        }
    }

    /// Both at once have met, and can talk until one leaves.
    fn have_met(&mut self, a: Client, b: Client) {
        let heard = self.heard();
        for (who, opening) in [(a, b"b"), (b, b"a")] {
            let met = Answer::Met { opening: opening.to_vec() };
            let times = heard.iter().filter(|it| **it == (who, met.clone())).count();
            assert_eq!(times, 1, "{heard:?}");
        }
        for (from, to) in [(a, b), (b, a)] {
            let relayed = Answer::Relayed(vec![1, 2, 3]);
            assert_eq!(self.says(from, Request::Relay(vec![1, 2, 3])), [(to, relayed)]);
        }
        self.goes(a);
        assert_eq!(self.heard(), [(b, Answer::Left)]);
        assert_eq!(self.says(b, Request::Relay(vec![4])), []);
        self.goes(b);
        assert_eq!(self.heard(), []);
    }

    /// Who waits, server by server.
    fn waiting(&self) -> Vec<(Client, Place)> {
        let servers = self.servers.iter().enumerate();
        let servers = servers.filter_map(|(at, it)| Some((at, it.as_ref()?)));
        servers
            .flat_map(|(at, server)| {
                server.connections.iter().filter_map(move |(id, it)| match it.stage {
                    Stage::Waiting { place, .. } => Some(((at, *id), place)),
                    _ => None,
                })
            })
            .collect()
    }
}

fn join(number: u32, opening: &[u8]) -> Request {
    Request::Join { place: Place::Number(number), opening: opening.to_vec() }
}

fn refused(client: Client, why: Refusal) -> (Client, Answer) {
    (client, Answer::Refused(why))
}

#[test]
fn each_server_gives_out_numbers_of_its_own_also_when_they_start_at_once() {
    let mut world = World::new(5);
    let late = world.start();
    world.pass(Duration::from_secs(2));
    assert_eq!(late, 5);
    let mut numbers = Vec::new();
    for _ in 0..3 {
        for at in 0..6 {
            let client = world.client(at);
            numbers.push(world.allocate(client));
        }
    }
    numbers.sort_unstable();
    let expected: Vec<u32> = [1..=6, 257..=262, 513..=518].into_iter().flatten().collect();
    assert_eq!(numbers, expected);
}

#[test]
fn peers_of_any_two_servers_meet_whoever_keeps_the_place() {
    let mut world = World::new(3);
    for (first, second, keeper) in
        (0..27).map(|n| (n / 9, n / 3 % 3, n % 3)).filter(|(first, second, _)| first != second)
    {
        let share = world.server(keeper).members.share().unwrap();
        let number = u32::from(share) + 1 + 256 * u32::try_from(first * 3 + second).unwrap();
        let (a, b) = (world.client(first), world.client(second));
        assert_eq!(world.says(a, join(number, b"a")), [], "{first} {second} {keeper}");
        world.asks(b, join(number, b"b"));
        world.have_met(a, b);
        let late = world.client(first);
        assert_eq!(world.says(late, join(number, b"c")), [refused(late, Refusal::Occupied)]);
    }
}

#[test]
fn a_number_that_was_allocated_is_joined_from_elsewhere() {
    let mut world = World::new(2);
    let (a, b) = (world.client(1), world.client(0));
    let number = world.allocate(a);
    assert_eq!(world.says(a, join(number, b"a")), []);
    world.asks(b, join(number, b"b"));
    world.have_met(a, b);
}

#[test]
fn the_second_peer_is_told_how_far_the_first_ones_clock_is_ahead() {
    let mut world = World::new(3);
    let (a, b) = (world.client(2), world.client(0));
    // Kept by the one where neither is.
    let number = u32::from(world.server(1).members.share().unwrap()) + 1;
    world.says(a, join(number, b"a"));
    let heard = world.says(b, join(number, b"b"));
    let to_b: Vec<&Answer> = heard.iter().filter(|(it, _)| *it == b).map(|(_, it)| it).collect();
    let [Answer::Shifted(shift), Answer::Met { .. }] = to_b[..] else { panic!("{heard:?}") };
    assert_eq!(heard.len(), 3, "{heard:?}");
    let truth = world.skew[2] - world.skew[0];
    assert!(shift.ahead_ns.abs_diff(truth) <= shift.bound_ns, "{shift:?}, {truth}");
    assert!(shift.bound_ns < 10_000_000 && shift.likely_ns <= shift.bound_ns, "{shift:?}");
}

#[test]
fn one_server_tells_of_no_other_clock() {
    let mut world = World::new(2);
    let (a, b) = (world.client(0), world.client(0));
    for number in 1..3 {
        let (a, b) = if number == 1 { (a, b) } else { (world.client(0), world.client(0)) };
        world.asks(a, join(number, b"a"));
        let heard = world.says(b, join(number, b"b"));
        assert!(!heard.iter().any(|(_, it)| matches!(it, Answer::Shifted(_))), "{heard:?}");
    }
}

#[test]
fn when_a_server_dies_peers_of_its_clients_are_told() {
    let mut world = World::new(3);
    let (a, b) = (world.client(0), world.client(1));
    world.says(a, join(77, b"a"));
    world.says(b, join(77, b"b"));
    world.kill(1);
    world.pass(Duration::from_secs(2));
    assert_eq!(world.heard(), []);
    world.pass(Duration::from_secs(3));
    assert_eq!(world.heard(), [(a, Answer::Left)]);
}

#[test]
fn who_waits_at_a_place_that_a_dead_server_kept_is_found() {
    for keeper in 0..3 {
        let mut world = World::new(3);
        let number = u32::from(world.server(keeper).members.share().unwrap()) + 1;
        let (first, second) = ((keeper + 1) % 3, (keeper + 2) % 3);
        let a = world.client(first);
        world.says(a, join(number, b"a"));
        world.kill(keeper);
        world.pass(Duration::from_secs(5));
        let b = world.client(second);
        world.asks(b, join(number, b"b"));
        world.have_met(a, b);
    }
}

#[test]
fn who_waits_is_found_after_a_new_server_took_the_numbers_over() {
    let mut world = World::new(2);
    // Nobody's share until the third comes: the least free one.
    let a = world.client(0);
    world.says(a, join(3, b"a"));
    let third = world.start();
    world.pass(Duration::from_secs(2));
    assert_eq!(world.server(third).members.keeper(Place::Number(3)), None);
    let fresh = world.client(third);
    assert_ne!(world.allocate(fresh), 3, "somebody waits under it");
    let b = world.client(third);
    world.asks(b, join(3, b"b"));
    world.have_met(a, b);
}

#[test]
fn two_who_came_while_the_bus_was_away_meet_when_it_is_back() {
    let mut world = World::new(2);
    let alone = |world: &mut World| {
        for at in 0..2 {
            let now = world.now;
            world.server(at).lose_bus(now);
        }
        world.bus.clear();
    };
    alone(&mut world);
    let (a, b) = (world.client(0), world.client(1));
    world.asks(a, join(9, b"a"));
    world.asks(b, join(9, b"b"));
    assert_eq!(world.said, []);
    let local = (world.client(0), world.client(0));
    world.asks(local.0, join(10, b"a"));
    world.asks(local.1, join(10, b"b"));
    world.have_met(local.0, local.1);
    for at in 0..2 {
        let now = world.now;
        world.server(at).join_bus(now);
        world.drain(at);
    }
    world.pass(Duration::from_secs(1));
    // The clocks are compared a little later than the places: who met too early tries again.
    let heard = world.heard();
    let full = |client| heard.contains(&refused(client, Refusal::Full));
    if !full(a) && !full(b) {
        world.said = heard;
        world.have_met(a, b);
    }
}

/// The place moves from 1 to 2 while 1 has them meet: the one who waited is still awaited at 2.
#[test]
fn who_is_found_where_it_waited_before_waits_nowhere_any_more() {
    let mut world = World::new(3);
    let [node, other] = [1, 2].map(|at| world.server(at).node());
    let first = world.number_of(1);
    let a = world.client(0);
    // 0 hears that 1 gives its share up, and prefers 2 for some numbers.
    let gives_up = Word::Alive { share: None, firm: false, asks: false };
    let number = (0..).map(|nth| first + 256 * nth).find(|number| {
        let firm = [world.server(0).node(), other];
        let preferred = |node: &Node| super::super::members::preference(*node, *number);
        firm.into_iter().max_by_key(preferred) == Some(other)
    });
    let number = number.unwrap();
    assert_eq!(world.says(a, join(number, b"a")), []);
    let b = world.client(2);
    world.asks(b, join(number, b"b"));
    let now = world.now;
    world.server(0).handle_bus(BusMessage { from: node, word: gives_up }, now);
    world.drain(0);
    // It leaves 1 and comes to 2; but b comes to 1 first.
    world.deliver_all(2, 1);
    world.deliver_all(1, 2);
    world.deliver_all(0, 2);
    world.have_met(a, b);
    world.is_empty();
}

/// 1 finds a for b while a has moved to 2 by itself: a is met, and told nothing else later.
#[test]
fn who_finds_somebody_where_it_came_before_waits_nowhere_any_more() {
    let mut world = World::new(3);
    let number = world.number_of(1);
    let (a, b) = (world.client(2), world.client(0));
    assert_eq!(world.says(a, join(number, b"a")), []);
    world.asks(b, join(number, b"b"));
    world.deliver_all(0, 1);
    let (node, now) = (world.server(1).node(), world.now);
    let gives_up = Word::Alive { share: None, firm: false, asks: false };
    world.server(0).handle_bus(BusMessage { from: node, word: gives_up }, now);
    world.drain(0);
    world.have_met(a, b);
    world.is_empty();
}

#[test]
fn a_keeper_that_lost_the_bus_for_a_moment_hears_again_who_waits() {
    let mut world = World::new(3);
    let number = world.number_of(1);
    let a = world.client(0);
    world.says(a, join(number, b"a"));
    world.cut_off(1);
    world.join_again(1);
    world.pass(Duration::from_secs(2));
    let b = world.client(2);
    world.asks(b, join(number, b"b"));
    world.have_met(a, b);
    world.is_empty();
}

#[test]
fn a_keeper_that_had_given_a_server_up_hears_again_who_waits() {
    let mut world = World::new(3);
    let number = world.number_of(1);
    let a = world.client(0);
    world.says(a, join(number, b"a"));
    world.held_up.insert((0, 1));
    world.pass(Duration::from_secs(5));
    assert_eq!(world.server(1).others(), 1);
    world.held_up.clear();
    world.pass(Duration::from_secs(2));
    let b = world.client(2);
    world.asks(b, join(number, b"b"));
    world.have_met(a, b);
    world.is_empty();
}

#[test]
fn who_went_while_its_server_had_no_bus_is_found_by_nobody() {
    let mut world = World::new(3);
    let number = world.number_of(1);
    let a = world.client(0);
    world.says(a, join(number, b"a"));
    world.cut_off(0);
    world.goes(a);
    world.join_again(0);
    world.pass(Duration::from_secs(2));
    let b = world.client(2);
    assert_eq!(world.says(b, join(number, b"b")), []);
    world.goes(b);
    world.is_empty();
}

#[test]
fn peers_across_a_server_that_lost_the_bus_for_a_moment_are_told() {
    let mut world = World::new(2);
    let (a, b) = (world.client(0), world.client(1));
    world.says(a, join(77, b"a"));
    world.says(b, join(77, b"b"));
    world.cut_off(1);
    world.join_again(1);
    let mut heard = world.heard();
    heard.sort_unstable_by_key(|(who, _)| *who);
    assert_eq!(heard, [(a, Answer::Left), (b, Answer::Left)]);
}

fn listener(world: &mut World, at: usize, identity: &Identity) -> Client {
    let client = world.client(at);
    let said = world.says(client, Request::Listen(identity.public()));
    let [(_, Answer::Challenge(challenge))] = said[..] else { panic!("{said:?}") };
    world.asks(client, Request::Prove(identity.prove(challenge)));
    client
}

fn call(name: PublicKey) -> Request {
    Request::Call { name, opening: b"b".to_vec() }
}

fn called(world: &mut World, caller: Client, listener: Client, name: PublicKey) -> Ticket {
    let said = world.says(caller, call(name));
    let [(to, Answer::Called { ticket, ref opening })] = said[..] else { panic!("{said:?}") };
    assert_eq!((to, &opening[..]), (listener, &b"b"[..]));
    ticket
}

#[test]
fn a_listener_is_called_from_another_server_and_comes_to_a_third() {
    for at in 0..3 {
        let mut world = World::new(3);
        let home = Identity::generate([1; 32]);
        let listens = listener(&mut world, 0, &home);
        assert_eq!(world.heard(), [(listens, Answer::Listening)]);
        let caller = world.client(1);
        let ticket = called(&mut world, caller, listens, home.public());
        let comes = world.client(at);
        let place = Place::Ticket(ticket);
        world.asks(comes, Request::Join { place, opening: b"a".to_vec() });
        world.have_met(comes, caller);
        assert!(world.server(0).rung.is_empty());
        let late = world.client(at);
        let place = Place::Ticket(ticket);
        assert_eq!(
            world.says(late, Request::Join { place, opening: Vec::new() }),
            [refused(late, Refusal::NoSuchPlace)]
        );
    }
}

#[test]
fn a_call_to_nobody_is_refused_when_all_have_said_so() {
    let mut world = World::new(3);
    let nobody = Identity::generate([1; 32]).public();
    let caller = world.client(1);
    assert_eq!(world.says(caller, call(nobody)), [refused(caller, Refusal::NobodyThere)]);
    // One that has just died says nothing.
    world.kill(2);
    let caller = world.client(1);
    assert_eq!(world.says(caller, call(nobody)), []);
    world.pass(Duration::from_millis(1200));
    assert_eq!(world.heard(), [refused(caller, Refusal::NobodyThere)]);
}

#[test]
fn calls_of_a_server_that_died_do_not_count() {
    let mut world = World::new(2);
    let home = Identity::generate([1; 32]);
    let listens = listener(&mut world, 0, &home);
    world.heard();
    for _ in 0..MAX_CALLS {
        let caller = world.client(1);
        called(&mut world, caller, listens, home.public());
    }
    let more = world.client(1);
    assert_eq!(world.says(more, call(home.public())), [refused(more, Refusal::TooMany)]);
    world.kill(1);
    world.pass(Duration::from_secs(5));
    let caller = world.client(0);
    called(&mut world, caller, listens, home.public());
}

#[test]
fn callers_of_a_listener_whose_server_died_are_told() {
    let mut world = World::new(2);
    let home = Identity::generate([1; 32]);
    let listens = listener(&mut world, 0, &home);
    world.heard();
    let caller = world.client(1);
    called(&mut world, caller, listens, home.public());
    world.kill(0);
    world.pass(Duration::from_secs(5));
    assert_eq!(world.heard(), [refused(caller, Refusal::NobodyThere)]);
}

#[test]
fn who_listens_anew_on_another_server_takes_the_place_of_the_old_connection() {
    let mut world = World::new(2);
    let home = Identity::generate([1; 32]);
    let old = listener(&mut world, 0, &home);
    world.heard();
    let new = listener(&mut world, 1, &home);
    let heard = world.heard();
    assert!(heard.contains(&refused(old, Refusal::Replaced)), "{heard:?}");
    let caller = world.client(0);
    called(&mut world, caller, new, home.public());
}

#[test]
fn what_another_server_cannot_know_changes_nothing() {
    let mut world = World::new(2);
    let (a, b) = (world.client(0), world.client(0));
    world.asks(a, join(5, b"a"));
    world.asks(b, join(5, b"b"));
    world.heard();
    let (node, now) = (world.server(1).node(), world.now);
    for word in [
        Word::Relay { to: a.1, from: b.1, bytes: vec![1] },
        Word::Left { to: a.1, from: b.1 },
        Word::Refused { who: a.1, why: Refusal::Full },
        Word::CallOver { listener: a.1 },
        Word::NotHere { caller: a.1, busy: false },
    ] {
        world.server(0).handle_bus(BusMessage { from: node, word }, now);
        world.drain(0);
        assert_eq!(world.said, []);
    }
}

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
        6 => (0usize..8).prop_map(Step::Client),
        8 => (any::<usize>(), 1u32..6).prop_map(|(who, number)| Step::Join(who, number)),
        1 => any::<usize>().prop_map(Step::Allocate),
        3 => any::<usize>().prop_map(Step::Goes),
        6 => (0u8..8).prop_map(Step::Deliver),
        2 => (0u16..3000).prop_map(Step::Pass),
        1 => (0usize..8).prop_map(Step::Kill),
        1 => Just(Step::Start),
        1 => (0usize..8).prop_map(Step::CutOff),
        1 => (0usize..8).prop_map(Step::JoinAgain),
    ]
}

proptest! {
    #[test]
    fn nobody_waits_beside_another_for_long_whatever_happens(
        steps in prop::collection::vec(step(), 0..60),
        dice in any::<u64>(),
    ) {
        let mut world = World::new(3);
        world.dice = dice;
        let mut clients: Vec<Client> = Vec::new();
        for step in steps {
            clients.retain(|(at, _)| world.servers[*at].is_some());
            let who = |who: usize| clients.get(who % clients.len().max(1)).copied();
            match step {
                Step::Client(at) => {
                    let at = at % world.servers.len();
                    if world.servers[at].is_some() {
                        clients.push(world.client(at));
                    }
                }
                Step::Join(it, number) => {
                    if let Some(it) = who(it) { world.asks(it, join(number, b"x")); }
                }
                Step::Allocate(it) => {
                    if let Some(it) = who(it) { world.asks(it, Request::Allocate); }
                }
                Step::Goes(it) => if let Some(it) = who(it) { world.goes(it); },
                Step::Deliver(n) => (0..n).for_each(|_| { world.deliver(); }),
                Step::Pass(ms) => world.pass(Duration::from_millis(ms.into())),
                Step::Kill(at) => {
                    let at = at % world.servers.len();
                    if world.servers.iter().flatten().count() > 1 { world.kill(at); }
                }
                Step::Start => if world.servers.len() < 8 { world.start(); },
                Step::CutOff(at) => {
                    let at = at % world.servers.len();
                    if world.servers[at].is_some() { world.cut_off(at); }
                }
                Step::JoinAgain(at) => if world.cut_off.contains(&at) { world.join_again(at); },
            }
        }
        for at in world.cut_off.clone() { world.join_again(at); }
        world.settle();
        world.pass(Duration::from_secs(6));
        let mut places: Vec<Place> = world.waiting().into_iter().map(|(_, place)| place).collect();
        places.sort_unstable();
        let before = places.len();
        places.dedup();
        prop_assert_eq!(places.len(), before, "two wait for each other");
        let mut shares: Vec<_> =
            world.servers.iter().flatten().map(|it| it.members.share()).collect();
        prop_assert!(shares.iter().all(Option::is_some));
        let servers = shares.len();
        shares.sort_unstable();
        shares.dedup();
        prop_assert_eq!(shares.len(), servers, "a share that two have");
        for server in world.servers.iter().flatten() {
            prop_assert!(server.places.is_consistent());
            let waits = |it: &&Connection| matches!(it.stage, Stage::Waiting { .. });
            let waiting = server.connections.values().filter(waits).count();
            prop_assert_eq!(server.counts().waiting, waiting as u64);
        }
        for client in clients {
            if world.servers[client.0].is_some() { world.goes(client); }
        }
        world.settle();
        world.is_empty();
    }
}
