//! Who sends, and who gets what.

use super::*;
use crate::rendezvous::{FrameError, Identity, Place, Ticket};
use proptest::prelude::*;

const AT: [&str; 4] =
    ["198.51.100.1:40000", "198.51.100.2:40000", "198.51.100.3:40000", "[2001:db8::1]:40000"];

/// A server, its clients by number, and its clock.
struct World {
    server: Server,
    ids: Vec<ConnectionId>,
    now: Duration,
}

fn addresses() -> Addresses {
    Addresses { ports: [3478, 3479], main: None, others: vec!["203.0.113.3".parse().unwrap()] }
}

fn small() -> Limits {
    let address =
        AddressLimits { connections: 3, waiting: 2, meetings: 4, probes: 2, requests: 1000 };
    Limits { address, connections: 10, ..Limits::default() }
}

impl World {
    fn new(limits: Limits) -> Self {
        let server = Server::new(addresses(), limits, [7; 32]);
        Self { server, ids: Vec::new(), now: Duration::ZERO }
    }

    fn connect(&mut self, from: &str) -> Result<usize, Refusal> {
        let remote: SocketAddr = from.parse().unwrap();
        let v6 = remote.is_ipv6() && !from.contains("ffff");
        let local = if v6 { "[2001:db8::2]:3478" } else { "203.0.113.2:3478" };
        let id = self.server.connect(remote, local.parse().unwrap(), self.now)?;
        self.ids.push(id);
        Ok(self.ids.len() - 1)
    }

    /// A client that has said its greeting and had its welcome.
    fn client(&mut self, from: &str) -> usize {
        let client = self.connect(from).unwrap();
        self.server.greet(self.ids[client], self.now);
        assert!(matches!(&self.out()[..], [(_, Said::Answer(Answer::Welcome { .. }))]));
        client
    }

    fn says(&mut self, client: usize, request: Request) -> Vec<(usize, Said)> {
        self.server.handle(self.ids[client], request, self.now);
        self.out()
    }

    fn goes(&mut self, client: usize) -> Vec<(usize, Said)> {
        self.server.disconnect(self.ids[client], self.now);
        self.out()
    }

    fn after(&mut self, span: Duration) -> Vec<(usize, Said)> {
        self.now += span;
        self.server.handle_timeout(self.now);
        self.out()
    }

    fn out(&mut self) -> Vec<(usize, Said)> {
        let who = |ids: &[ConnectionId], id| ids.iter().position(|it| *it == id).unwrap();
        std::iter::from_fn(|| self.server.poll())
            .map(|output| match output {
                Output::Answer { to, answer } => (who(&self.ids, to), Said::Answer(answer)),
                Output::Clock { to, sent_ns } => (who(&self.ids, to), Said::Clock(sent_ns)),
                Output::Close(id) => (who(&self.ids, id), Said::Close),
                Output::Probe { asked_by, id, from, to } => {
                    (who(&self.ids, asked_by), Said::Probe(id, from, to))
                }
                other => panic!("without a bus: {other:?}"),
            })
            .collect()
    }
}

#[derive(Debug, PartialEq)]
enum Said {
    Answer(Answer),
    Clock(i64),
    Close,
    Probe(u32, SocketAddr, SocketAddr),
}

fn refused(client: usize, why: Refusal) -> Vec<(usize, Said)> {
    vec![(client, Said::Answer(Answer::Refused(why))), (client, Said::Close)]
}

fn met(client: usize, opening: &[u8]) -> (usize, Said) {
    (client, Said::Answer(Answer::Met { opening: opening.to_vec() }))
}

fn allocated(client: usize, number: u32) -> Vec<(usize, Said)> {
    vec![(client, Said::Answer(Answer::Allocated(number)))]
}

fn join(number: u32, opening: &[u8]) -> Request {
    Request::Join { place: Place::Number(number), opening: opening.to_vec() }
}

fn relay(bytes: &[u8]) -> Request {
    Request::Relay(bytes.to_vec())
}

