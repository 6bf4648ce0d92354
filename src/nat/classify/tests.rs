use super::*;
use crate::nat::{Verdict, prospects};
use crate::wire::{Icmp, IcmpKind, Quote};
use std::net::SocketAddr;

const LOCAL: &str = "192.168.1.2";
const OUTSIDE: &str = "198.51.100.1";

/// What one router does to ports: from the source and the server's address and port.
type Mapper = fn(u16, u8, u16) -> u16;

/// Mappings of five ports at the server's four ends.
fn observations(external: &str, mapper: Mapper) -> Vec<Observation> {
    let mut all = Vec::new();
    for source in [40_000, 40_007, 40_014, 1023, 1016] {
        for (address, port) in [(1, 3478), (1, 3479), (2, 3478), (2, 3479)] {
            all.push(Observation {
                at: WallTime::from_unix_ns(
                    1_795_258_800_000_000_000 + all.len() as i64 * 2_000_000,
                ),
                local: SocketAddr::from(([192, 168, 1, 2], source)),
                destination: SocketAddr::from(([203, 0, 113, address], port)),
                external: SocketAddr::new(external.parse().unwrap(), mapper(source, address, port)),
            });
        }
    }
    all
}

fn path(hops: &[&str]) -> Path {
    let mut path = Path::new(LOCAL.parse().unwrap());
    for (distance, from) in (1..).zip(hops) {
        let from = from.parse().unwrap();
        let about = Quote::Echo { id: 1, seq: 1 };
        let kind = IcmpKind::TimeExceeded;
        path.observe(distance, &Icmp { from, hop_limit: 60, kind, about });
    }
    path
}

const PASSED: Option<Probe> = Some(Probe { arrived: true, answer: None });

fn refused(said: Said, after_ms: u64) -> Option<Probe> {
    let answer = Some(ProbeAnswer { said, after: Duration::from_millis(after_ms) });
    Some(Probe { arrived: false, answer })
}

fn behind(mapper: Mapper) -> Evidence {
    Evidence {
        local: LOCAL.parse().unwrap(),
        observations: observations(OUTSIDE, mapper),
        from_other_port: refused(Said::Reset, 21),
        from_other_address: refused(Said::Reset, 21),
        crossed: PASSED,
        ack_answered: Some(true),
        raw: true,
        ours: true,
        hairpin: Some(Hairpin::Reset),
        path: path(&["192.168.1.1", "192.0.2.1", "192.0.2.2"]),
        external_at: Some(1),
    }
}

fn preserving(source: u16, _: u8, _: u16) -> u16 {
    source
}

