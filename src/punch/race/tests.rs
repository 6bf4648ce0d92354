//! Two races and a wire between them that carries some tuples and not others, on a virtual clock
//! in milliseconds around the instant. Both ends call a tuple by the same port numbers.

use super::*;
use crate::punch::sample::OFFER;
use crate::punch::{Offer, SearchConfig};
use crate::wire::Seq;

const AT: i64 = 1_000_000;
const ONE_WAY: Duration = Duration::from_millis(10);
const TIMEOUT: Duration = Duration::from_secs(10);

fn ms(offset: i64) -> WallTime {
    WallTime::from_unix_ns((AT + offset) * 1_000_000)
}

fn tuple(host: u8, port: u16) -> Tuple {
    Tuple { local: ([10, 0, 0, host], port).into(), remote: ([10, 0, 0, 3 - host], port).into() }
}

fn config(host: u8, key: bool) -> AttemptConfig {
    let window = if host == 1 { 50_000 } else { 60_000 };
    AttemptConfig {
        tuple: tuple(host, 40),
        at: ms(0),
        agreed: ms(0),
        iss: Seq(if key { 100 } else { 1000 * u32::from(host) }),
        expected_irs: key.then_some([Seq(100), Seq(200), Seq(300)]),
        offer: Offer { window, ..OFFER },
        strategy: Strategy::Syn,
        racing: false,
        seed: u64::from(host) << 20,
    }
}

fn race(host: u8, key: bool, tuples: &[(u16, Strategy)]) -> Race {
    let tuples = tuples.iter().map(|(port, how)| (tuple(host, *port), *how)).collect();
    Race::new(RaceConfig {
        attempt: config(host, key),
        timeout: TIMEOUT,
        tuples,
        reserve: None,
        search: None,
    })
}

/// What the wire makes of a segment from this host.
type Wire = fn(u8, &Segment) -> bool;

/// Runs both until they are established or expire: the port each ends on, and when.
fn meet(mut races: [Race; 2], wire: Wire) -> [Option<(u16, i64)>; 2] {
    let mut flying: Vec<(WallTime, usize, Segment)> = Vec::new();
    let mut met = [None; 2];
    loop {
        let timeouts = races.iter().filter_map(Race::poll_timeout).min();
        let arrival = flying.iter().map(|(at, ..)| *at).min();
        let Some(now) = [timeouts, arrival].into_iter().flatten().min() else { return met };
        if arrival == Some(now) {
            let place = flying.iter().position(|(at, ..)| *at == now).unwrap();
            let (_, to, segment) = flying.remove(place);
            races[to].handle_segment(&segment, now);
        } else {
            races.iter_mut().for_each(|race| race.handle_timeout(now));
        }
        for from in [0, 1] {
            while let Some(output) = races[from].poll() {
                let mut sent = Vec::new();
                match output {
                    Output::Transmit(segment, _) => sent.push(segment),
                    Output::Spray(segment, batch) => {
                        let search = races[from].search().unwrap();
                        sent.extend(batch.tuples.map(|place| {
                            let (local, remote) = search.tuple(place);
                            let mut segment = segment.clone();
                            segment.tuple.local.set_port(local);
                            segment.tuple.remote.set_port(remote);
                            segment
                        }));
                    }
                    Output::Established(tcb) => {
                        met[from] = Some((tcb.tuple.local.port(), now.ns_since(ms(0)) / 1_000_000));
                        sent.push(tcb.acknowledge(Some((1, 1))));
                    }
                    Output::Prepare(_) | Output::Expired => {}
                }
                let host = if from == 0 { 1 } else { 2 };
                for segment in sent.into_iter().filter(|sent| sent.hop_limit > 5) {
                    if wire(host, &segment) {
                        let arrives = (now.after(ONE_WAY), 1 - from, segment);
                        flying.push(arrives);
                    }
                }
            }
        }
        // What an established end still gets, its kernel answers.
        assert!(now < ms(11_000), "endless");
    }
}

const AUTO: [(u16, Strategy); 2] = [(40, Strategy::SynAck), (41, Strategy::MidStream)];

#[test]
fn where_everything_passes_the_first_tuple_wins_at_both_ends_in_a_round_trip() {
    let met = meet([race(1, true, &AUTO), race(2, true, &AUTO)], |_, _| true);
    assert_eq!(met, [Some((40, 20)), Some((40, 20))]);
}