#[test]
fn the_welcome_tells_where_the_client_comes_from_and_where_else_the_server_is() {
    let mut world = World::new(small());
    let client = world.connect("[::ffff:198.51.100.1]:40000").unwrap();
    world.server.greet(world.ids[client], world.now);
    let welcome = Answer::Welcome {
        observed: "198.51.100.1:40000".parse().unwrap(),
        other_port: "203.0.113.2:3479".parse().ok(),
        other_address: vec![
            "203.0.113.3:3478".parse().unwrap(),
            "203.0.113.3:3479".parse().unwrap(),
        ],
    };
    assert_eq!(world.out(), [(client, Said::Answer(welcome))]);
}

#[test]
fn two_meet_under_a_number_and_tell_each_other() {
    let mut world = World::new(small());
    let (a, b) = (world.client(AT[0]), world.client(AT[1]));
    assert_eq!(world.says(a, Request::Allocate), allocated(a, 1));
    assert_eq!(world.says(a, join(1, b"a")), []);
    assert_eq!(world.says(b, join(1, b"b")), [met(a, b"b"), met(b, b"a")]);
    let from = |who: usize, bytes: &[u8]| (who, Said::Answer(Answer::Relayed(bytes.to_vec())));
    assert_eq!(world.says(a, relay(b"report of a")), [from(b, b"report of a")]);
    assert_eq!(world.says(b, relay(b"report of b")), [from(a, b"report of b")]);
    assert_eq!(world.goes(a), [(b, Said::Answer(Answer::Left))]);
    assert_eq!(world.says(b, relay(b"too late")), []);
    assert_eq!(world.goes(b), []);
    let counts = world.server.counts();
    assert_eq!((counts.meetings, counts.waiting, counts.open), (1, 0, 0));
    assert_eq!(counts.relayed_bytes, 22);
}

#[test]
fn either_may_come_first_to_a_number_that_both_know() {
    let mut world = World::new(small());
    let (a, b) = (world.client(AT[0]), world.client(AT[1]));
    assert_eq!(world.says(a, join(7, b"a")), []);
    assert_eq!(world.says(b, join(7, b"b")), [met(a, b"b"), met(b, b"a")]);
}

#[test]
fn a_third_is_told_that_the_code_was_used_also_after_both_have_gone() {
    let mut world = World::new(small());
    let (a, b, c) = (world.client(AT[0]), world.client(AT[1]), world.client(AT[2]));
    world.says(a, Request::Allocate);
    world.says(a, join(1, b"a"));
    world.says(b, join(1, b"b"));
    assert_eq!(world.says(c, join(1, b"c")), refused(c, Refusal::Occupied));
    world.goes(a);
    world.goes(b);
    let d = world.client(AT[2]);
    assert_eq!(world.says(d, join(1, b"d")), refused(d, Refusal::Occupied));
    // The pair that met was not disturbed.
    assert_eq!(world.server.counts().meetings, 1);
}

#[test]
fn numbers_are_the_lowest_free_and_rest_before_they_are_given_again() {
    let mut world = World::new(Limits::default());
    let clients: Vec<usize> = (0..5).map(|_| world.client(AT[0])).collect();
    for (client, number) in clients.iter().zip(1..) {
        assert_eq!(world.says(*client, Request::Allocate), allocated(*client, number));
    }
    world.goes(clients[1]);
    world.goes(clients[3]);
    let next = world.client(AT[0]);
    assert_eq!(world.says(next, Request::Allocate), allocated(next, 6), "2 and 4 rest");
    world.after(Limits::default().resting);
    for number in [2, 4, 7] {
        let next = world.client(AT[0]);
        assert_eq!(world.says(next, Request::Allocate), allocated(next, number));
    }
}

#[test]
fn who_lost_its_connection_while_it_waited_comes_back_to_its_number() {
    let mut world = World::new(small());
    let (a, b) = (world.client(AT[0]), world.client(AT[1]));
    world.says(a, Request::Allocate);
    world.says(a, join(1, b"a"));
    world.goes(a);
    let again = world.client(AT[0]);
    assert_eq!(world.says(again, join(1, b"again")), []);
    // Its first rest ends while it waits, which is not its end.
    world.after(Duration::from_secs(61));
    assert_eq!(world.says(b, join(1, b"b")), [met(again, b"b"), met(b, b"again")]);
}

