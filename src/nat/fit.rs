//! Which port model the mappings of a router are of, how surely, and what comes next.
//!
//! Bayesian: every hypothesis has a prior probability (fit/hypothesis.rs, fit/area.rs,
//! fit/counter.rs) and a likelihood in which what it leaves open (a rate, a range) is summed out.

mod area;
mod counter;
mod history;
mod hypothesis;
#[cfg(test)]
mod tests;

use serde::Serialize;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use history::History;
use hypothesis::{Hypothesis, Kind, Law, Mixture, weigh};

use super::density::Density;
use super::model::{PortModel, Sequence};
use super::pool::PortPool;
use super::prediction::Prediction;
use crate::wire::WallTime;
use area::Area;

/// Parts of the whole less likely than this are left out. There are some 1,500 hypotheses.
const NEGLIGIBLE: f64 = 1e-8;

/// A model less likely than this is not reckoned with.
const UNLIKELY: f64 = 0.02;

/// A mapping, as a server told it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observation {
    /// When it was made or used: just before the SYN left.
    pub at: WallTime,
    /// The internal endpoint. The fit goes by its port alone.
    pub local: SocketAddr,
    /// Whom the mapping was used with: the server.
    pub destination: SocketAddr,
    /// What the server saw.
    pub external: SocketAddr,
}

/// What destinations share a mapping, in the words of RFC 4787 section 4.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MappingBehaviour {
    /// All.
    EndpointIndependent,
    /// Those of one address.
    AddressDependent,
    /// None.
    AddressAndPortDependent,
}

/// What the observations cannot tell, however many of their sort there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// No internal port spoke to two addresses.
    WhetherStable,
    /// No internal port spoke to two ports of one address.
    WhetherByPort,
    /// No internal port below 1024 was used, from which netfilter maps into small pools.
    PrivilegedPorts,
}

/// The port model of a router, fitted to observations.
#[derive(Clone, Debug)]
pub struct Fit {
    /// The most probable model. A sequence stands at its port after the last observation.
    pub model: PortModel,
    /// How probable it is that the router is of this kind: for a sequence with this step, for a
    /// pool whichever its ends.
    pub probability: f64,
    /// The other models in descending order of probability, as far as it exceeds 0.1 %.
    pub alternatives: Vec<(PortModel, f64)>,
    /// The probability of each mapping behaviour, preserving routers (for which all come to the
    /// same) included.
    pub behaviours: [(MappingBehaviour, f64); 3],
    /// What no number of such observations would tell.
    pub unknown: Vec<Unknown>,
    /// The external addresses, in order of appearance. More than one is "arbitrary pooling"
    /// (RFC 4787 REQ-2) unless each is that of other internal ports.
    pub addresses: Vec<IpAddr>,
    /// How many observations there were.
    pub observations: usize,
    hypotheses: Vec<Hypothesis>,
    histories: Vec<(MappingBehaviour, History)>,
}

/// The fit; `None` without observations.
pub fn fit(observations: &[Observation]) -> Option<Fit> {
    let usable = |observation: &&Observation| observation.external.port() != 0;
    let mut observations: Vec<_> = observations.iter().filter(usable).copied().collect();
    observations.sort_by_key(|observation| observation.at);
    observations.first()?;
    let histories = [
        MappingBehaviour::EndpointIndependent,
        MappingBehaviour::AddressDependent,
        MappingBehaviour::AddressAndPortDependent,
    ]
    .map(|behaviour| (behaviour, History::new(behaviour, &observations)));
    let hypotheses = weigh(&histories);

    let mut kinds: Vec<(Kind, f64)> = Vec::new();
    for hypothesis in &hypotheses {
        match kinds.iter_mut().find(|(kind, _)| *kind == hypothesis.kind()) {
            Some((_, probability)) => *probability += hypothesis.probability,
            None => kinds.push((hypothesis.kind(), hypothesis.probability)),
        }
    }
    kinds.sort_by(|a, b| b.1.total_cmp(&a.1));
    let models = kinds
        .into_iter()
        .filter(|(_, probability)| *probability > 0.001)
        .map(|(kind, probability)| (model(kind, &hypotheses), probability));
    let mut alternatives: Vec<_> = models.collect();
    let (model, probability) = alternatives.remove(0);
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in observations.iter().map(|observation| observation.external.ip()) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    let behaviours = histories.each_ref().map(|(behaviour, _)| {
        let of_it = hypotheses.iter().filter(|hypothesis| hypothesis.behaviour == *behaviour);
        (*behaviour, of_it.map(|hypothesis| hypothesis.probability).sum())
    });
    Some(Fit {
        model,
        probability,
        alternatives,
        behaviours,
        unknown: unknown(&observations),
        addresses,
        observations: observations.len(),
        hypotheses,
        histories: histories.to_vec(),
    })
}

