//! What a router may be, each with its probability given the observations.

use super::MappingBehaviour;
use super::area::{Area, Candidate, candidates};
use super::counter::{Counter, STEPS, round_of};
use super::history::{Allocation, History, ln_beta_binomial};
use super::{NEGLIGIBLE, ln_sum};
use crate::nat::density::Density;
use crate::nat::model::PortModel;
use crate::nat::pool::PortPool;
use crate::wire::WallTime;

/// Prior probabilities of the mapping behaviours. NAT surveys find about half of all routers
/// endpoint-independent; netfilter is address-and-port-dependent.
const BEHAVIOURS: [(MappingBehaviour, f64); 3] = [
    (MappingBehaviour::EndpointIndependent, 0.5),
    (MappingBehaviour::AddressDependent, 0.1),
    (MappingBehaviour::AddressAndPortDependent, 0.4),
];

/// Prior probabilities of the laws of port allocation.
const PRESERVING: f64 = 0.35;
const SEQUENTIAL: f64 = 0.20;
const PARITY: f64 = 0.05;
const RANDOM: f64 = 0.25;
const LINUX_RANDOM: f64 = 0.15;

/// Beta prior on a preserving router's finding the port taken: about one in fifty, and then the
/// mapping gets any other port.
const TAKEN: f64 = 0.2;
const FREE: f64 = 10.0;
const PORTS: f64 = 65_535.0;

/// A router, as far as ports go.
#[derive(Clone, Debug)]
pub(super) struct Hypothesis {
    pub(super) behaviour: MappingBehaviour,
    pub(super) law: Law,
    pub(super) probability: f64,
}

/// How ports are allocated to new mappings.
#[derive(Clone, Debug)]
pub(super) enum Law {
    /// The internal port, which is free with this probability.
    Preserving { free: f64 },
    /// The next one.
    Sequential(Box<Counter>),
    /// Any of an area.
    Random(Area),
    /// Any of an area that has the internal port's parity.
    Parity(Area),
    /// As netfilter does.
    LinuxRandom,
}

/// A law with the logarithm of its prior times its likelihood.
type Judged = (Law, f64);

/// Which [`PortModel`] says what a hypothesis says, its numbers left aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Preserving,
    Stable,
    Sequential(i16),
    Random,
    Parity,
    LinuxRandom,
}

impl Hypothesis {
    pub(super) fn kind(&self) -> Kind {
        match (&self.law, self.behaviour) {
            (Law::Preserving { .. }, _) => Kind::Preserving,
            (_, MappingBehaviour::EndpointIndependent) => Kind::Stable,
            (Law::Sequential(counter), _) => Kind::Sequential(counter.step),
            (Law::Random(_), _) => Kind::Random,
            (Law::Parity(_), _) => Kind::Parity,
            (Law::LinuxRandom, _) => Kind::LinuxRandom,
        }
    }
}

/// The hypotheses that are left of all, their probabilities together 1.
pub(super) fn weigh(histories: &[(MappingBehaviour, History)]) -> Vec<Hypothesis> {
    let mut weighed: Vec<(Hypothesis, f64)> = Vec::new();
    // Two behaviours often come to the same allocations: those are judged once.
    let mut judged: Vec<(&[Allocation], Vec<Judged>)> = Vec::new();
    for (behaviour, history) in histories {
        let prior = BEHAVIOURS.iter().find(|(other, _)| other == behaviour);
        let ln_prior = prior.map_or(f64::NEG_INFINITY, |(_, prior)| prior.ln());
        let ln_behaviour = ln_prior + history.ln_evidence();
        let hypothesis = |law| Hypothesis { behaviour: *behaviour, law, probability: 0.0 };
        let allocations = &history.allocations[..];
        let known = judged.iter().find(|(other, _)| *other == allocations);
        let laws = match known {
            Some((_, laws)) => laws.clone(),
            None => {
                let laws = laws(allocations);
                judged.push((allocations, laws.clone()));
                laws
            }
        };
        weighed.extend(laws.into_iter().map(|(law, ln)| (hypothesis(law), ln + ln_behaviour)));
    }
    let ln_all = ln_sum(weighed.iter().map(|(_, ln)| *ln));
    let mut hypotheses: Vec<Hypothesis> = weighed
        .into_iter()
        .map(|(hypothesis, ln)| Hypothesis { probability: (ln - ln_all).exp(), ..hypothesis })
        .filter(|hypothesis| hypothesis.probability > NEGLIGIBLE)
        .collect();
    let sum: f64 = hypotheses.iter().map(|hypothesis| hypothesis.probability).sum();
    hypotheses.iter_mut().for_each(|hypothesis| hypothesis.probability /= sum);
    hypotheses
}