#[test]
fn a_number_that_somebody_came_to_is_not_given_to_another() {
    let mut world = World::new(small());
    let (a, b) = (world.client(AT[0]), world.client(AT[1]));
    world.says(a, join(1, b"a"));
    assert_eq!(world.says(b, Request::Allocate), allocated(b, 2));
}

#[test]
fn clocks_are_answered_at_every_point() {
    let mut world = World::new(small());
    let (a, b) = (world.client(AT[0]), world.client(AT[1]));
    let clock = Request::Clock { sent_ns: 5 };
    assert_eq!(world.says(a, clock.clone()), [(a, Said::Clock(5))]);
    world.says(a, Request::Allocate);
    assert_eq!(world.says(a, clock.clone()), [(a, Said::Clock(5))]);
    world.says(b, join(1, b""));
    assert_eq!(world.says(b, clock), [(b, Said::Clock(5))]);
}

#[test]
fn what_comes_at_the_wrong_point_ends_the_connection() {
    let mut world = World::new(Limits::default());
    for request in [relay(b""), Request::Prove([0; 32]), join(9, &[0; MAX_OPENING + 1])] {
        let client = world.client(AT[0]);
        assert_eq!(world.says(client, request), refused(client, Refusal::NotUnderstood));
        assert_eq!(world.says(client, Request::Clock { sent_ns: 0 }), [], "it is heard no more");
    }
    let (a, b) = (world.client(AT[0]), world.client(AT[1]));
    world.says(a, Request::Allocate);
    assert_eq!(world.says(a, Request::Allocate), refused(a, Refusal::NotUnderstood));
    assert_eq!(world.says(b, join(1, b"b")), [], "nobody waits at the place of who was refused");
}

#[test]
fn a_request_before_the_greeting_is_none() {
    let mut world = World::new(small());
    let a = world.connect(AT[0]).unwrap();
    assert_eq!(world.says(a, Request::Allocate), refused(a, Refusal::NotUnderstood));
}

#[test]
fn when_one_is_refused_its_peer_is_told_that_it_left() {
    let mut world = World::new(small());
    let (a, b) = (world.client(AT[0]), world.client(AT[1]));
    world.says(a, Request::Allocate);
    world.says(a, join(1, b"a"));
    world.says(b, join(1, b"b"));
    let nonsense = StreamError::Frame(FrameError::Malformed);
    world.server.handle_nonsense(world.ids[a], &nonsense, world.now);
    let mut expected = vec![(b, Said::Answer(Answer::Left))];
    expected.extend(refused(a, Refusal::NotUnderstood));
    assert_eq!(world.out(), expected);
}

#[test]
fn the_server_is_no_relay() {
    let mut world = World::new(small());
    let (a, b) = (world.client(AT[0]), world.client(AT[1]));
    world.says(a, Request::Allocate);
    world.says(a, join(1, b"a"));
    world.says(b, join(1, b"b"));
    for _ in 0..MAX_RELAYED_MESSAGES {
        assert_eq!(world.says(a, relay(&[0; 900])).len(), 1);
    }
    let said = world.says(a, relay(&[]));
    assert_eq!(said[1..], refused(a, Refusal::TooMany));
    let mut world = World::new(small());
    let (a, b) = (world.client(AT[0]), world.client(AT[1]));
    world.says(a, Request::Allocate);
    world.says(a, join(1, b"a"));
    world.says(b, join(1, b"b"));
    let passed = (0..64).take_while(|_| world.says(b, relay(&[0; 4000])).len() == 1).count();
    assert_eq!(passed, MAX_RELAYED_BYTES as usize / 4000);
}

