//! The fit against routers drawn at random: are its probabilities right as often as they say?

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::*;

/// Reproducible random numbers (splitmix64).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn below(&mut self, end: u32) -> u32 {
        (self.next() % u64::from(end)) as u32
    }

    fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.unit()).ln()
    }

    fn poisson(&mut self, mean: f64) -> u32 {
        let (mut count, mut left) = (0, mean);
        loop {
            left -= self.exponential(1.0);
            if left < 0.0 {
                return count;
            }
            count += 1;
        }
    }

    fn choose<T: Clone>(&mut self, weighed: &[(T, f64)]) -> T {
        let mut left = self.unit() * weighed.iter().map(|(_, weight)| weight).sum::<f64>();
        let chosen = weighed.iter().find(|(_, weight)| {
            left -= weight;
            left < 0.0
        });
        chosen.unwrap_or(&weighed[0]).0.clone()
    }

    fn pool(&mut self) -> PortPool {
        let range = |first: u32, size: u32| {
            PortPool::range(first.max(1) as u16, (first + size - 1) as u16).unwrap()
        };
        match self.choose(&[(0, 0.45), (1, 0.25), (2, 0.12), (3, 0.18)]) {
            0 => {
                let (first, last) = self.choose(&[
                    ((1024, 65_535), 0.30),
                    ((32_768, 60_999), 0.04),
                    ((32_768, 65_535), 0.04),
                    ((49_152, 65_535), 0.04),
                    ((1, 65_535), 0.03),
                ]);
                PortPool::range(first, last).unwrap()
            }
            1 => {
                let size = 64 << self.below(7);
                range(self.below(65_536 / size) * size, size)
            }
            2 => {
                let (offset_bits, psid_bits) = (4 + self.below(3), 3 + self.below(7));
                let run_bits = 16 - offset_bits - psid_bits;
                let psid = self.below(1 << psid_bits);
                let runs = (1..1_u32 << offset_bits).map(|offset| {
                    let first = (offset << psid_bits | psid) << run_bits;
                    first as u16..=(first + (1 << run_bits) - 1) as u16
                });
                PortPool::new(runs).unwrap()
            }
            _ => {
                let size = (8.0 * (64_512.0_f64 / 8.0).powf(self.unit())) as u32;
                range(1024 + self.below(64_512 - size + 1), size)
            }
        }
    }
}

/// A router in the words of the hypotheses.
struct Router {
    behaviour: MappingBehaviour,
    model: PortModel,
    /// Chances of a port being taken, and of a mapping being replaced.
    taken: f64,
    replaced: f64,
    now: WallTime,
    mappings: HashMap<(u16, Option<IpAddr>, Option<u16>), u16>,
}

impl Router {
    fn new(dice: &mut Dice, model: PortModel, behaviour: MappingBehaviour) -> Self {
        let now = WallTime::from_unix_ns(1_795_258_800_000_000_000);
        let taken = dice.choose(&[(0.0, 0.8), (0.1, 0.2)]);
        let replaced = dice.choose(&[(0.0, 0.9), (0.1, 0.1)]);
        Self { behaviour, model, taken, replaced, now, mappings: HashMap::new() }
    }

    fn drawn(dice: &mut Dice) -> Self {
        let model = match dice.choose(&[(0, 0.35), (1, 0.2), (2, 0.05), (3, 0.25), (4, 0.15)]) {
            0 => PortModel::Preserving,
            1 => {
                let pool = dice.pool();
                let mean = counter::MEAN_RATES[dice.below(6) as usize];
                // A counter that others take round its pool in no time is random to us.
                let rate = dice.exponential(mean).min(f64::from(pool.size()) / 4.0);
                PortModel::Sequential(Sequence {
                    next: pool.nth(dice.below(pool.size())),
                    at: None,
                    step: dice.choose(&counter::STEPS),
                    rate,
                    counted_s: None,
                    pool,
                })
            }
            2 => PortModel::Parity(dice.pool()),
            3 => PortModel::Random(dice.pool()),
            _ => PortModel::LinuxRandom,
        };
        let behaviour = dice.choose(&[
            (MappingBehaviour::EndpointIndependent, 0.5),
            (MappingBehaviour::AddressDependent, 0.1),
            (MappingBehaviour::AddressAndPortDependent, 0.4),
        ]);
        Self::new(dice, model, behaviour)
    }

    fn wait(&mut self, dice: &mut Dice, seconds: f64) {
        self.now = self.now.after(Duration::from_secs_f64(seconds));
        if let PortModel::Sequential(sequence) = &mut self.model {
            let others = i64::from(dice.poisson(sequence.rate * seconds));
            Self::advance(sequence, others);
        }
    }

