use super::*;
use crate::punch::Plan;
use crate::wire::WallTime;
use proptest::prelude::*;

const NOON: i64 = 1_795_258_800_000_000_000;
const MS: i64 = 1_000_000;

fn clock() -> ClockEstimate {
    ClockEstimate {
        offset_ns: 0,
        bound: Duration::from_millis(10),
        likely: Duration::from_micros(100),
        round_trip: Duration::from_millis(20),
        at: WallTime::from_unix_ns(NOON),
    }
}

fn candidate(kind: CandidateKind, address: &str, base: &str) -> Candidate {
    Candidate::new(kind, address.parse().unwrap(), base.parse().unwrap()).unwrap()
}

fn lan(address: &str) -> Candidate {
    candidate(CandidateKind::Lan, address, address)
}

fn ipv6(address: &str) -> Candidate {
    candidate(CandidateKind::Ipv6, address, address)
}

fn reflexive(address: &str, base: &str) -> Candidate {
    candidate(CandidateKind::Reflexive, address, base)
}

fn mapped(address: &str, base: &str) -> Candidate {
    candidate(CandidateKind::Mapped, address, base)
}

fn report(candidates: &[Candidate]) -> Report {
    let mut report = Report::new(&clock(), WallTime::from_unix_ns(NOON), Duration::ZERO);
    report.candidates = candidates.to_vec();
    report
}

fn home(host: u8, external: u8, port: u16) -> Report {
    report(&[
        lan(&format!("192.168.1.{host}:{port}")),
        reflexive(&format!("203.0.113.{external}:{port}"), &format!("192.168.1.{host}:{port}")),
    ])
}

fn agree(ours: &Report, theirs: &Report) -> Agreement {
    Agreement::of(ours, theirs, Role::Controlling).unwrap()
}

fn kinds_of(agreement: &Agreement) -> Vec<PairKind> {
    agreement.pairs.iter().map(|pair| pair.kind).collect()
}

/// From the moment at which the later report has arrived, in microseconds.
fn margin_us(agreement: &Agreement, ours: &Report, theirs: &Report) -> i64 {
    let known = ours.sent.max(theirs.sent).after(ours.to_server + theirs.to_server);
    agreement.instant.ns_since(known) / 1000
}

#[test]
fn both_ready_fire_some_twenty_milliseconds_after_both_know() {
    let (mut ours, theirs) = (home(2, 1, 40000), home(3, 2, 40000));
    assert_eq!(margin_us(&agree(&ours, &theirs), &ours, &theirs), 20_200);
    // A pessimistic bound delays nothing, and an error no more than it helps.
    ours.clock_bound = Duration::from_secs(1);
    assert_eq!(margin_us(&agree(&ours, &theirs), &ours, &theirs), 20_200);
    ours.clock_likely = Duration::from_secs(1);
    assert_eq!(margin_us(&agree(&ours, &theirs), &ours, &theirs), 25_100);
}

#[test]
fn the_later_one_is_waited_for() {
    let (ours, mut theirs) = (home(2, 1, 40000), home(3, 2, 40000));
    theirs.ready = theirs.sent.after(Duration::from_secs(2));
    assert_eq!(agree(&ours, &theirs).instant.ns_since(theirs.ready), 20_200_000);
    theirs.sent = ours.sent.after(Duration::from_secs(3));
    assert_eq!(margin_us(&agree(&ours, &theirs), &ours, &theirs), 20_200);
    assert!(agree(&ours, &theirs).instant > theirs.sent);
}

#[test]
fn absurd_times_are_refused() {
    let (ours, mut theirs) = (home(2, 1, 40000), home(3, 2, 40000));
    let error = |theirs: &Report| Agreement::of(&ours, theirs, Role::Controlled).unwrap_err();
    theirs.ready = theirs.sent.after(Duration::from_secs(3 * 86_400));
    let message = error(&theirs).to_string();
    assert!(message.starts_with("the punch would be 259200.0 s away, and 10.0 s"), "{message}");
    theirs.ready = ServerTime::from_unix_ns(i64::MAX);
    assert!(matches!(error(&theirs), AgreementError::TooFarAhead(_)));
    for sent in [i64::MIN, NOON - 11_000 * MS, NOON + 11_000 * MS, i64::MAX] {
        theirs.sent = ServerTime::from_unix_ns(sent);
        assert!(matches!(error(&theirs), AgreementError::TimesApart(_)), "{sent}");
    }
}