#[test]
fn an_address_has_its_share_and_others_keep_theirs() {
    let mut world = World::new(small());
    let clients: Vec<usize> = (0..3).map(|_| world.client(AT[0])).collect();
    assert_eq!(world.connect(AT[0]), Err(Refusal::TooMany));
    assert!(world.connect(AT[1]).is_ok());
    for client in &clients[..2] {
        assert_eq!(world.says(*client, Request::Allocate).len(), 1);
    }
    assert_eq!(
        world.says(clients[2], Request::Allocate),
        refused(clients[2], Refusal::TooMany),
        "two may wait"
    );
    world.goes(clients[0]);
    world.goes(clients[2]);
    let next = world.client(AT[0]);
    assert_eq!(world.says(next, join(9, b"")), [], "the fourth meeting of this minute");
    world.goes(next);
    let next = world.client(AT[0]);
    assert_eq!(world.says(next, join(9, b"")), refused(next, Refusal::TooMany), "the fifth");
    world.goes(next);
    world.after(Duration::from_secs(16));
    let next = world.client(AT[0]);
    assert_eq!(world.says(next, join(9, b"")), []);
}

#[test]
fn a_full_server_says_so() {
    let mut world = World::new(small());
    for host in 0..10 {
        world.connect(&format!("192.0.2.{host}:1")).unwrap();
    }
    assert_eq!(world.connect("192.0.2.99:1"), Err(Refusal::Full));
    world.goes(0);
    assert!(world.connect("192.0.2.99:1").is_ok());
}

#[test]
fn too_many_requests_end_the_connection() {
    let mut limits = small();
    limits.address.requests = 3;
    let mut world = World::new(limits);
    let a = world.client(AT[0]);
    for _ in 0..3 {
        world.says(a, Request::Clock { sent_ns: 0 });
    }
    assert_eq!(world.says(a, Request::Clock { sent_ns: 0 }), refused(a, Refusal::TooMany));
}

#[test]
fn a_probe_goes_to_a_mapping_of_the_asking_address_that_is_in_use() {
    let mut world = World::new(small());
    let (a, other) = (world.client(AT[0]), world.connect("198.51.100.1:40007").unwrap());
    let probe =
        |mapping: &str, from| Request::Probe { id: 3, from, mapping: mapping.parse().unwrap() };
    let to = "198.51.100.1:40007".parse().unwrap();
    assert_eq!(
        world.says(a, probe("198.51.100.1:40007", Origin::OtherPort)),
        [(a, Said::Probe(3, "203.0.113.2:3479".parse().unwrap(), to))]
    );
    assert_eq!(
        world.says(a, probe("[::ffff:198.51.100.1]:40007", Origin::OtherAddress)),
        [(a, Said::Probe(3, "203.0.113.3:3478".parse().unwrap(), to))]
    );
    world.server.probed(world.ids[a], 3, Reaction::Silent, Duration::from_millis(2900));
    let probed = Answer::Probed { id: 3, reaction: Reaction::Silent, after_ms: 2900 };
    assert_eq!(world.out(), [(a, Said::Answer(probed))]);
    assert_eq!(
        world.says(a, probe("198.51.100.1:40007", Origin::OtherPort)),
        refused(a, Refusal::TooMany),
        "two a minute"
    );
    world.goes(other);
}

#[test]
fn nobody_has_the_server_knock_at_a_door_that_is_not_its_own() {
    let mut world = World::new(Limits::default());
    world.connect(AT[1]).unwrap();
    let gone = world.connect("198.51.100.1:50000").unwrap();
    world.goes(gone);
    for mapping in [AT[1], "198.51.100.1:22", "198.51.100.1:50000", "203.0.113.2:3479"] {
        let a = world.client(AT[0]);
        let mapping = mapping.parse().unwrap();
        let probe = Request::Probe { id: 1, from: Origin::OtherPort, mapping };
        assert_eq!(world.says(a, probe), refused(a, Refusal::NotYours));
    }
}

#[test]
fn without_another_address_no_probe_leaves_from_it() {
    let mut world = World::new(small());
    let a = world.client(AT[3]);
    let mapping = AT[3].parse().unwrap();
    let probe = Request::Probe { id: 1, from: Origin::OtherAddress, mapping };
    let answer = Answer::Probed { id: 1, reaction: Reaction::NotSent, after_ms: 0 };
    assert_eq!(world.says(a, probe), [(a, Said::Answer(answer))]);
}