/// The model of a kind, with the numbers of the likeliest hypotheses.
fn model(kind: Kind, hypotheses: &[Hypothesis]) -> PortModel {
    let of_kind = || hypotheses.iter().filter(|hypothesis| hypothesis.kind() == kind);
    let likeliest = of_kind().max_by(|a, b| a.probability.total_cmp(&b.probability));
    match (kind, likeliest.map(|hypothesis| &hypothesis.law)) {
        (Kind::Stable, _) => PortModel::Stable,
        (Kind::LinuxRandom, _) => PortModel::LinuxRandom,
        (Kind::Random, _) => PortModel::Random(pool(of_kind())),
        (Kind::Parity, _) => PortModel::Parity(pool(of_kind())),
        (_, Some(Law::Sequential(counter))) => PortModel::Sequential(Sequence {
            next: counter.next(),
            at: Some(counter.last.0),
            step: counter.step,
            rate: counter.rate(),
            counted_s: counter.counted_s(),
            pool: counter.pool.clone(),
        }),
        _ => PortModel::Preserving,
    }
}

/// The likeliest pool; of ranges with unknown ends, taken together, the one that holds 99 % of
/// what they predict: the last few percent cost few tuples, and what is left out is not found.
fn pool<'a>(hypotheses: impl Iterator<Item = &'a Hypothesis>) -> PortPool {
    let mut pools: Vec<(&PortPool, f64)> = Vec::new();
    let mut somewhere = Density::new();
    let mut of_ranges = 0.0;
    for hypothesis in hypotheses {
        let weight = hypothesis.probability;
        match &hypothesis.law {
            Law::Random(Area::Pool(pool)) | Law::Parity(Area::Pool(pool)) => {
                match pools.iter_mut().find(|(other, _)| *other == pool) {
                    Some((_, sum)) => *sum += weight,
                    None => pools.push((pool, weight)),
                }
            }
            Law::Random(area) | Law::Parity(area) => {
                area.add_to(&mut somewhere, weight);
                of_ranges += weight;
            }
            _ => {}
        }
    }
    match pools.into_iter().max_by(|a, b| a.1.total_cmp(&b.1)) {
        Some((pool, weight)) if weight >= of_ranges => pool.clone(),
        _ => {
            let ports = somewhere.prediction().covering(0.99);
            let ends = ports.iter().min().zip(ports.iter().max());
            ends.and_then(|(first, last)| PortPool::range(*first, *last).ok()).unwrap_or_default()
        }
    }
}

fn unknown(observations: &[Observation]) -> Vec<Unknown> {
    let pair = |differs: fn(SocketAddr, SocketAddr) -> bool| {
        let pairs = observations.iter().flat_map(|a| observations.iter().map(move |b| (a, b)));
        let mut of_one_port = pairs.filter(|(a, b)| a.local.port() == b.local.port());
        of_one_port.any(|(a, b)| differs(a.destination, b.destination))
    };
    let mut unknown = Vec::new();
    if !pair(|a, b| a.ip() != b.ip()) {
        unknown.push(Unknown::WhetherStable);
    }
    if !pair(|a, b| a.ip() == b.ip() && a.port() != b.port()) {
        unknown.push(Unknown::WhetherByPort);
    }
    if !observations.iter().any(|observation| observation.local.port() < 1024) {
        unknown.push(Unknown::PrivilegedPorts);
    }
    unknown
}

impl Fit {
    /// Where the `nth` new mapping of a burst (counted from 0) made at `when` from `source` to a
    /// new destination will be, all hypotheses considered.
    pub fn predict(&self, source: u16, nth: u32, when: WallTime) -> Prediction {
        self.mixture(source, nth, when, |_| true).prediction()
    }

    /// The error of [`Fit::model`] as a stand-in for all that is known: no probability that its
    /// prediction gives to any set of ports is expected to be wrong by more (the total variation
    /// distance to [`Fit::predict`]). 1 where the model says nothing.
    pub fn error(&self, source: u16, nth: u32, when: WallTime) -> f64 {
        let prediction = match &self.model {
            PortModel::Stable => self.told(source).map(Prediction::certain),
            model => model.predict(source, nth, when),
        };
        let all = || self.predict(source, nth, when);
        prediction.map_or(1.0, |prediction| prediction.distance(&all()))
    }

    /// The model for the use of an internal port. As [`Fit::model`], except that a stable router's
    /// port for an internal port that was not observed is unknown: then it is stable-random.
    pub fn model_for(&self, source: u16, when: WallTime) -> PortModel {
        if self.model != PortModel::Stable || self.told(source).is_some() {
            return self.model.clone();
        }
        let stable = |hypothesis: &Hypothesis| hypothesis.kind() == Kind::Stable;
        let ports = self.mixture(source, 0, when, stable).prediction().covering(0.99);
        let (first, last) = (ports.iter().min().copied(), ports.iter().max().copied());
        let spread = first.zip(last).filter(|(first, last)| {
            // A set with more holes than ports is given port by port, as after a step of two.
            ports.len() * 2 > usize::from(last - first)
        });
        let pool = match spread {
            Some((first, last)) => PortPool::range(first, last),
            None => PortPool::new(ports.iter().map(|port| *port..=*port)),
        };
        PortModel::StableRandom(pool.unwrap_or_default())
    }