/// Every law that could have allocated these ports.
fn laws(allocations: &[Allocation]) -> Vec<Judged> {
    let number = allocations.len() as f64;
    let kept = allocations.iter().filter(|allocation| allocation.port == allocation.source);
    let kept = u32::try_from(kept.count()).unwrap_or(u32::MAX);
    let taken = u32::try_from(allocations.len()).unwrap_or(u32::MAX) - kept;
    let free = (FREE + f64::from(kept)) / (FREE + TAKEN + number);
    let ln_kept = ln_beta_binomial(taken, TAKEN, kept, FREE) - f64::from(taken) * PORTS.ln();
    let mut laws = vec![(Law::Preserving { free }, PRESERVING.ln() + ln_kept)];

    let same_parity =
        allocations.iter().all(|allocation| allocation.port % 2 == allocation.source % 2);
    let mut count = |step: i16, prior: f64, pool: &PortPool, ln_prior: f64| {
        if let Some(counter) = Counter::new(step, pool, allocations) {
            // A counter starts anywhere in its pool.
            let ln_start = -f64::from(pool.size()).ln();
            let ln = SEQUENTIAL.ln() + prior.ln() + ln_prior + ln_start + counter.ln_evidence;
            laws.push((Law::Sequential(Box::new(counter)), ln));
        }
    };
    let candidates = candidates(allocations);
    for (step, prior) in STEPS {
        for Candidate { area, ln_prior, .. } in &candidates {
            if let Area::Pool(pool) = area {
                count(step, prior, pool, *ln_prior);
            }
        }
        for (pool, ln_prior) in round_of(step, allocations) {
            count(step, prior, &pool, ln_prior);
        }
    }
    for Candidate { area, ln_prior, ln_each } in candidates {
        if same_parity {
            let ln_each = ln_each + std::f64::consts::LN_2;
            laws.push((Law::Parity(area.clone()), PARITY.ln() + ln_prior + number * ln_each));
        }
        laws.push((Law::Random(area), RANDOM.ln() + ln_prior + number * ln_each));
    }

    let netfilter = allocations.iter().map(|allocation| {
        let pool = PortModel::LinuxRandom.pool(allocation.source);
        pool.filter(|pool| pool.contains(allocation.port))
            .map_or(f64::NEG_INFINITY, |pool| -f64::from(pool.size()).ln())
    });
    laws.push((Law::LinuxRandom, LINUX_RANDOM.ln() + netfilter.sum::<f64>()));
    let best = laws.iter().map(|(_, ln)| *ln).fold(f64::NEG_INFINITY, f64::max);
    laws.retain(|(_, ln)| *ln > best + NEGLIGIBLE.ln());
    laws
}

/// Probabilities of ports, those of parity-keeping routers apart until all are known.
pub(super) struct Mixture {
    source: u16,
    nth: u32,
    when: WallTime,
    all: Density,
    /// Absent while nothing is in it.
    of_parity: Option<Density>,
}

impl Mixture {
    /// Of the `nth` mapping to a destination never met, made at `when` from `source`.
    pub(super) fn new(source: u16, nth: u32, when: WallTime) -> Self {
        Self { source, nth, when, all: Density::new(), of_parity: None }
    }

    pub(super) fn add(&mut self, hypothesis: &Hypothesis, history: &History, mut weight: f64) {
        if weight < NEGLIGIBLE {
            return;
        }
        let mut nth = self.nth;
        if hypothesis.behaviour == MappingBehaviour::EndpointIndependent {
            nth = 0;
            if let Some(port) = history.latest.get(&self.source) {
                self.all.add(*port, weight * history.lasts());
                weight *= 1.0 - history.lasts();
            }
            if weight < NEGLIGIBLE {
                return;
            }
        }
        match &hypothesis.law {
            Law::Preserving { free } => {
                self.all.add(self.source, weight * free);
                self.all.add_range(1, 65_535, weight * (1.0 - free));
            }
            Law::Sequential(counter) => counter.add_to(&mut self.all, nth, self.when, weight),
            Law::Random(area) => area.add_to(&mut self.all, weight),
            Law::Parity(area) => {
                area.add_to(self.of_parity.get_or_insert_with(Density::new), weight);
            }
            Law::LinuxRandom => {
                if let Some(pool) = PortModel::LinuxRandom.pool(self.source) {
                    self.all.add_pool(&pool, weight);
                }
            }
        }
    }

    pub(super) fn finish(self) -> Density {
        let mut all = self.all;
        if let Some(of_parity) = self.of_parity {
            all.add_parity(&of_parity, self.source);
        }
        all
    }
}