#[test]
fn two_homes_meet_through_both_routers() {
    let (ours, theirs) = (
        home(2, 1, 40000),
        report(&[lan("10.0.0.5:50000"), reflexive("203.0.113.2:50001", "10.0.0.5:50000")]),
    );
    let agreement = agree(&ours, &theirs);
    assert_eq!(kinds_of(&agreement), [PairKind::Reflexive]);
    let pair = agreement.pairs[0];
    assert_eq!(pair.ours.base(), "192.168.1.2:40000".parse().unwrap());
    assert_eq!(pair.theirs.address(), "203.0.113.2:50001".parse().unwrap());
    let (one, other) = agreement.ends(&pair, &clock());
    assert_eq!((one.port, other.port), (40000, 50001));
}

#[test]
fn homes_that_number_alike_try_their_own_network_too() {
    let agreement = agree(&home(2, 1, 40000), &home(3, 2, 40000));
    assert_eq!(kinds_of(&agreement), [PairKind::Lan, PairKind::Reflexive]);
    // The same address is no neighbour.
    let agreement = agree(&home(2, 1, 40000), &home(2, 2, 40000));
    assert_eq!(kinds_of(&agreement), [PairKind::Reflexive]);
}

#[test]
fn two_hosts_behind_one_router_meet_inside_and_by_its_hairpin() {
    let ours =
        report(&[lan("192.168.1.2:40000"), reflexive("203.0.113.1:40000", "192.168.1.2:40000")]);
    let theirs = report(&[
        lan("192.168.7.3:40001"),
        lan("192.168.1.3:40001"),
        reflexive("203.0.113.1:40001", "192.168.1.3:40001"),
    ]);
    let agreement = agree(&ours, &theirs);
    assert_eq!(kinds_of(&agreement), [PairKind::Lan, PairKind::Lan, PairKind::Hairpin]);
    assert_eq!(agreement.pairs[0].theirs, lan("192.168.1.3:40001"), "the nearest first");
    assert!(agreement.pairs.iter().all(|pair| pair.slot == 0), "one local port");
}

#[test]
fn everything_is_tried_best_first() {
    let ours = report(&[
        reflexive("203.0.113.1:40000", "192.168.1.2:40000"),
        mapped("203.0.113.1:7000", "192.168.1.2:40002"),
        ipv6("[2001:db8:1::2]:40001"),
        lan("192.168.1.2:40000"),
    ]);
    let mut theirs = report(&[
        lan("192.168.1.3:50000"),
        ipv6("[2001:db8:2::2]:50001"),
        reflexive("198.51.100.1:50000", "192.168.1.3:50000"),
    ]);
    use PairKind::{Ipv6, Lan, Mapped, Predicted, Reflexive};
    let agreement = agree(&ours, &theirs);
    assert_eq!(kinds_of(&agreement), [Lan, Ipv6, Mapped, Reflexive]);
    assert_eq!(agreement.pairs.iter().map(|it| it.slot).collect::<Vec<_>>(), [0, 1, 2, 0]);
    theirs.model = clock().shared(&PortModel::LinuxRandom);
    let agreement = agree(&ours, &theirs);
    assert_eq!(kinds_of(&agreement), [Lan, Ipv6, Mapped, Predicted]);
    let (one, other) = agreement.ends(&agreement.pairs[3], &clock());
    assert_eq!((one.model, other.model), (PortModel::Preserving, PortModel::LinuxRandom));
    let (one, other) = agreement.ends(&agreement.pairs[2], &clock());
    assert_eq!((one.model, one.port), (PortModel::Stable, 7000));
    assert_eq!(other.model, PortModel::LinuxRandom);
    let (_, other) = agreement.ends(&agreement.pairs[1], &clock());
    assert_eq!((other.model, other.port), (PortModel::Preserving, 50001));
}

