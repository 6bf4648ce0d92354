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
        Observation { at: self.now, source, destination, external }
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
    for _ in 0..1500 {
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

#[test]
fn a_90_percent_set_holds_the_next_port_of_every_kind_of_router() {
    let mut dice = Dice(2);
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
        let (mut hits, mut held, trials) = (0.0, 0.0, 60.0);
        for _ in 0..trials as u32 {
            let model: PortModel = model.parse().unwrap();
            let behaviour = match model {
                PortModel::StableRandom(_) => MappingBehaviour::EndpointIndependent,
                _ => MappingBehaviour::AddressAndPortDependent,
            };
            let mut router = Router::new(&mut dice, model, behaviour);
            let seen = router.observe(&mut dice, 12);
            let fit = fit(&seen).unwrap();
            let pause = dice.exponential(0.2);
            router.wait(&mut dice, pause);
            let source = seen[11].source;
            let next = router.map(&mut dice, source, new_host()).external.port();
            let prediction = fit.predict(source, 0, router.now);
            let ports = prediction.covering(0.9);
            held += prediction.most_likely().take(ports.len()).map(|(_, p)| p).sum::<f64>();
            hits += if ports.contains(&next) { 1.0 } else { 0.0 };
        }
        eprintln!("{model}: {hits} of {trials}, stated {held:.1}");
    }
}