    /// As [`Fit::model_for`], but where one mapping for all destinations is merely the likeliest,
    /// the next likeliest: a search finds a stable port as well, and who counts on one fails where
    /// it is not. Likewise a parity that a few ports may have kept by chance: a search of both
    /// finds half as much, one of the wrong half hardly anything.
    pub fn prudent_model(&self, source: u16, when: WallTime) -> PortModel {
        let model = self.model_for(source, when);
        let safer: fn(&PortModel) -> bool = match model {
            PortModel::Stable => |other| *other != PortModel::Stable,
            PortModel::Parity(_) => |other| matches!(other, PortModel::Random(_)),
            _ => return model,
        };
        let other = self.alternatives.iter().find(|(other, _)| safer(other));
        match other {
            Some((other, probability)) if *probability > UNLIKELY => other.clone(),
            _ => model,
        }
    }

    /// Where an internal port was mapped last.
    fn told(&self, source: u16) -> Option<u16> {
        self.histories.first().and_then(|(_, history)| history.latest.get(&source).copied())
    }

    fn mixture(
        &self,
        source: u16,
        nth: u32,
        when: WallTime,
        which: impl Fn(&Hypothesis) -> bool,
    ) -> Density {
        let mut mixture = Mixture::new(source, nth, when);
        for hypothesis in self.hypotheses.iter().filter(|hypothesis| which(hypothesis)) {
            let of_it = self.histories.iter().find(|(other, _)| *other == hypothesis.behaviour);
            if let Some((_, history)) = of_it {
                mixture.add(hypothesis, history, hypothesis.probability);
            }
        }
        mixture.finish()
    }
}

/// As in "sequential, step 1, about 50 mappings a second by others; 97 % sure from 12
/// observations", with a sentence for all that is to be known beside it.
impl fmt::Display for Fit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.model {
            PortModel::Preserving => f.write_str("port-preserving")?,
            PortModel::Stable => f.write_str("one port for every destination")?,
            PortModel::Sequential(Sequence { step, rate, .. }) => {
                write!(f, "sequential, step {step}, ")?;
                match *rate {
                    rate if rate < 0.05 => f.write_str("hardly any mappings by others")?,
                    rate if rate < 9.5 => write!(f, "about {rate:.1} mappings a second by others")?,
                    rate => write!(f, "about {rate:.0} mappings a second by others")?,
                }
            }
            PortModel::Parity(pool) => write!(f, "random over {}, parity kept", Ports(pool))?,
            PortModel::Random(pool) => write!(f, "random over {}", Ports(pool))?,
            PortModel::StableRandom(pool) => write!(f, "one random port of {}", Ports(pool))?,
            PortModel::LinuxRandom => f.write_str("random as netfilter's")?,
        }
        let plural = if self.observations == 1 { "" } else { "s" };
        match (self.probability * 100.0).floor() {
            percent if percent >= 99.0 => f.write_str("; over 99 %")?,
            percent => write!(f, "; {percent} %")?,
        }
        write!(f, " sure from {} observation{plural}", self.observations)?;
        if self.addresses.len() > 1 {
            write!(f, ". It uses {} external addresses", self.addresses.len())?;
        }
        if self.model != PortModel::Preserving && self.unknown.contains(&Unknown::WhetherStable) {
            write!(f, ". {}", Unknown::WhetherStable)?;
        }
        Ok(())
    }
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WhetherStable => {
                "Whether the mapping depends on the destination cannot be known: no port spoke to \
                 two addresses"
            }
            Self::WhetherByPort => {
                "Whether the mapping depends on the destination's port cannot be known: no port \
                 spoke to two ports of one address"
            }
            Self::PrivilegedPorts => "What ports below 1024 are mapped to was not observed",
        })
    }
}

struct Ports<'a>(&'a PortPool);

impl fmt::Display for Ports<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (pool, size) = (self.0, self.0.size());
        match pool.ranges() {
            [range] => write!(f, "{}-{} ({size} ports)", range.start(), range.end()),
            ranges => {
                let first = &ranges[0];
                let (runs, start, end) = (ranges.len(), first.start(), first.end());
                write!(f, "{size} ports in {runs} runs from {start}-{end} on")
            }
        }
    }
}

/// The logarithm of a sum of numbers given as logarithms.
fn ln_sum(lns: impl Iterator<Item = f64> + Clone) -> f64 {
    let largest = lns.clone().fold(f64::NEG_INFINITY, f64::max);
    if largest == f64::NEG_INFINITY {
        return largest;
    }
    largest + lns.map(|ln| (ln - largest).exp()).sum::<f64>().ln()
}