#[test]
fn many_addresses_of_one_kind_leave_room_for_the_others() {
    let many = |site: u8| {
        let mut all: Vec<_> =
            (1..15).map(|n| ipv6(&format!("[2001:db8:{site}::{n}]:40001"))).collect();
        all.push(reflexive(&format!("203.0.113.{site}:40000"), "192.168.1.2:40000"));
        report(&all)
    };
    let agreement = agree(&many(1), &many(2));
    assert_eq!(kinds_of(&agreement), [PairKind::Ipv6, PairKind::Ipv6, PairKind::Reflexive]);
    assert_eq!(agreement.pairs[0].ours, ipv6("[2001:db8:1::1]:40001"));
}

#[test]
fn ends_that_cannot_reach_each_other_are_told_so() {
    let ours = report(&[lan("192.168.1.2:1"), reflexive("203.0.113.1:1", "192.168.1.2:1")]);
    let theirs = report(&[ipv6("[2001:db8::1]:1")]);
    assert_eq!(
        Agreement::of(&ours, &theirs, Role::Controlling).unwrap_err().to_string(),
        "no address of ours can reach one of the peer's: we have local network IPv4, \
         reflexive IPv4; the peer has IPv6"
    );
}

#[test]
fn unique_local_addresses_meet_on_one_link_only() {
    let ours = report(&[ipv6("[fd00:1::1]:1")]);
    let reaches =
        |theirs: &str| Agreement::of(&ours, &report(&[ipv6(theirs)]), Role::Controlling).is_ok();
    assert!(reaches("[fd00:1::2]:1"));
    assert!(!reaches("[fd00:2::2]:1"));
    assert!(!reaches("[2001:db8::2]:1"));
}

#[test]
fn what_one_end_forbids_is_not_done() {
    let (mut ours, mut theirs) = (home(2, 1, 40000), home(3, 2, 40000));
    (ours.wants_proof, theirs.wants_proof) = (false, false);
    assert!(!agree(&ours, &theirs).proof);
    theirs.wants_proof = true;
    assert!(agree(&ours, &theirs).proof);
    ours.budget = Budget { packets: 10, entries: 9000, rate: 7 };
    theirs.budget = Budget { packets: 20, entries: 5, rate: 8 };
    assert_eq!(agree(&ours, &theirs).budget, Budget { packets: 10, entries: 5, rate: 7 });
    ours.strategies = "syn,mid-stream".parse().unwrap();
    assert_eq!(agree(&ours, &theirs).strategies, ours.strategies);
    theirs.strategies = "syn,syn-ack".parse().unwrap();
    assert_eq!(agree(&ours, &theirs).strategies, "syn".parse().unwrap());
    theirs.strategies = "syn-ack".parse().unwrap();
    let refused = Agreement::of(&ours, &theirs, Role::Controlling);
    assert_eq!(refused, Err(AgreementError::NoStrategy));
}

#[test]
fn ends_whose_clocks_differ_plan_the_same_search() {
    let (here, there) = (clock(), ClockEstimate { offset_ns: -437_123_456_789, ..clock() });
    let (mut ours, mut theirs) = (home(2, 1, 40000), home(3, 2, 40000));
    let sequential = "sequential:next=4000,rate=3,at=1795258799.123456789".parse().unwrap();
    ours.model = here.shared(&sequential);
    theirs.model = there.shared(&PortModel::LinuxRandom);
    let plan = |ours: &Report, theirs: &Report, role: Role, clock: &ClockEstimate| {
        let agreement = Agreement::of(ours, theirs, role).unwrap();
        let pair = agreement.pairs.iter().find(|it| it.kind == PairKind::Predicted).unwrap();
        let (one, other) = agreement.ends(pair, clock);
        Plan::new(&one, &other, &agreement.budget, clock.to_local(agreement.instant)).unwrap()
    };
    let one = plan(&ours, &theirs, Role::Controlling, &here);
    let other = plan(&theirs, &ours, Role::Controlled, &there);
    assert!(one.chance > 0.5, "{}", one.words());
    assert_eq!(one.chance.to_bits(), other.chance.to_bits(), "to the last bit: one plan");
    assert_eq!(one.expected_matches.to_bits(), other.expected_matches.to_bits());
}