    fn advance(sequence: &mut Sequence, times: i64) {
        let place = i64::from(sequence.pool.place(sequence.next).unwrap());
        let place = place + i64::from(sequence.step) * times;
        sequence.next = sequence.pool.nth(place.rem_euclid(i64::from(sequence.pool.size())) as u32);
    }

    fn map(&mut self, dice: &mut Dice, source: u16, destination: SocketAddr) -> Observation {
        let key = match self.behaviour {
            MappingBehaviour::EndpointIndependent => (source, None, None),
            MappingBehaviour::AddressDependent => (source, Some(destination.ip()), None),
            MappingBehaviour::AddressAndPortDependent => {
                (source, Some(destination.ip()), Some(destination.port()))
            }
        };
        let port = match self.mappings.get(&key) {
            Some(port) if dice.unit() >= self.replaced => *port,
            _ => self.allocate(dice, source),
        };
        self.mappings.insert(key, port);
        let external = SocketAddr::from(([192, 0, 2, 1], port));
        let local = ([192, 168, 1, 2], source).into();
        Observation { at: self.now, local, destination, external }
    }

    fn allocate(&mut self, dice: &mut Dice, source: u16) -> u16 {
        match &mut self.model {
            PortModel::Preserving if dice.unit() >= self.taken => source,
            PortModel::Preserving => 1024 + dice.below(64_512) as u16,
            PortModel::Sequential(sequence) => {
                let port = sequence.next;
                Self::advance(sequence, 1);
                port
            }
            model => {
                let pool = model.pool(source).unwrap();
                pool.nth(dice.below(pool.size()))
            }
        }
    }

    /// Uses of some source ports to some destinations, in no special design.
    fn observe(&mut self, dice: &mut Dice, number: u32) -> Vec<Observation> {
        let first = if dice.unit() < 0.2 { 600 } else { 20_000 + dice.below(40_000) as u16 };
        let sources = 1 + dice.below(4);
        let hosts = 1 + dice.below(number.max(2));
        (0..number)
            .map(|_| {
                let pause = dice.exponential(0.05);
                self.wait(dice, pause);
                let source = first + dice.below(sources) as u16;
                let host = Ipv4Addr::new(198, 51, 100, dice.below(hosts) as u8);
                let destination = SocketAddr::from((host, 3478 + dice.below(2) as u16));
                self.map(dice, source, destination)
            })
            .collect()
    }

    fn kind(&self) -> String {
        match (&self.model, self.behaviour) {
            (PortModel::Preserving, _) => kind(&self.model),
            (_, MappingBehaviour::EndpointIndependent) => kind(&PortModel::Stable),
            (model, _) => kind(model),
        }
    }
}

fn kind(model: &PortModel) -> String {
    match model {
        PortModel::Sequential(sequence) => format!("sequential by {}", sequence.step),
        model => model.to_string().split(':').next().unwrap().to_owned(),
    }
}

fn new_host() -> SocketAddr {
    SocketAddr::from(([203, 0, 113, 77], 443))
}

/// `hits` of `trials`, where the sum of the stated probabilities is `stated`: within 4 standard
/// deviations, and 1 trial for rounding.
fn assert_honest(what: &str, hits: f64, stated: f64, variance: f64, trials: f64) {
    eprintln!("{what}: {hits} of {trials}, stated {stated:.1} ± {:.1}", variance.sqrt());
    assert!((hits - stated).abs() <= 1.0 + 4.0 * variance.sqrt(), "{what}: {hits} not {stated:.1}");
}

#[test]
fn the_fit_is_right_as_often_as_it_says() {
    let mut dice = Dice(1);
    let bins = [0.0, 0.5, 0.7, 0.9, 0.95, 0.99, 1.01];
    let mut table = vec![(0.0, 0.0, 0.0, 0.0); bins.len() - 1];
    for _ in 0..600 {
        let mut router = Router::drawn(&mut dice);
        let number = 1 + dice.below(14);
        let fit = fit(&router.observe(&mut dice, number)).unwrap();
        let hit = if kind(&fit.model) == router.kind() { 1.0 } else { 0.0 };
        let p = fit.probability;
        let bin = bins.iter().rposition(|bin| p >= *bin).unwrap();
        let (hits, stated, variance, trials) = &mut table[bin];
        *hits += hit;
        *stated += p;
        *variance += p * (1.0 - p);
        *trials += 1.0;
    }
    for (bin, (hits, stated, variance, trials)) in bins.iter().zip(table) {
        assert_honest(&format!("from {bin}"), hits, stated, variance, trials);
    }
}

