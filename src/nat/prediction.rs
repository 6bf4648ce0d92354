//! Which external port the next mapping will get, as probabilities.

use super::counts::Counts;
use super::density::Density;
use super::model::{PortModel, Sequence};
use super::pool::PortPool;
use crate::wire::WallTime;

/// A distribution over external ports.
///
/// What a [`PortModel`] predicts is the same on every machine to the last bit, because it is
/// computed without any function that IEEE 754 leaves to the platform: two ends may order their
/// plans by it.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction(Form);

#[derive(Clone, Debug, PartialEq)]
enum Form {
    /// Every port of the pool alike.
    Even(PortPool),
    /// Ports in ascending order with their probabilities.
    Weighed(Vec<(u16, f64)>),
}

impl Prediction {
    /// Certainly this port.
    pub(super) fn certain(port: u16) -> Self {
        Self(Form::Weighed(vec![(port, 1.0)]))
    }

    /// Every port of a pool alike.
    pub(super) fn even(pool: PortPool) -> Self {
        Self(Form::Even(pool))
    }

    /// Ports in ascending order with their probabilities, which sum to 1.
    pub(super) fn weighed(by_port: Vec<(u16, f64)>) -> Self {
        Self(Form::Weighed(by_port))
    }

    /// How far two distributions are apart: half the sum of the differences of probability, which
    /// is all that they do not have in common.
    pub(super) fn distance(&self, other: &Self) -> f64 {
        let common =
            self.ports().map(|(port, probability)| probability.min(other.probability(port)));
        (1.0 - common.sum::<f64>()).max(0.0)
    }

    /// The probability that the mapping gets `port`.
    pub fn probability(&self, port: u16) -> f64 {
        match &self.0 {
            Form::Even(pool) if pool.contains(port) => 1.0 / f64::from(pool.size()),
            Form::Even(_) => 0.0,
            Form::Weighed(by_port) => by_port
                .binary_search_by_key(&port, |(port, _)| *port)
                .map_or(0.0, |index| by_port[index].1),
        }
    }

    /// The possible ports in ascending order, with their probabilities.
    pub fn ports(&self) -> impl Iterator<Item = (u16, f64)> + '_ {
        let (pool, weighed) = match &self.0 {
            Form::Even(pool) => (Some(pool), &[][..]),
            Form::Weighed(by_port) => (None, &by_port[..]),
        };
        let even = pool.into_iter().flat_map(|pool| {
            let each = 1.0 / f64::from(pool.size());
            pool.iter().map(move |port| (port, each))
        });
        even.chain(weighed.iter().copied())
    }

    /// The possible ports in descending order of probability, the lower port first of two alike.
    pub fn most_likely(&self) -> impl Iterator<Item = (u16, f64)> + use<> {
        let mut ranked: Vec<_> = self.ports().collect();
        ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
        ranked.into_iter()
    }

    /// The fewest ports that hold this probability together, most likely first. All possible ones
    /// if they do not hold it.
    pub fn covering(&self, mass: f64) -> Vec<u16> {
        // Sums of many parts miss by rounding; a part in 10⁹ is no port's worth.
        let enough = mass - 1e-9;
        let mut sum = 0.0;
        let mut ports = Vec::new();
        for (port, probability) in self.most_likely() {
            if sum >= enough {
                break;
            }
            sum += probability;
            ports.push(port);
        }
        ports
    }
}

impl PortModel {
    /// Where the `nth` new mapping of a burst (counted from 0) made at `when` from the internal
    /// port `source` will be. `None` for a stable port, which only the peer's address tells.
    ///
    /// A sequence without `at` is taken as being there just then: see [`PortModel::anchored`].
    /// The mappings of a burst are independent under every model except stable-random, where all
    /// of one source port are the same.
    pub fn predict(&self, source: u16, nth: u32, when: WallTime) -> Option<Prediction> {
        match self {
            Self::Preserving => Some(Prediction::certain(source)),
            Self::Sequential(sequence) => Some(sequence.predict(nth, when)),
            Self::Stable
            | Self::Parity(_)
            | Self::Random(_)
            | Self::StableRandom(_)
            | Self::LinuxRandom => self.pool(source).map(Prediction::even),
        }
    }

    /// The ports that a mapping from the internal port `source` can get, if they are a pool.
    pub fn pool(&self, source: u16) -> Option<PortPool> {
        match self {
            Self::Preserving | Self::Stable => None,
            Self::Sequential(sequence) => Some(sequence.pool.clone()),
            Self::Parity(pool) => pool.of_parity(source),
            Self::Random(pool) | Self::StableRandom(pool) => Some(pool.clone()),
            Self::LinuxRandom => {
                // nf_nat_l4proto_unique_tuple() in net/netfilter/nf_nat_core.c.
                let (first, last) = match source {
                    0..=511 => (1, 511),
                    512..=1023 => (600, 1023),
                    1024.. => (1024, 65535),
                };
                PortPool::range(first, last).ok()
            }
        }
    }

    /// A sequence known for "the instant" tied to the time of that instant; any other model as it
    /// is.
    #[must_use]
    pub fn anchored(mut self, instant: WallTime) -> Self {
        if let Self::Sequential(Sequence { at: at @ None, .. }) = &mut self {
            *at = Some(instant);
        }
        self
    }
}

