//! Sessions and the server's states under one virtual clock, whatever is in between.

mod world;

use super::*;
use crate::rendezvous::server::{Output, Said};
use crate::rendezvous::{Account, ClockTimes, MAX_FRAME, Report, Role};
use proptest::prelude::*;
use world::{AHEAD_NS, MS, Parcel, SECOND, WAY, World};

fn account() -> Told {
    Told::Account(Account::default())
}

fn report(session: &Session, now: WallTime) -> Told {
    let estimate = session.clock(now).expect("the clock is known");
    Told::Report(Box::new(Report::new(&estimate, now, Duration::ZERO)))
}

/// The code of `code`, with another second word.
fn misheard(code: &Code) -> Code {
    let text = code.to_string();
    let (kept, last) = text.rsplit_once('-').unwrap();
    let other = if last == "umbrella" { "zodiac" } else { "umbrella" };
    format!("{kept}-{other}").parse().unwrap()
}

/// Two who have a code in common.
fn keyed() -> World {
    let mut world = World::new();
    let a = world.client(Purpose::NewCode([3; 32]));
    world.pass(SECOND);
    let code = world.clients[a].code();
    world.client(Purpose::Code(code));
    world.pass(SECOND);
    for client in &world.clients {
        assert!(client.events.contains(&Event::Keyed), "{:?}", client.events);
    }
    world
}

fn same_secrets(world: &World) -> bool {
    let [a, b] = [0, 1].map(|nth| world.clients[nth].session.secrets().unwrap());
    a.role() != b.role()
        && a.proof(Role::Controlling, b"test") == b.proof(Role::Controlling, b"test")
}

#[test]
fn two_with_one_code_tell_each_other() {
    let mut world = keyed();
    assert!(same_secrets(&world));
    let told = [0, 1].map(|nth| {
        let told = report(&world.clients[nth].session, world.now);
        world.tell(nth, &told);
        told
    });
    world.pass(2 * WAY);
    assert_eq!(world.clients[0].told(), [&told[1]]);
    assert_eq!(world.clients[1].told(), [&told[0]]);
}

/// Who comes second has the peer's opening after two ways, and can tell in the same moment.
#[test]
fn the_second_has_keys_and_clock_after_one_round_trip() {
    let mut world = World::new();
    let a = world.client(Purpose::NewCode([3; 32]));
    world.pass(SECOND);
    let b = world.client(Purpose::Code(world.clients[a].code()));
    world.pass(2 * WAY);
    assert!(world.clients[b].events.contains(&Event::Keyed));
    let estimate = world.clients[b].session.clock(world.now).unwrap();
    assert_eq!(estimate.round_trip, 2 * WAY);
    assert!((estimate.offset_ns - AHEAD_NS).unsigned_abs() <= estimate.bound.as_nanos() as u64);
    assert!((estimate.offset_ns - AHEAD_NS).unsigned_abs() < 10_000, "{estimate:?}");
}

#[test]
fn a_call_is_taken() {
    let mut world = World::new();
    let [home, laptop] = [[1; 32], [2; 32]].map(Identity::generate);
    let listener = world.connect();
    let answers = |world: &mut World, request| {
        world.server.handle(listener, request, Duration::ZERO);
        std::iter::from_fn(|| world.server.poll()).last()
    };
    world.server.greet(listener, Duration::ZERO);
    let asked = answers(&mut world, Request::Listen(home.public()));
    let Some(Output::Answer { answer: Answer::Challenge(challenge), .. }) = asked else {
        panic!("{asked:?}")
    };
    answers(&mut world, Request::Prove(home.prove(challenge)));
    let caller = world.client(Purpose::Call(laptop.clone(), home.public()));
    // Its ticket does not go to a client of the world's: it is taken off the wire.
    let mut ticket = None;
    world.proceed();
    world.now = world.now.after(WAY);
    let (_, (_, parcel)) = world.parcels.pop_first().unwrap();
    let Parcel::ToServer(bytes) = parcel else { panic!("{parcel:?}") };
    world.clients[caller].said.extend(&bytes);
    while let Ok(Some(said)) = world.clients[caller].said.take() {
        let (id, uptime) = (world.clients[caller].id, world.uptime());
        match said {
            Said::Request(request) => world.server.handle(id, request, uptime),
            _ => world.server.greet(id, uptime),
        }
    }
    while let Some(output) = world.server.poll() {
        if let Output::Answer { answer: Answer::Called { ticket: called, .. }, .. } = output {
            ticket = Some(called);
        }
    }
    let taker = world.client(Purpose::Take(home.clone(), ticket.unwrap()));
    world.pass(SECOND);
    assert!(same_secrets(&world), "{:?}", world.clients[taker].over);
    let peer = |nth: usize| world.clients[nth].session.secrets().and_then(Secrets::peer);
    assert_eq!((peer(caller), peer(taker)), (Some(home.public()), Some(laptop.public())));
    world.tell(taker, &Told::NotLetIn);
    world.pass(SECOND);
    assert_eq!(world.clients[caller].told(), [&Told::NotLetIn]);
}