/// A fair draw of where the port stands in the order of probability, as the probability of all
/// ports before it: below 0.9 in 90 % of cases if the prediction is honest.
fn rank(dice: &mut Dice, prediction: &Prediction, port: u16) -> f64 {
    let own = prediction.probability(port);
    let (mut before, mut alike) = (0.0, 0.0);
    for (_, probability) in prediction.ports() {
        if probability > own {
            before += probability;
        } else if probability == own {
            alike += probability;
        }
    }
    before + dice.unit() * alike
}

#[test]
fn a_90_percent_set_holds_the_next_port_of_every_kind_of_router() {
    let mut dice = Dice(2);
    let (mut all, mut of) = (0.0, 0.0);
    for model in [
        "preserving",
        "sequential:next=40000,rate=0",
        "sequential:next=40000,rate=50",
        "sequential:next=40000,step=2,rate=500",
        "sequential:next=2000,step=-1,rate=5,pool=1024-2047",
        "parity:1024-65535",
        "random:1024-65535",
        "random:4096-4607",
        "random:40000-40099",
        "random:4384-4399,8480-8495,12576-12591,16672-16687",
        "linux-random",
        "stable-random:1024-65535",
    ] {
        let model: PortModel = model.parse().unwrap();
        let behaviour = match model {
            PortModel::StableRandom(_) => MappingBehaviour::EndpointIndependent,
            _ => MappingBehaviour::AddressAndPortDependent,
        };
        let mut hits = 0;
        for _ in 0..TRIALS {
            let mut router = Router::new(&mut dice, model.clone(), behaviour);
            let seen = twelve(&mut dice, &mut router, 0.05);
            let fit = fit(&seen).unwrap();
            let pause = dice.exponential(0.1);
            router.wait(&mut dice, pause);
            let source = seen[11].local.port();
            let next = router.map(&mut dice, source, new_host()).external.port();
            let prediction = fit.predict(source, 0, router.now);
            hits += u32::from(rank(&mut dice, &prediction, next) < 0.9);
        }
        // Three standard deviations are a tenth of the trials for each kind, and 3 % for all.
        let (hits, trials) = (f64::from(hits), f64::from(TRIALS));
        eprintln!("{model}: {hits} of {trials}");
        assert!(hits >= 0.73 * trials, "{model}: {hits} of {trials}");
        all += hits;
        of += trials;
    }
    eprintln!("{all} of {of}");
    assert!((all / of - 0.9).abs() < 0.05, "{all} of {of}");
}

/// For each of twelve routers: more take long in a debug build.
const TRIALS: u32 = 30;

/// Twelve observations of a router, from one port to as many addresses.
fn twelve(dice: &mut Dice, router: &mut Router, interval_s: f64) -> Vec<Observation> {
    let observe = |host| {
        router.wait(dice, interval_s);
        router.map(dice, 40_001, SocketAddr::from(([198, 51, 100, host], 3478)))
    };
    (0..12).map(observe).collect()
}

/// Twelve of a router that never has a port taken or a mapping replaced.
fn seen(model: &str, behaviour: MappingBehaviour) -> Vec<Observation> {
    let mut dice = Dice(3);
    let mut router = Router::new(&mut dice, model.parse().unwrap(), behaviour);
    (router.taken, router.replaced) = (0.0, 0.0);
    twelve(&mut dice, &mut router, 0.02)
}

const APDM: MappingBehaviour = MappingBehaviour::AddressAndPortDependent;
const EIM: MappingBehaviour = MappingBehaviour::EndpointIndependent;

#[test]
fn the_fit_says_in_words_what_it_found_and_how_surely() {
    for (model, behaviour, words) in [
        ("preserving", APDM, "port-preserving; over 99 % sure from 12 observations"),
        ("random:1024-65535", EIM, "one port for every destination; over 99 % sure"),
        ("sequential:next=5000", APDM, "sequential, step 1, about 0."),
        ("sequential:next=5000,step=2,rate=50", APDM, "sequential, step 2, about "),
        ("random:4096-4607", APDM, "random over 4096-4607 (512 ports); over 99 % sure"),
        ("random:1024-65535", APDM, "random as netfilter's; 6"),
        (
            "parity:1024-65535",
            APDM,
            "random over 1024-65535 (64512 ports), parity kept; over 99 % sure",
        ),
    ] {
        let said = fit(&seen(model, behaviour)).unwrap().to_string();
        assert!(said.starts_with(words), "{model}: {said}");
    }
}