/// A number that looks random, the same for the same words.
fn mixed(words: &[u16]) -> u16 {
    let mix = |sum: u64, word: &u16| (sum ^ u64::from(*word)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (words.iter().fold(0x1234_5678, mix) >> 33) as u16
}

fn verdicts(nat: &Nat) -> Vec<(&'static str, Verdict)> {
    prospects(nat).into_iter().map(|it| (it.peer, it.verdict)).collect()
}

#[test]
fn a_home_router_that_keeps_ports_and_resets() {
    let nat = behind(preserving).judge();
    assert_eq!(nat.boundary, Boundary::Nat);
    assert_eq!(nat.mapping.value, Some(MappingBehaviour::EndpointIndependent));
    assert_eq!(nat.filtering.value, Some(Filtering::AddressAndPortDependent));
    assert_eq!(nat.unsolicited_syn.value, Some(Unsolicited::Reset));
    assert_eq!(nat.crossed_syn.value, Some(Passage::Passes));
    assert_eq!(nat.mid_stream.value, Some(Passage::Passes));
    assert_eq!(nat.hairpin.value, Some(Passage::Blocked));
    let allocation = nat.allocation.value.clone().unwrap();
    assert_eq!((allocation.model, allocation.ports), (PortModel::Preserving, 1));
    assert_eq!(
        (nat.nats.at_least, nat.nats.at_most, nat.nats.outermost_hop),
        (1, Some(1), Some(1))
    );
    assert!(verdicts(&nat).iter().all(|(_, verdict)| *verdict == Verdict::Yes));
}

#[test]
fn each_mapping_behaviour() {
    use MappingBehaviour::{AddressAndPortDependent, AddressDependent, EndpointIndependent};
    let eim: Mapper = |source, _, _| 41_000 + mixed(&[source]) % 64;
    let adm: Mapper = |source, address, _| 41_000 + mixed(&[source, address.into()]) % 64;
    let apdm: Mapper =
        |source, address, port| 1024 + mixed(&[source, address.into(), port]) % 64_000;
    for (mapper, is) in
        [(eim, EndpointIndependent), (adm, AddressDependent), (apdm, AddressAndPortDependent)]
    {
        let nat = behind(mapper).judge();
        assert_eq!(nat.mapping.value, Some(is), "{:?}", nat.mapping);
        assert!(nat.mapping.confidence > 0.9, "{is:?}: {:?}", nat.mapping);
    }
}

#[test]
fn each_filtering_behaviour() {
    use Filtering::{AddressAndPortDependent, AddressDependent, EndpointIndependent};
    let no = refused(Said::Nothing, 7000);
    for (port, address, is) in [
        (PASSED, PASSED, Some(EndpointIndependent)),
        (PASSED, no, Some(AddressDependent)),
        (no, no, Some(AddressAndPortDependent)),
        (no, None, Some(AddressAndPortDependent)),
        (PASSED, None, None),
        (no, PASSED, None),
        (None, None, None),
    ] {
        let evidence =
            Evidence { from_other_port: port, from_other_address: address, ..behind(preserving) };
        assert_eq!(evidence.judge().filtering.value, is, "{port:?} {address:?}");
    }
}

#[test]
fn each_reaction_to_an_unsolicited_syn() {
    for (said, after_ms, is) in [
        (Said::Reset, 21, Some(Unsolicited::Reset)),
        (Said::Reset, 1021, Some(Unsolicited::Reset)),
        (Said::Icmp, 21, Some(Unsolicited::Icmp)),
        (Said::Icmp, 6021, Some(Unsolicited::Held)),
        (Said::Icmp, 7021, Some(Unsolicited::Held)),
        (Said::Nothing, 8000, Some(Unsolicited::Silence)),
        (Said::Nothing, 3000, None),
        (Said::SynAck, 21, Some(Unsolicited::Answered)),
    ] {
        let probe = refused(said, after_ms);
        let evidence =
            Evidence { from_other_port: probe, from_other_address: probe, ..behind(preserving) };
        assert_eq!(evidence.judge().unsolicited_syn.value, is, "{said:?} {after_ms}");
    }
    let all_in =
        Evidence { from_other_port: PASSED, from_other_address: PASSED, ..behind(preserving) };
    assert_eq!(all_in.judge().unsolicited_syn.value, None);
}

#[test]
fn what_only_a_server_of_ours_can_tell_is_unknown_without_one() {
    let nat = Evidence {
        from_other_port: None,
        from_other_address: None,
        crossed: None,
        ack_answered: Some(false),
        ours: false,
        ..behind(preserving)
    }
    .judge();
    assert!(nat.mapping.value.is_some() && nat.allocation.value.is_some());
    assert_eq!(nat.filtering, Finding::unknown(NO_SERVER));
    assert_eq!(nat.unsolicited_syn.value, None);
    assert_eq!(nat.crossed_syn.value, None);
    assert_eq!(nat.mid_stream.value, None);
    let verdicts = verdicts(&nat);
    assert_eq!(verdicts[1], ("preserving", Verdict::Yes));
    assert_eq!(verdicts[4], ("raw-strict", Verdict::Unknown));
}

#[test]
fn one_server_address_does_not_tell_whether_a_mapping_is_stable() {
    let random: Mapper = |source, _, _| 1024 + mixed(&[source]) % 64_000;
    let mut evidence = behind(random);
    evidence.observations.retain(|it| it.destination == SocketAddr::from(([203, 0, 113, 1], 3478)));
    let nat = evidence.judge();
    assert_eq!((nat.mapping.value, nat.allocation.value), (None, None), "{}", nat.mapping.because);
    evidence = behind(preserving);
    evidence.observations.retain(|it| it.destination == SocketAddr::from(([203, 0, 113, 1], 3478)));
    assert!(evidence.judge().allocation.value.is_some(), "kept ports are kept for everybody");
}

/// Whatever is more probable before anything is measured.
#[test]
fn behaviours_that_no_observation_told_apart_are_not_chosen_between() {
    let one_for_all: Mapper = |source, _, _| 41_000 + mixed(&[source]) % 2000;
    let one_for_each: Mapper =
        |source, address, port| 1024 + mixed(&[source, address.into(), port]) % 64_000;
    let of_one_address: fn(&Observation) -> bool =
        |it| it.destination.to_string().starts_with("203.0.113.1:");
    let of_one_port: fn(&Observation) -> bool = |it| it.destination.port() == 3478;
    for (mapper, retained, is) in [
        (one_for_all, of_one_address, None),
        (one_for_all, of_one_port, Some(MappingBehaviour::EndpointIndependent)),
        (one_for_each, of_one_address, Some(MappingBehaviour::AddressAndPortDependent)),
        (one_for_each, of_one_port, None),
    ] {
        let mut evidence = behind(mapper);
        evidence.observations.retain(retained);
        assert_eq!(evidence.judge().mapping.value, is);
    }
}

#[test]
fn without_translation_it_is_open_or_a_firewall() {
    let own = |probe| Evidence {
        local: OUTSIDE.parse().unwrap(),
        from_other_port: probe,
        from_other_address: probe,
        hairpin: None,
        ..behind(preserving)
    };
    let open = own(PASSED).judge();
    assert_eq!((open.boundary, open.nats.at_most), (Boundary::Open, Some(0)));
    assert_eq!(own(refused(Said::Reset, 20)).judge().boundary, Boundary::Firewall);
    assert_eq!(own(None).judge().boundary, Boundary::NoNat);
}

#[test]
fn a_carriers_nat_is_a_second_one() {
    let hops = ["192.168.1.1", "100.64.0.1", "192.0.2.1"];
    let evidence = Evidence { path: path(&hops), external_at: Some(3), ..behind(preserving) };
    let nats = evidence.judge().nats;
    assert_eq!((nats.at_least, nats.at_most, nats.outermost_hop), (2, Some(2), Some(2)));
    let company = path(&["10.0.0.1", "10.1.0.1", "10.2.0.1", "192.0.2.1"]);
    let nats = Evidence { path: company, external_at: None, ..behind(preserving) }.judge().nats;
    assert_eq!((nats.at_least, nats.at_most), (1, Some(3)), "each of the three may translate");
    let silent = path(&[]);
    let nats = Evidence { path: silent, external_at: None, ..behind(preserving) }.judge().nats;
    assert_eq!((nats.at_least, nats.at_most, nats.outermost_hop), (1, None, None));
}

#[test]
fn a_router_that_lets_no_syn_in_is_punched_unless_the_peers_does_no_better() {
    let nat = Evidence { crossed: refused(Said::Nothing, 8000), ..behind(preserving) }.judge();
    assert_eq!(nat.crossed_syn.value, Some(Passage::Blocked));
    let strict = Evidence {
        crossed: refused(Said::Nothing, 8000),
        ack_answered: Some(false),
        ..behind(preserving)
    };
    let of = |nat: &Nat, peer| {
        verdicts(nat).into_iter().find(|(name, _)| *name == peer).map(|(_, verdict)| verdict)
    };
    assert_eq!(of(&nat, "preserving"), Some(Verdict::Yes));
    assert_eq!(of(&nat, "syn-block"), Some(Verdict::Yes));
    assert_eq!(of(&nat, "raw-syn-block"), Some(Verdict::Yes), "mid-stream if nothing else");
    assert_eq!(of(&strict.judge(), "raw-syn-block"), Some(Verdict::Unknown));
}

#[test]
fn contradictions_are_not_resolved_by_guessing() {
    let nat = Evidence {
        from_other_port: PASSED,
        from_other_address: PASSED,
        crossed: refused(Said::Nothing, 8000),
        ..behind(preserving)
    }
    .judge();
    assert_eq!(nat.crossed_syn.value, None);
    assert_eq!(nat.filtering.value, Some(Filtering::EndpointIndependent));
}

#[test]
fn random_ports_over_everything_meet_only_known_ports() {
    let random: Mapper =
        |source, address, port| 1024 + mixed(&[source, address.into(), port]) % 64_512;
    let mut evidence = behind(random);
    evidence.crossed = refused(Said::Nothing, 1300);
    let nat = evidence.judge();
    assert!(nat.allocation.value.as_ref().is_some_and(|it| it.ports > 50_000), "{nat:?}");
    assert_eq!(nat.crossed_syn.value, None);
    let random = prospects(&nat).into_iter().find(|it| it.peer == "random").unwrap();
    assert_eq!(random.verdict, Verdict::No);
    assert!(random.because.ends_with("too many to search"), "{}", random.because);
}