#[test]
fn a_wrong_word_ends_both_and_spends_the_code() {
    for (teller, hearer) in [(0, 1), (1, 0)] {
        let mut world = World::new();
        let a = world.client(Purpose::NewCode([3; 32]));
        world.pass(SECOND);
        let code = world.clients[a].code();
        world.client(Purpose::Code(misheard(&code)));
        world.pass(SECOND);
        // The other one has nothing to tell yet, and hears of it all the same.
        world.tell(teller, &account());
        world.pass(SECOND);
        for nth in [teller, hearer] {
            let over = &world.clients[nth].over;
            assert!(matches!(over, Some(SessionError::WrongCode)), "{nth}: {over:?}");
            assert!(world.clients[nth].told().is_empty());
        }
        let third = world.client(Purpose::Code(code));
        world.pass(SECOND);
        assert_eq!(world.over(third), Refusal::Occupied.to_string());
    }
}

#[test]
fn both_may_join_by_a_number_that_nobody_gave_out() {
    let mut world = World::new();
    let code: Code = "4711-guitar-umbrella".parse().unwrap();
    for _ in 0..2 {
        world.client(Purpose::Code(code.clone()));
        world.pass(SECOND);
    }
    assert!(same_secrets(&world));
}

#[test]
fn a_server_that_sends_back_our_own_messages_learns_nothing() {
    let mut world = World::new();
    let a = world.client(Purpose::NewCode([3; 32]));
    world.pass(SECOND);
    let code = world.clients[a].code();
    let ours = Exchange::by_code(&code, [2; 32]).opening().unwrap().to_vec();
    let b = world.client(Purpose::Code(code));
    world.tamper = Box::new(move |nth, answer| match answer {
        Answer::Met { .. } if nth == b => vec![Answer::Met { opening: ours.clone() }],
        answer => vec![answer],
    });
    world.pass(SECOND);
    assert_eq!(world.over(b), ExchangeError::Reflected.to_string());

    let mut world = keyed();
    let secrets = world.clients[0].session.secrets.as_mut().unwrap();
    let sealed = secrets.seal(&account().to_bytes().unwrap());
    world.post(0, Parcel::ToClient(frame(&Answer::Relayed(sealed)).unwrap()));
    world.pass(SECOND);
    assert_eq!(world.over(0), SessionError::WrongCode.to_string());
}

#[test]
fn what_is_repeated_or_altered_on_the_way_ends_the_session_at_both_ends() {
    type Alter = fn(Vec<u8>) -> Vec<Vec<u8>>;
    let alterations: [Alter; 4] = [
        |sealed| vec![sealed.clone(), sealed],
        |sealed| vec![sealed[..sealed.len() - 1].to_vec()],
        |mut sealed| {
            sealed[0] ^= 1;
            vec![sealed]
        },
        |_| vec![Vec::new()],
    ];
    for alter in alterations {
        let mut world = keyed();
        world.tamper = Box::new(move |nth, answer| match answer {
            Answer::Relayed(sealed) if nth == 1 => {
                alter(sealed).into_iter().map(Answer::Relayed).collect()
            }
            answer => vec![answer],
        });
        world.tell(0, &account());
        world.pass(SECOND);
        assert_eq!(
            [world.over(0), world.over(1)],
            [(); 2].map(|()| SessionError::WrongCode.to_string())
        );
    }
}