fn with_reserve(host: u8) -> Race {
    Race::new(RaceConfig {
        attempt: config(host, true),
        timeout: TIMEOUT,
        tuples: AUTO.map(|(port, how)| (tuple(host, port), how)).into(),
        reserve: Some(Reserve {
            tuple: tuple(host, 42),
            strategy: Strategy::SynAck,
            offer: Offer { window: 50_000 + u16::from(host), ..OFFER },
        }),
        search: None,
    })
}

#[test]
fn what_is_spoilt_at_the_first_instant_is_saved_at_the_second() {
    let met = meet([with_reserve(1), with_reserve(2)], |_, segment| {
        ![40, 41].contains(&segment.tuple.local.port())
    });
    assert_eq!(met, [Some((42, 420)), Some((42, 420))]);
}

#[test]
fn two_ends_that_take_each_other_for_themselves_meet_at_the_second_instant() {
    let alike = |host: u8| {
        let mut attempt = config(host, true);
        attempt.offer = OFFER;
        let offer = Offer { window: 50_000 + u16::from(host), ..OFFER };
        Race::new(RaceConfig {
            attempt,
            timeout: TIMEOUT,
            tuples: vec![(tuple(host, 40), Strategy::SynAck)],
            reserve: Some(Reserve { tuple: tuple(host, 42), strategy: Strategy::SynAck, offer }),
            search: None,
        })
    };
    let met = meet([alike(1), alike(2)], |_, _| true);
    assert_eq!(met, [Some((42, 420)), Some((42, 420))]);
}