#[test]
fn silence_and_unfinished_messages_end_after_ten_seconds() {
    let mut world = World::new(small());
    let (silent, client) = (world.connect(AT[0]).unwrap(), world.client(AT[1]));
    world.says(client, Request::Allocate);
    world.server.unfinished(world.ids[client], true, world.now);
    assert_eq!(world.after(Duration::from_millis(9999)), []);
    // More of the message gives it no more time.
    world.server.unfinished(world.ids[client], true, world.now);
    let ended = world.after(Duration::from_millis(1));
    assert_eq!(ended[0], (silent, Said::Close));
    assert_eq!(ended.len(), 3, "{ended:?}");
}

#[test]
fn a_finished_message_leaves_the_old_deadline() {
    let mut world = World::new(small());
    let client = world.client(AT[1]);
    world.says(client, Request::Allocate);
    world.server.unfinished(world.ids[client], true, world.now);
    world.server.unfinished(world.ids[client], false, world.now);
    assert_eq!(world.after(Duration::from_secs(3599)), []);
    assert_eq!(world.after(Duration::from_secs(1)), refused(client, Refusal::WaitedTooLong));
}

#[test]
fn who_asks_nothing_is_ended_and_who_asks_stays() {
    let mut world = World::new(small());
    let (idle, busy) = (world.client(AT[0]), world.client(AT[1]));
    for _ in 0..2 {
        assert_eq!(world.after(Duration::from_secs(89)), []);
        world.says(busy, Request::Clock { sent_ns: 0 });
    }
    assert_eq!(world.after(Duration::from_secs(2)), [(idle, Said::Close)]);
}

#[test]
fn at_the_end_everybody_is_told_once() {
    let mut world = World::new(small());
    let (a, b, silent) = (world.client(AT[0]), world.client(AT[1]), world.connect(AT[2]).unwrap());
    world.says(a, Request::Allocate);
    world.says(a, join(1, b"a"));
    world.says(b, join(1, b"b"));
    world.server.shut_down();
    let mut expected = refused(a, Refusal::GoingDown);
    expected.extend(refused(b, Refusal::GoingDown));
    expected.push((silent, Said::Close));
    assert_eq!(world.out(), expected);
    for client in [a, b, silent] {
        assert_eq!(world.goes(client), []);
    }
}

#[test]
fn stun_and_meetings_do_not_mix() {
    let mut world = World::new(small());
    let a = world.connect(AT[0]).unwrap();
    let ends = world.server.stun(world.ids[a], world.now).unwrap();
    assert_eq!(ends.observed, AT[0].parse().unwrap());
    assert_eq!(ends.other, "203.0.113.3:3479".parse().ok());
    assert_eq!(world.says(a, Request::Allocate), refused(a, Refusal::NotUnderstood));
}

/// A client that listens under its name.
fn listener(world: &mut World, from: &str, identity: &Identity) -> usize {
    let client = world.client(from);
    let said = world.says(client, Request::Listen(identity.public()));
    let [(to, Said::Answer(Answer::Challenge(challenge)))] = said[..] else { panic!("{said:?}") };
    assert_eq!(to, client);
    let said = world.says(client, Request::Prove(identity.prove(challenge)));
    assert_eq!(said.last(), Some(&(client, Said::Answer(Answer::Listening))));
    client
}

fn call(name: PublicKey) -> Request {
    Request::Call { name, opening: b"caller".to_vec() }
}

#[test]
fn a_call_leads_to_a_meeting_on_a_new_connection_of_the_listener() {
    let mut world = World::new(small());
    let home = Identity::generate([1; 32]);
    let (listens, calls) = (listener(&mut world, AT[0], &home), world.client(AT[1]));
    let said = world.says(calls, call(home.public()));
    let [(to, Said::Answer(Answer::Called { ticket, .. }))] = said[..] else { panic!("{said:?}") };
    assert_eq!(to, listens);
    let comes = world.client(AT[0]);
    let place = Place::Ticket(ticket);
    assert_eq!(
        world.says(comes, Request::Join { place, opening: Vec::new() }),
        [met(calls, b""), met(comes, b"caller")]
    );
    let late = world.client(AT[2]);
    assert_eq!(
        world.says(late, Request::Join { place, opening: Vec::new() }),
        refused(late, Refusal::NoSuchPlace),
        "a ticket is good for one"
    );
}