impl Sequence {
    fn predict(&self, nth: u32, when: WallTime) -> Prediction {
        let mut density = Density::new();
        let seconds = self.at.map_or(0.0, |at| seconds(at, when));
        let size = self.pool.size();
        let others = match self.counted_s {
            Some(counted_s) if self.rate > 0.0 => {
                Counts::poisson_gamma(self.rate * counted_s, counted_s, seconds, size)
            }
            _ => Counts::poisson(self.rate * seconds, size),
        };
        density.add_sequence(self.next, self.step, &self.pool, nth, &others, 1.0);
        density.prediction()
    }
}

/// From `earlier` to `later`; 0 if it is the other way round.
pub(super) fn seconds(earlier: WallTime, later: WallTime) -> f64 {
    earlier.until(later).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const NOON: WallTime = WallTime::from_unix_ns(1_795_258_800_000_000_000);

    fn predict(model: &str, source: u16, nth: u32, after_s: f64) -> Prediction {
        let when = NOON.after(Duration::from_secs_f64(after_s));
        let model: PortModel = model.parse().unwrap();
        model.anchored(NOON).predict(source, nth, when).unwrap()
    }

    #[test]
    fn a_quiet_counter_is_certain() {
        for (model, nth, port) in [
            ("sequential:next=40000", 0, 40_000),
            ("sequential:next=40000", 7, 40_007),
            ("sequential:next=40000,step=-2", 3, 39_994),
            ("sequential:next=65535", 1, 1024),
            ("sequential:next=2047,pool=1024-2047+4096-5119", 1, 4096),
            ("sequential:next=1024,step=-1,pool=1024-2047+4096-5119", 1, 5119),
            ("sequential:next=40000,step=-32768", u32::MAX, 6208),
        ] {
            let prediction = predict(model, 1, nth, 9.0);
            assert_eq!(prediction.most_likely().collect::<Vec<_>>(), [(port, 1.0)], "{model}");
        }
    }

    #[test]
    fn competing_mappings_are_poisson() {
        let prediction = predict("sequential:next=40000,step=2,rate=50", 1, 1, 0.1);
        let mut term = (-5.0_f64).exp();
        for count in 0..20_u16 {
            let probability = prediction.probability(40_002 + 2 * count);
            assert!((probability - term).abs() < 1e-12, "{count}: {probability} is not {term}");
            assert_eq!(prediction.probability(40_003 + 2 * count), 0.0);
            term *= 5.0 / f64::from(count + 1);
        }
    }

    #[test]
    fn a_long_wait_wears_a_counter_out_but_not_the_sums() {
        for (rate, seconds) in [(100.0, 1e3), (1e4, 0.001), (1e5, 1e5), (1e300, 1e9)] {
            let prediction = predict(&format!("sequential:next=40000,rate={rate}"), 1, 0, seconds);
            let sum: f64 = prediction.most_likely().map(|(_, probability)| probability).sum();
            assert!((sum - 1.0).abs() < 1e-9, "{rate} × {seconds}: {sum}");
        }
        let around = predict("sequential:next=1024,rate=100", 1, 0, 1e3).covering(0.9);
        assert!((1000..1100).contains(&around.len()), "2 × 1.645 × √100000, not {}", around.len());
        assert!(around.contains(&(1024 + (100_000 % 64_512_u32) as u16)));
    }

    #[test]
    fn a_counter_is_not_run_backwards() {
        let model: PortModel = "sequential:next=40000,rate=50,at=1795258801".parse().unwrap();
        assert_eq!(model.predict(1, 0, NOON).unwrap().probability(40_000), 1.0);
    }

    #[test]
    fn netfilter_has_a_small_pool_for_privileged_ports() {
        for (source, ports, first, last) in
            [(511, 511, 1, 511), (512, 424, 600, 1023), (1023, 424, 600, 1023)]
        {
            let prediction = predict("linux-random", source, 3, 0.0);
            assert_eq!(prediction.most_likely().count(), ports);
            assert_eq!(prediction.probability(first), 1.0 / ports as f64);
            assert_eq!(prediction.probability(last + 1), 0.0);
        }
        assert_eq!(predict("linux-random", 1024, 0, 0.0).covering(0.5).len(), 32_256);
    }

    #[test]
    fn what_the_other_models_say() {
        assert_eq!(predict("preserving", 4321, 5, 1.0).probability(4321), 1.0);
        assert_eq!("stable".parse::<PortModel>().unwrap().predict(1, 0, NOON), None);
        let parity = predict("parity:2000-2009", 7, 0, 0.0);
        assert_eq!((parity.probability(2001), parity.probability(2002)), (0.2, 0.0));
        assert_eq!(predict("random:2000-2009", 7, 0, 0.0).covering(0.3), [2000, 2001, 2002]);
        assert_eq!(predict("stable-random:2000-2009", 7, 0, 0.0).probability(2009), 0.1);
    }

    proptest! {
        #[test]
        fn a_covering_set_is_enough_and_no_larger_than_needed(
            rate in 0.0..1000.0_f64, seconds in 0.0..10.0_f64, step in 1..100_i16, mass in 0.01..0.99_f64
        ) {
            let prediction =
                predict(&format!("sequential:next=9000,rate={rate},step={step}"), 1, 0, seconds);
            let ports = prediction.covering(mass);
            let held: f64 = ports.iter().map(|port| prediction.probability(*port)).sum();
            let last = prediction.probability(*ports.last().unwrap());
            prop_assert!(held >= mass - 1e-8 && held - last < mass, "{held} {last}");
            let sum: f64 = prediction.most_likely().map(|(_, probability)| probability).sum();
            prop_assert!((sum - 1.0).abs() < 1e-9);
        }
    }
}