#[test]
fn who_leaves_is_missed() {
    let mut world = keyed();
    world.leave(1);
    world.pass(SECOND);
    assert_eq!(world.clients[0].events.last(), Some(&Event::Left));
    assert_eq!(world.over(0), "", "it may have all it needs");
}

#[test]
fn a_server_that_is_there_is_asked_now_and_then_and_no_more() {
    let mut world = World::new();
    let a = world.client(Purpose::NewCode([3; 32]));
    world.pass(50 * 60 * SECOND);
    assert_eq!(world.over(a), "");
    let bursts = 50 * 60 / 20;
    let posted = world.posted / 2 / Session::BURST as u64;
    assert!((bursts - 2..=bursts + 2).contains(&posted), "{posted} bursts");
}

#[test]
fn a_server_that_is_silently_gone_is_missed_within_half_a_minute() {
    for keyed_before in [false, true] {
        let mut world = if keyed_before { keyed() } else { World::new() };
        if !keyed_before {
            world.client(Purpose::NewCode([3; 32]));
            world.pass(SECOND);
        }
        world.tamper = Box::new(|_, _| Vec::new());
        world.pass(REPEAT);
        assert_eq!(world.over(0), "", "nobody has asked yet");
        world.pass(6 * SECOND);
        assert_eq!(world.over(0), "the server has not answered for 5s");
    }
}

#[test]
fn a_server_that_never_says_anything_is_given_up() {
    let mut world = World::new();
    world.tamper = Box::new(|_, _| Vec::new());
    let a = world.client(Purpose::Code("7-guitar-umbrella".parse().unwrap()));
    world.pass(4900 * MS);
    assert_eq!(world.over(a), "");
    world.pass(200 * MS);
    assert_eq!(world.over(a), "the server has not answered for 5s");
}

/// A clock that jumps says nothing about the server.
#[test]
fn a_clock_that_is_set_does_not_make_a_server_silent() {
    let now = WallTime::from_unix_ns(1_790_000_000_000_000_000);
    let answer = |sent: WallTime| {
        let ns = sent.unix_ns();
        let times = ClockTimes { sent_ns: ns, received_ns: ns, answered_ns: ns };
        frame(&Answer::Clock(times)).unwrap()
    };
    for hour in [now.after(3600 * SECOND), now.before(3600 * SECOND)] {
        let mut session = Session::new(Purpose::NewCode([1; 32]), [2; 32], now).unwrap();
        let mut asked = 0;
        for at in [now, hour, hour.after(SECOND)] {
            session.handle_timeout(at).unwrap();
            asked += usize::from(!session.output(at).is_empty());
        }
        assert_eq!(asked, 3, "it goes on asking");
        let at = hour.after(SECOND + MS);
        session.handle(&answer(at), at).unwrap();
        session.handle_timeout(at.after(2 * SECOND)).unwrap();
        // What was measured before is not mixed with what is measured after.
        session.reset_clock(at);
        assert_eq!(session.clock(at), None);
    }
}

#[test]
fn a_peer_that_does_not_begin_is_not_waited_for() {
    let [home, laptop] = [[1; 32], [2; 32]].map(Identity::generate);
    for purpose in
        [Purpose::Code("7-guitar-umbrella".parse().unwrap()), Purpose::Call(laptop, home.public())]
    {
        let mut world = World::new();
        world.tamper = Box::new(|_, answer| match answer {
            Answer::Welcome { .. } => vec![answer, Answer::Met { opening: Vec::new() }],
            Answer::Clock(_) => vec![answer],
            _ => Vec::new(),
        });
        world.client(purpose);
        world.pass(7 * SECOND);
        assert_eq!(world.over(0), "");
        world.pass(2 * SECOND);
        assert_eq!(world.over(0), "the peer came, and said nothing within 8s");
    }
}