fn candidates() -> impl Strategy<Value = Candidate> {
    let ip = prop_oneof![
        (1..4_u8, 1..4_u8).prop_map(|(net, host)| IpAddr::from([192, 168, net, host])),
        (1..3_u8).prop_map(|host| IpAddr::from([203, 0, 113, host])),
        (1..3_u16, 1..3_u16)
            .prop_map(|(net, host)| IpAddr::from([0x2001, 0xdb8, net, 0, 0, 0, 0, host])),
        (1..3_u16).prop_map(|host| IpAddr::from([0xfd00, 1, 0, 0, 0, 0, 0, host])),
    ];
    let end = (ip.clone(), 1..4_u16, ip, 1..4_u16, 0..4_usize);
    end.prop_filter_map("of one family", |(ip, port, base, base_port, kind)| {
        Candidate::new(CandidateKind::ALL[kind], (ip, port).into(), (base, base_port).into()).ok()
    })
}

prop_compose! {
    fn reports()(
        candidates in prop::collection::vec(candidates(), 0..=16),
        sent in 0..6000_i64,
        ready in -100..6000_i64,
        to_server_ns in 0..300_000_000_u64,
        likely_ns in 0..20_000_000_u64,
        model in prop::sample::select(vec![
            "preserving", "stable", "linux-random",
            "sequential:next=4000,rate=0.1,at=1795258800.123456789",
        ]),
        external in prop::option::of(1..9999_u16),
        packets in 1..9999_u32,
        strategies in prop::sample::select(vec!["auto", "syn", "syn-ack,mid-stream", "syn,syn-ack"]),
        wants_proof: bool,
    ) -> Report {
        let sent = ServerTime::from_unix_ns(NOON + sent * MS);
        let report = Report {
            sent,
            ready: ServerTime::from_unix_ns(sent.unix_ns() + ready * MS),
            to_server: Duration::from_nanos(to_server_ns),
            clock_bound: Duration::from_nanos(to_server_ns),
            clock_likely: Duration::from_nanos(likely_ns),
            candidates,
            model: clock().shared(&model.parse().unwrap()),
            external: external.map(|port| ([203, 0, 113, 1], port).into()),
            budget: Budget { packets, ..Budget::default() },
            strategies: strategies.parse().unwrap(),
            wants_proof,
        };
        // What one end has is what the other end gets.
        Report::from_bytes(&report.to_bytes().unwrap()).unwrap()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    #[test]
    fn both_ends_reckon_the_same(one in reports(), other in reports(), controlling: bool) {
        let role = if controlling { Role::Controlling } else { Role::Controlled };
        let here = Agreement::of(&one, &other, role);
        let there = Agreement::of(&other, &one, role.other());
        match (here, there) {
            (Ok(here), Ok(there)) => {
                prop_assert!((1..=Agreement::MOST_PAIRS).contains(&here.pairs.len()));
                let ends = |it: &Pair| (it.ours, it.theirs, it.kind);
                let mirrored: Vec<_> = there.pairs.iter().map(|it| (it.theirs, it.ours, it.kind)).collect();
                prop_assert_eq!(here.pairs.iter().map(ends).collect::<Vec<_>>(), mirrored);
                for (pair, mirrored) in here.pairs.iter().zip(&there.pairs) {
                    let (ours, theirs) = here.ends(pair, &clock());
                    prop_assert_eq!(there.ends(mirrored, &clock()), (theirs, ours));
                }
                prop_assert!(here.pairs.is_sorted_by_key(|pair| pair.kind), "best first");
                let common = |it: Agreement| (it.instant, it.bound, it.likely, it.budget, it.strategies, it.proof);
                prop_assert!(here.instant >= one.ready.max(other.ready));
                prop_assert_eq!(common(here), common(there));
            }
            (Err(here), Err(there)) => prop_assert_eq!(
                std::mem::discriminant(&here), std::mem::discriminant(&there)
            ),
            (here, there) => prop_assert!(false, "{:?} here, {:?} there", here, there),
        }
    }

    #[test]
    fn no_times_panic(mut one in reports(), other in reports(), sent: i64, ready: i64) {
        one.sent = ServerTime::from_unix_ns(sent);
        one.ready = ServerTime::from_unix_ns(ready);
        let _ = Agreement::of(&one, &other, Role::Controlling);
        let _ = Agreement::of(&other, &one, Role::Controlled);
    }
}