#[test]
fn a_sequence_stands_behind_the_last_observation() {
    let seen = seen("sequential:next=65530", APDM);
    let fit = fit(&seen).unwrap();
    let PortModel::Sequential(sequence) = &fit.model else { panic!("{fit}") };
    assert_eq!((sequence.next, sequence.at), (1030, Some(seen[11].at)));
    assert!(fit.error(40_001, 0, seen[11].at) < 0.01, "{}", fit.error(40_001, 0, seen[11].at));
    let later = seen[11].at.after(Duration::from_secs(5));
    assert!(fit.error(40_001, 0, later) > fit.error(40_001, 0, seen[11].at));
}

#[test]
fn a_parity_that_few_ports_kept_may_be_chance() {
    let seen = seen("parity:40000-40999", APDM);
    let prudent = |seen: &[Observation]| {
        let fit = fit(seen).unwrap();
        assert!(matches!(fit.model, PortModel::Parity(_)), "{fit}");
        fit.prudent_model(40_001, seen[0].at)
    };
    assert!(matches!(prudent(&seen[..5]), PortModel::Random(_)));
    assert!(matches!(prudent(&seen), PortModel::Parity(_)));
}

#[test]
fn a_port_that_two_addresses_share_by_chance_is_not_counted_on() {
    // Of 64 ports one for each address: the neighbour got the same one twice.
    let told = [(30_000, 1, 52_054), (30_007, 1, 52_000), (1016, 1, 52_055), (1009, 1, 52_018)];
    let further = [(30_000, 2, 52_049), (30_007, 2, 52_000)];
    let at = |nth: usize| WallTime::from_unix_ns(nth as i64 * 2_000_000);
    let all = told.into_iter().chain(further).enumerate();
    let seen = all.map(|(nth, it)| Observation {
        at: at(nth),
        local: SocketAddr::from((Ipv4Addr::LOCALHOST, it.0)),
        destination: SocketAddr::from((Ipv4Addr::new(192, 0, 2, it.1), 3478)),
        external: SocketAddr::from((Ipv4Addr::new(203, 0, 113, 1), it.2)),
    });
    let seen: Vec<_> = seen.collect();
    let model = fit(&seen).unwrap().prudent_model(30_000, at(9));
    assert!(matches!(model, PortModel::Random(_)), "{model}");
}

#[test]
fn a_stable_port_is_known_only_where_it_was_seen() {
    let seen = seen("random:1024-65535", EIM);
    let fit = fit(&seen).unwrap();
    let told = seen[0].external.port();
    assert!(fit.predict(40_001, 7, seen[11].at).probability(told) > 0.98);
    assert_eq!(fit.model_for(40_001, seen[11].at), PortModel::Stable);
    assert!(matches!(fit.model_for(40_002, seen[11].at), PortModel::StableRandom(_)));
    assert_eq!(fit.error(40_002, 0, seen[11].at), 1.0, "the model says nothing of that port");
}

#[test]
fn what_cannot_be_known_is_said() {
    let mut seen = seen("random:1024-65535", APDM);
    let all = |seen: &[Observation]| fit(seen).unwrap().unknown;
    assert_eq!(all(&seen), [Unknown::WhetherByPort, Unknown::PrivilegedPorts]);
    seen[1].destination = SocketAddr::new(seen[0].destination.ip(), 1);
    assert_eq!(all(&seen), [Unknown::PrivilegedPorts]);
    seen.truncate(1);
    let one = fit(&seen).unwrap();
    assert!(one.unknown.contains(&Unknown::WhetherStable) && one.probability < 0.7, "{one}");
    assert!(one.to_string().contains("cannot be known"), "{one}");
    assert!(fit(&[]).is_none());
}

#[test]
fn a_second_external_address_is_noticed() {
    let mut seen = seen("preserving", APDM);
    seen[5].external.set_ip(IpAddr::from([192, 0, 2, 2]));
    let fit = fit(&seen).unwrap();
    assert_eq!(fit.addresses.len(), 2);
    assert!(fit.to_string().ends_with("It uses 2 external addresses"), "{fit}");
}

#[test]
fn netfilter_shows_itself_at_the_privileged_ports() {
    let mut seen = seen("linux-random", APDM);
    for (index, observation) in (0..).zip(&mut seen).take(6) {
        observation.local.set_port(700);
        observation.external.set_port(600 + index * 67);
    }
    let fit = fit(&seen).unwrap();
    assert_eq!(fit.model, PortModel::LinuxRandom, "{fit}");
    assert!(fit.probability > 0.99 && !fit.unknown.contains(&Unknown::PrivilegedPorts));
    assert!((fit.predict(800, 0, seen[11].at).probability(601) - 1.0 / 424.0).abs() < 1e-4);
}