/// A program that reads the code can be faster than the one that made it.
#[test]
fn a_peer_may_come_before_the_opening_of_who_waits() {
    let mut world = World::new();
    world.client(Purpose::NewCode([3; 32]));
    world.pass(MS);
    world.client(Purpose::Code(Code::new(1, [3; 32])));
    world.pass(SECOND);
    assert_eq!([world.over(0), world.over(1)], ["", ""]);
    assert!(same_secrets(&world));
}

fn welcome(observed: &str, others: u8) -> Answer {
    let other = |nth| SocketAddr::from(([203, 0, 113, nth], 3478));
    Answer::Welcome {
        observed: observed.parse().unwrap(),
        other_port: None,
        other_address: (0..others).map(other).collect(),
    }
}

fn hears(answers: &[Answer]) -> (Result<(), SessionError>, Vec<Event>) {
    let now = WallTime::from_unix_ns(1_790_000_000_000_000_000);
    let mut session = Session::new(Purpose::NewCode([1; 32]), [2; 32], now).unwrap();
    let bytes: Vec<u8> = answers.iter().flat_map(|it| frame(it).unwrap()).collect();
    let heard = session.handle(&bytes, now);
    (heard, std::iter::from_fn(|| session.poll()).collect())
}

#[test]
fn a_server_that_tells_an_address_of_nobody_is_not_believed() {
    for (observed, why) in [
        ("0.0.0.0:40000", "is no address of a host"),
        ("224.0.0.1:40000", "is no address of a host"),
        ("[ff02::1]:40000", "is no address of a host"),
        ("198.51.100.1:0", "has no port"),
    ] {
        let (heard, events) = hears(&[welcome(observed, 0)]);
        let said = heard.unwrap_err().to_string();
        assert_eq!(
            said,
            format!("the server says that this host appears as {observed}, which {why}")
        );
        assert_eq!(events, []);
    }
}

/// Or it could have us knock at other people's doors.
#[test]
fn a_server_names_few_addresses_and_once() {
    let (heard, events) = hears(&[welcome("198.51.100.1:40000", 100)]);
    heard.unwrap();
    let [Event::Welcome { other_address, .. }] = &events[..] else { panic!("{events:?}") };
    assert_eq!(other_address.len(), 2);
    let (heard, _) = hears(&[welcome("198.51.100.1:40000", 0), welcome("198.51.100.1:40000", 1)]);
    assert!(matches!(heard, Err(SessionError::OutOfTurn)), "{heard:?}");
}

#[test]
fn what_makes_no_sense_ends_the_session() {
    let now = WallTime::from_unix_ns(1_790_000_000_000_000_000);
    let over = |bytes: &[u8]| {
        let mut session = Session::new(Purpose::NewCode([1; 32]), [2; 32], now).unwrap();
        session.handle(bytes, now).unwrap_err()
    };
    assert!(matches!(
        over(b"SSH-2.0-OpenSSH_9.2\r\n"),
        SessionError::Frame(FrameError::Oversized(_))
    ));
    assert!(matches!(over(&[0, 3, 0xff, 0xff, 0xff]), SessionError::Frame(FrameError::Malformed)));
    for answer in [
        Answer::Listening,
        Answer::Relayed(vec![0; 40]),
        Answer::Met { opening: vec![0; 33] },
        Answer::Challenge([0; 32]),
        Answer::Called { ticket: Ticket([0; 16]), opening: Vec::new() },
    ] {
        let (heard, _) = hears(&[answer]);
        assert!(matches!(heard, Err(SessionError::OutOfTurn)), "{heard:?}");
    }
}