#[test]
fn only_the_holder_of_a_key_listens_under_it() {
    let mut world = World::new(small());
    let (mine, theirs) = (Identity::generate([1; 32]), Identity::generate([2; 32]));
    let client = world.client(AT[0]);
    let said = world.says(client, Request::Listen(theirs.public()));
    let [(_, Said::Answer(Answer::Challenge(challenge)))] = said[..] else { panic!("{said:?}") };
    assert_eq!(
        world.says(client, Request::Prove(mine.prove(challenge))),
        refused(client, Refusal::NotYours)
    );
    let calls = world.client(AT[1]);
    assert_eq!(world.says(calls, call(theirs.public())), refused(calls, Refusal::NobodyThere));
}

#[test]
fn every_challenge_is_another() {
    let mut world = World::new(small());
    let home = Identity::generate([1; 32]);
    let mut challenges = std::collections::BTreeSet::new();
    for at in &AT[..3] {
        let client = world.client(at);
        let said = world.says(client, Request::Listen(home.public()));
        let [(_, Said::Answer(Answer::Challenge(challenge)))] = said[..] else {
            panic!("{said:?}")
        };
        assert!(challenges.insert(challenge));
    }
}

#[test]
fn who_listens_anew_takes_the_place_of_the_old_connection() {
    let mut world = World::new(small());
    let home = Identity::generate([1; 32]);
    let old = listener(&mut world, AT[0], &home);
    let new = world.client(AT[1]);
    let said = world.says(new, Request::Listen(home.public()));
    let [(_, Said::Answer(Answer::Challenge(challenge)))] = said[..] else { panic!("{said:?}") };
    let mut expected = refused(old, Refusal::Replaced);
    expected.push((new, Said::Answer(Answer::Listening)));
    assert_eq!(world.says(new, Request::Prove(home.prove(challenge))), expected);
    world.goes(old);
    let calls = world.client(AT[2]);
    let said = world.says(calls, call(home.public()));
    assert!(
        matches!(said[..], [(to, Said::Answer(Answer::Called { .. }))] if to == new),
        "{said:?}"
    );
}

#[test]
fn a_call_to_one_who_does_not_come_ends_and_a_listener_stays_for_days() {
    let mut world = World::new(small());
    let home = Identity::generate([1; 32]);
    let listens = listener(&mut world, AT[0], &home);
    assert_eq!(world.after(Duration::from_secs(3 * 86_400)), []);
    let calls = world.client(AT[1]);
    world.says(calls, call(home.public()));
    assert_eq!(world.after(Duration::from_secs(29)), []);
    assert_eq!(world.after(Duration::from_secs(1)), refused(calls, Refusal::NobodyThere));
    world.goes(listens);
    let calls = world.client(AT[2]);
    assert_eq!(world.says(calls, call(home.public())), refused(calls, Refusal::NobodyThere));
    assert_eq!(world.server.counts().listening, 0);
}

#[test]
fn a_listener_is_told_of_so_many_calls_and_of_more_when_callers_have_gone() {
    let mut world = World::new(Limits::default());
    let home = Identity::generate([1; 32]);
    listener(&mut world, AT[0], &home);
    let first = world.client(AT[1]);
    assert_eq!(world.says(first, call(home.public())).len(), 1);
    for n in 1..MAX_CALLS {
        let calls = world.client(&format!("192.0.2.{n}:1"));
        assert_eq!(world.says(calls, call(home.public())).len(), 1);
    }
    let more = world.client(AT[2]);
    assert_eq!(world.says(more, call(home.public())), refused(more, Refusal::TooMany));
    world.goes(first);
    let more = world.client(AT[2]);
    assert_eq!(world.says(more, call(home.public())).len(), 1);
}

/// What may happen, with small numbers so that things collide.
#[derive(Clone, Debug)]
enum Event {
    Connect(u8),
    Greet(u8),
    Ask(u8, Request),
    Unfinished(u8, bool),
    Probed(u8),
    Goes(u8),
    Wait(u16),
    Stun(u8),
}