#[test]
fn the_reserve_has_an_opener_as_far_ahead_as_the_others() {
    let mut race = with_reserve(1);
    race.set_opener(Opener { hop_limit: 2, at: ms(-250) });
    let mut opened = |at: i64| {
        race.handle_timeout(ms(at));
        std::iter::from_fn(|| race.poll())
            .filter_map(|output| match output {
                Output::Transmit(segment, Purpose::Opener) => Some(segment.tuple.local.port()),
                _ => None,
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(opened(-250), [40, 41]);
    assert!(opened(149).is_empty());
    assert_eq!(opened(150), [42]);
}

#[test]
fn where_the_peer_is_heard_there_is_no_second_instant() {
    let mut race = with_reserve(1);
    race.handle_timeout(ms(0));
    let syn = Attempt::new(AttemptConfig { iss: Seq(200), ..config(2, true) }).first(ms(0));
    race.handle_segment(&syn, ms(10));
    for at in [150, 400, 500, 1_000] {
        race.handle_timeout(ms(at));
        while let Some(output) = race.poll() {
            let on_reserve =
                matches!(&output, Output::Transmit(it, _) if it.tuple.local.port() == 42);
            assert!(!on_reserve, "{at} ms: {output:?}");
        }
    }
}

#[test]
fn four_ports_without_a_key_end_on_one() {
    let ports = [40, 41, 42, 43].map(|port| (port, Strategy::Syn));
    let met = meet([race(1, false, &ports), race(2, false, &ports)], |_, _| true);
    assert_eq!(met, [Some((40, 20)), Some((40, 20))]);
}

/// Each end hears the other first on a tuple of its own; the larger window decides.
#[test]
fn the_nominating_end_decides_where_the_ends_would_differ() {
    let ports = [40, 41].map(|port| (port, Strategy::Syn));
    let wire: Wire = |from, segment| {
        let first_syn = segment.syn && segment.ack.is_none();
        !first_syn || segment.tuple.local.port() == if from == 1 { 41 } else { 40 }
    };
    let [Some((a, _)), Some((b, _))] = meet([race(1, false, &ports), race(2, false, &ports)], wire)
    else {
        panic!("not met")
    };
    assert_eq!((a, b), (41, 41), "host 2 nominates and hears host 1 on 41");
}

/// Of 16,384 windows that may be drawn two are equal now and then.
#[test]
fn of_equal_windows_the_mark_decides() {
    let of_equals = |host: u8| {
        let mut attempt = config(host, true);
        attempt.offer = Offer { mark: host, ..OFFER };
        let tuples = [40, 41].map(|port| (tuple(host, port), Strategy::Syn)).into();
        Race::new(RaceConfig { attempt, timeout: TIMEOUT, tuples, reserve: None, search: None })
    };
    let wire: Wire = |from, segment| {
        let first_syn = segment.syn && segment.ack.is_none();
        !first_syn || segment.tuple.local.port() == if from == 1 { 41 } else { 40 }
    };
    let [Some((a, _)), Some((b, _))] = meet([of_equals(1), of_equals(2)], wire) else {
        panic!("not met")
    };
    assert_eq!((a, b), (41, 41), "host 2 nominates and hears host 1 on 41");
}

#[test]
fn where_no_syn_comes_in_an_unasked_syn_ack_does() {
    let both = [(40, Strategy::SynAck)];
    let wire: Wire = |_, segment| !segment.syn || segment.ack.is_some();
    let mut races = [race(1, true, &both), race(2, true, &both)];
    races.iter_mut().for_each(|race| race.set_one_way(ONE_WAY));
    let [Some((40, a)), Some((40, b))] = meet(races, wire) else { panic!("not met") };
    assert!(a <= 60 && b <= 60, "three round trips: {a} {b}");
}

#[test]
fn where_nothing_with_syn_passes_acks_of_an_agreed_connection_do() {
    let wire: Wire = |_, segment| !segment.syn;
    let met = meet([race(1, true, &AUTO), race(2, true, &AUTO)], wire);
    let [Some((41, a)), Some((41, b))] = met else { panic!("{met:?}") };
    assert!(a <= 60 && b <= 60, "{a} {b}");
}

/// Host 1 may be established there, by an acknowledgment that host 2 sent, however late.
#[test]
fn a_nominated_tuple_is_never_given_up() {
    let ports = [40, 41].map(|port| (port, Strategy::Syn));
    let mut nominating = race(2, false, &ports);
    let mut answering = race(1, false, &ports);
    let sent = |race: &mut Race| -> Vec<Segment> {
        let outputs = std::iter::from_fn(|| race.poll());
        outputs
            .filter_map(|output| match output {
                Output::Transmit(segment, _) => Some(segment),
                _ => None,
            })
            .collect()
    };
    answering.handle_timeout(ms(0));
    nominating.handle_timeout(ms(0));
    sent(&mut nominating);
    let [on_40, on_41] = &sent(&mut answering)[..] else { panic!("one SYN a tuple") };
    nominating.handle_segment(on_40, ms(10));
    assert_eq!(sent(&mut nominating).len(), 2, "SYN-ACK and ACK on 40");
    for at in [11, 2_000, 9_000] {
        nominating.handle_segment(on_41, ms(at));
        nominating.handle_timeout(ms(at));
        let ports: Vec<_> = sent(&mut nominating).iter().map(|sent| sent.tuple).collect();
        assert!(ports.iter().all(|sent| *sent == tuple(2, 40)), "{at}: {ports:?}");
    }
}

/// The SYN that comes in first may be of an earlier punch, which offered another window.
#[test]
fn a_late_syn_of_an_earlier_punch_does_not_settle_who_nominates() {
    let mut race = race(2, false, &[(40, Strategy::Syn), (41, Strategy::Syn)]);
    let theirs = |port: u16, window: u16, iss: u32| {
        let of = AttemptConfig {
            tuple: tuple(1, port),
            iss: Seq(iss),
            offer: Offer { window, ..OFFER },
            ..config(1, false)
        };
        Attempt::new(of).first(ms(0))
    };
    race.handle_segment(&theirs(40, 65_000, 7), ms(1));
    race.handle_segment(&theirs(40, 50_000, 1000), ms(8));
    while race.poll().is_some() {}
    race.handle_segment(&theirs(41, 50_000, 1000), ms(9));
    assert_eq!(race.poll(), None, "40 is nominated");
}

fn transmitted(race: &mut Race) -> Vec<Segment> {
    let transmitted = |output| match output {
        Output::Transmit(segment, _) => Some(segment),
        _ => None,
    };
    std::iter::from_fn(|| race.poll()).filter_map(transmitted).collect()
}

#[test]
fn a_flooded_tuple_leaves_the_field_to_mid_stream_for_a_while() {
    let mut race = race(1, true, &AUTO);
    let forged = Attempt::new(AttemptConfig { iss: Seq(7), ..config(2, false) }).first(ms(0));
    for _ in 0..FLOOD {
        race.handle_segment(&forged, ms(-100));
    }
    let peer = Attempt::new(config(2, true)).first(ms(-50));
    race.handle_segment(&peer, ms(-50));
    race.handle_timeout(ms(0));
    let ports: Vec<_> = transmitted(&mut race).iter().map(|sent| sent.tuple.local.port()).collect();
    assert_eq!(ports, [41], "nothing on the flooded tuple, neither a SYN nor an answer");
    race.handle_timeout(ms(0).after(YIELDING));
    race.handle_segment(&peer, ms(0).after(YIELDING));
    assert!(transmitted(&mut race).iter().any(|sent| sent.tuple.local.port() == 40));
}

#[test]
fn a_peer_with_one_strategy_meets_one_with_all() {
    let only = [(40, Strategy::Syn)];
    let met = meet([race(1, true, &AUTO), race(2, true, &only)], |_, _| true);
    assert_eq!(met, [Some((40, 20)), Some((40, 20))]);
}

#[test]
fn silence_ends_at_the_deadline_and_not_before() {
    let mut race = race(1, true, &AUTO);
    let mut now = ms(0);
    while now < ms(0).after(TIMEOUT) {
        race.handle_timeout(now);
        assert!(!std::iter::from_fn(|| race.poll()).any(|output| output == Output::Expired));
        now = race.poll_timeout().unwrap();
    }
    assert_eq!(now, ms(0).after(TIMEOUT));
    race.handle_timeout(now);
    assert_eq!((race.poll(), race.poll()), (Some(Output::Expired), None));
    assert_eq!(race.poll_timeout(), None);
    race.handle_segment(&Attempt::new(config(2, true)).first(now), now);
    assert_eq!(race.poll(), None, "nothing is answered any more");
}

fn searching(host: u8, sources: &[u16], targets: Vec<u16>) -> Race {
    let [local, remote] = [host, 3 - host].map(|host| [10, 0, 0, host].into());
    let search = Search::new(SearchConfig {
        local,
        remote,
        sources: sources.to_vec(),
        targets,
        peer_tuples: 0,
        rate: 1000,
        packets: 4000,
        fires: true,
        speculates: false,
        at: ms(0),
        lead: Duration::from_millis(250),
    });
    let mut race = Race::new(RaceConfig {
        attempt: config(host, false),
        timeout: TIMEOUT,
        tuples: vec![],
        reserve: None,
        search: Some(search),
    });
    race.set_opener(Opener { hop_limit: 2, at: ms(-250) });
    race
}

#[test]
fn a_search_meets_where_both_have_sent() {
    let races =
        [searching(1, &[7, 9], (1..30).collect()), searching(2, &[3, 5], (1..30).collect())];
    let wire: Wire = |_, segment| {
        let ports = (segment.tuple.local.port(), segment.tuple.remote.port());
        [(7, 5), (9, 3), (5, 7), (3, 9)].contains(&ports)
    };
    let [Some((a, _)), Some((b, _))] = meet(races, wire) else { panic!("not met") };
    assert!([(7, 5), (9, 3)].contains(&(a, b)), "{a} {b}");
}

#[test]
fn resets_make_no_state_and_strangers_little() {
    let mut race = searching(1, &[7], (1..1000).collect());
    race.handle_timeout(ms(0));
    for port in 1..1000 {
        let tuple =
            Tuple { local: ([10, 0, 0, 2], port).into(), remote: ([10, 0, 0, 1], 7).into() };
        let other = Attempt::new(AttemptConfig { tuple, ..config(2, false) });
        let reset = Segment { rst: true, ..other.first(ms(1)) };
        race.handle_segment(&reset, ms(1));
        assert!(race.attempts.is_empty());
    }
    for port in 1..1000 {
        let tuple =
            Tuple { local: ([10, 0, 0, 2], port).into(), remote: ([10, 0, 0, 1], 7).into() };
        let other = Attempt::new(AttemptConfig { tuple, ..config(2, false) });
        race.handle_segment(&other.first(ms(2)), ms(2));
        assert!(race.attempts.len() <= MOST_MET);
    }
}