fn answers() -> impl Strategy<Value = Answer> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..80);
    prop_oneof![
        Just(welcome("198.51.100.1:40000", 2)),
        any::<(i64, i64, i64)>().prop_map(|(sent_ns, received_ns, answered_ns)| {
            Answer::Clock(ClockTimes { sent_ns, received_ns, answered_ns })
        }),
        any::<u32>().prop_map(Answer::Allocated),
        bytes().prop_map(|opening| Answer::Met { opening }),
        bytes().prop_map(Answer::Relayed),
        Just(Answer::Left),
        Just(Answer::Listening),
        Just(Answer::Refused(Refusal::Full)),
        any::<[u8; 32]>().prop_map(Answer::Challenge),
    ]
}

proptest! {
    /// Neither random bytes nor random messages at random times harm, in any state.
    #[test]
    fn no_server_brings_a_session_down(
        keyed_before: bool,
        answers in prop::collection::vec(answers(), 0..12),
        noise in prop::collection::vec(any::<u8>(), 0..100),
        times in prop::collection::vec(any::<i64>(), 12),
    ) {
        let mut world = if keyed_before { keyed() } else { World::new() };
        if !keyed_before {
            world.client(Purpose::NewCode([3; 32]));
        }
        let session = &mut world.clients[0].session;
        for (answer, at) in answers.iter().zip(&times) {
            let at = WallTime::from_unix_ns(*at);
            let _ = session.handle_timeout(at);
            prop_assert!(session.output(at).len() <= 2 * MAX_FRAME);
            if session.handle(&frame(answer).unwrap(), at).is_err() {
                break;
            }
            session.clock(at);
        }
        let _ = session.handle(&noise, WallTime::from_unix_ns(times[0]));
    }

    /// A peer that holds the keys and tells nonsense ends the session, or is understood.
    #[test]
    fn no_peer_brings_a_session_down(
        kind in 0_u8..5,
        noise in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut world = keyed();
        let secrets = world.clients[1].session.secrets.as_mut().unwrap();
        let sealed = secrets.seal(&[&[kind], &noise[..]].concat());
        let now = world.now;
        let bytes = frame(&Answer::Relayed(sealed)).unwrap();
        let session = &mut world.clients[0].session;
        match session.handle(&bytes, now) {
            Ok(()) => prop_assert!(matches!(session.poll(), Some(Event::Told(_)))),
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }
}

#[test]
fn the_clock_of_a_meeting_is_that_of_the_peers_server_once_it_is_told() {
    let at = |ms: i64| WallTime::from_unix_ns(1_800_000_000_000_000_000 + ms * 1_000_000);
    let mut session = Session::new(Purpose::NewCode([1; 32]), [2; 32], at(0)).unwrap();
    let times = |sent: WallTime, ahead_ns| ClockTimes {
        sent_ns: sent.unix_ns(),
        received_ns: sent.unix_ns() + 5_000_000 + ahead_ns,
        answered_ns: sent.unix_ns() + 5_000_000 + ahead_ns,
    };
    let clock = Answer::Clock(times(at(0), 40));
    session.handle(&frame(&clock).unwrap(), at(10)).unwrap();
    let before = session.clock(at(10)).unwrap();
    assert_eq!(before.offset_ns, 40);
    let shift = ClockShift { ahead_ns: 7_000_000_000, bound_ns: 1_000, likely_ns: 10 };
    session.handle(&frame(&Answer::Shifted(shift)).unwrap(), at(10)).unwrap();
    let after = session.clock(at(10)).unwrap();
    assert_eq!(after.offset_ns, 7_000_000_040);
    assert_eq!(after.bound, before.bound + Duration::from_nanos(1_000));
    assert_eq!(after.likely, before.likely + Duration::from_nanos(10));
    // The servers' clocks drift apart, and ours from the server's: 0.2 ms a second each.
    let later = session.clock(at(1_010)).unwrap();
    assert_eq!(later.bound - after.bound, Duration::from_micros(400));
    // What the server says of its own clock is still said of that one.
    session.handle(&frame(&Answer::Clock(times(at(1_000), 40))).unwrap(), at(1_010)).unwrap();
    assert_eq!(session.clock(at(1_010)).unwrap().offset_ns, 7_000_000_040);
}