fn event() -> impl Strategy<Value = Event> {
    let opening = prop::collection::vec(any::<u8>(), 0..3);
    let place = prop_oneof![
        4 => (0u32..6).prop_map(Place::Number),
        1 => any::<u32>().prop_map(Place::Number),
        1 => any::<[u8; 16]>().prop_map(|bits| Place::Ticket(Ticket(bits)))
    ];
    let name = (0u8..3).prop_map(|n| PublicKey([n; 32]));
    let request = prop_oneof![
        any::<i64>().prop_map(|sent_ns| Request::Clock { sent_ns }),
        Just(Request::Allocate),
        (place, opening.clone()).prop_map(|(place, opening)| Request::Join { place, opening }),
        prop::collection::vec(any::<u8>(), 0..2000).prop_map(Request::Relay),
        name.clone().prop_map(Request::Listen),
        any::<[u8; 32]>().prop_map(Request::Prove),
        (name, opening).prop_map(|(name, opening)| Request::Call { name, opening }),
        (0usize..4, any::<bool>()).prop_map(|(at, port)| Request::Probe {
            id: 0,
            from: if port { Origin::OtherPort } else { Origin::OtherAddress },
            mapping: AT[at].parse().unwrap(),
        }),
    ];
    prop_oneof![
        3 => (0u8..4).prop_map(Event::Connect),
        3 => any::<u8>().prop_map(Event::Greet),
        8 => (any::<u8>(), request).prop_map(|(who, request)| Event::Ask(who, request)),
        1 => (any::<u8>(), any::<bool>()).prop_map(|(who, is)| Event::Unfinished(who, is)),
        1 => any::<u8>().prop_map(Event::Probed),
        2 => any::<u8>().prop_map(Event::Goes),
        1 => any::<u16>().prop_map(Event::Wait),
        1 => any::<u8>().prop_map(Event::Stun),
    ]
}

proptest! {
    #[test]
    fn whatever_clients_do_nothing_panics_and_nothing_is_left_of_them(
        events in prop::collection::vec(event(), 0..200)
    ) {
        let mut world = World::new(small());
        for event in events {
            let who = |who: u8| usize::from(who) % world.ids.len().max(1);
            let id = |client: u8| world.ids.get(who(client)).copied().unwrap_or(ConnectionId(9));
            match event {
                Event::Connect(at) => drop(world.connect(AT[usize::from(at)])),
                Event::Greet(it) => { let id = id(it); world.server.greet(id, world.now); }
                Event::Ask(it, request) => {
                    let id = id(it);
                    world.server.handle(id, request, world.now);
                }
                Event::Unfinished(it, is) => {
                    let id = id(it);
                    world.server.unfinished(id, is, world.now);
                }
                Event::Probed(it) => {
                    let id = id(it);
                    world.server.probed(id, 0, Reaction::Reset, Duration::ZERO);
                }
                Event::Goes(it) => { let id = id(it); world.server.disconnect(id, world.now); }
                Event::Wait(seconds) => {
                    world.now += Duration::from_secs(seconds.into());
                    world.server.handle_timeout(world.now);
                }
                Event::Stun(it) => { let id = id(it); world.server.stun(id, world.now); }
            }
            while world.server.poll().is_some() {}
            prop_assert!(world.server.places.is_consistent());
            prop_assert!(world.server.connections.len() <= small().connections);
            prop_assert!(world.server.deadlines.len() <= world.server.connections.len());
            let waits = |it: &&Connection| matches!(it.stage, Stage::Waiting { .. });
            let waiting = world.server.connections.values().filter(waits).count();
            prop_assert_eq!(world.server.counts().waiting, waiting as u64);
        }
        for id in world.ids.clone() {
            world.server.disconnect(id, world.now);
        }
        world.now += Duration::from_secs(4000);
        world.server.handle_timeout(world.now);
        prop_assert_eq!(world.server.places.len(), 0);
        prop_assert_eq!(world.server.quotas.len(), 0);
        prop_assert!(world.server.endpoints.is_empty() && world.server.listeners.is_empty());
        prop_assert_eq!(world.server.counts().open, 0);
        prop_assert_eq!(world.server.poll_timeout(), None);
    }
}
