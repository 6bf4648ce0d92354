//! A counter that hands out ports, and what ports seen say about its step and competitors.

use super::area::ANYWHERE;
use super::history::Allocation;
use super::ln_sum;
use crate::nat::counts::Counts;
use crate::nat::density::Density;
use crate::nat::pool::PortPool;
use crate::nat::prediction::seconds;
use crate::wire::WallTime;

/// Steps with their prior probabilities.
pub(super) const STEPS: [(i16, f64); 10] = [
    (1, 0.56),
    (2, 0.15),
    (-1, 0.06),
    (-2, 0.04),
    (3, 0.03),
    (4, 0.06),
    (5, 0.02),
    (8, 0.03),
    (10, 0.03),
    (16, 0.02),
];

/// Means of the rate of competing mappings, a second, all alike before any observation: each the
/// mean of an exponential distribution, together about log-uniform from a quiet home to a busy
/// carrier-grade NAT.
pub(super) const MEAN_RATES: [f64; 6] = [0.0, 0.3, 3.0, 30.0, 300.0, 3000.0];

/// Times of observation are no better than the jitter of a network.
const JITTER_S: f64 = 0.001;

/// A part of a prediction less likely than this is spread over its pool: after a single
/// observation there are a thousand such parts, each of some thousand ports.
const DETAILED: f64 = 3e-4;

/// A counter in a pool that explains all ports seen.
#[derive(Clone, Debug)]
pub(super) struct Counter {
    pub(super) step: i16,
    pub(super) pool: PortPool,
    /// When the last port was handed out, and which.
    pub(super) last: (WallTime, u16),
    /// For each of the mean rates, its probability.
    rates: Vec<Rate>,
    pub(super) ln_evidence: f64,
}

#[derive(Clone, Copy, Debug)]
struct Rate {
    probability: f64,
    /// Gamma(shape, scale): mappings counted plus one, over these seconds; 0 and any: no others.
    shape: f64,
    scale_s: f64,
}

impl Counter {
    /// The pool has to hold all ports; `None` if the step cannot lead from one to the next.
    pub(super) fn new(step: i16, pool: &PortPool, allocations: &[Allocation]) -> Option<Self> {
        let last = allocations.last()?;
        let mut others = 0_u64;
        let mut waited_s = 0.0;
        let mut ln_order = 0.0;
        for pair in allocations.windows(2) {
            let taken = taken_between(step, pool, pair[0].port, pair[1].port)?;
            let interval_s = seconds(pair[0].at, pair[1].at).max(JITTER_S);
            others += taken;
            waited_s += interval_s;
            ln_order += taken as f64 * interval_s.ln() - ln_factorial(taken);
        }
        let each = (MEAN_RATES.len() as f64).ln();
        let ln_rates: Vec<f64> = MEAN_RATES
            .iter()
            .map(|mean| {
                let ln_evidence = if *mean > 0.0 {
                    let scale = 1.0 / mean;
                    ln_order + scale.ln() + ln_factorial(others)
                        - (others as f64 + 1.0) * (scale + waited_s).ln()
                } else if others == 0 {
                    0.0
                } else {
                    f64::NEG_INFINITY
                };
                ln_evidence - each
            })
            .collect();
        let ln_all = ln_sum(ln_rates.iter().copied());
        let rates = MEAN_RATES.iter().zip(&ln_rates).map(|(mean, ln)| Rate {
            probability: (ln - ln_all).exp(),
            shape: if *mean > 0.0 { others as f64 + 1.0 } else { 0.0 },
            scale_s: if *mean > 0.0 { 1.0 / mean + waited_s } else { 1.0 },
        });
        Some(Self {
            step,
            pool: pool.clone(),
            last: (last.at, last.port),
            rates: rates.collect(),
            ln_evidence: ln_all,
        })
    }

    /// The port after the last.
    pub(super) fn next(&self) -> u16 {
        let size = i64::from(self.pool.size());
        let place = i64::from(self.pool.place(self.last.1).unwrap_or(0)) + i64::from(self.step);
        self.pool.nth(u32::try_from(place.rem_euclid(size)).unwrap_or(0))
    }

    /// The mean of the competing mappings a second.
    pub(super) fn rate(&self) -> f64 {
        self.rates.iter().map(|rate| rate.probability * rate.shape / rate.scale_s).sum()
    }

    /// For how long the competing mappings would have been counted if their rate were one gamma
    /// distribution: its shape is the mean of those that it is made of. `None`: there are none.
    pub(super) fn counted_s(&self) -> Option<f64> {
        let shape: f64 = self.rates.iter().map(|rate| rate.probability * rate.shape).sum();
        let counted_s = shape / self.rate();
        (counted_s > 0.0 && counted_s.is_finite()).then_some(counted_s)
    }

    pub(super) fn add_to(&self, density: &mut Density, nth: u32, when: WallTime, weight: f64) {
        let waited_s = seconds(self.last.0, when);
        for rate in &self.rates {
            let weight = weight * rate.probability;
            if weight < DETAILED {
                density.add_pool(&self.pool, weight);
                continue;
            }
            let size = self.pool.size();
            let others = if rate.shape > 0.0 {
                Counts::poisson_gamma(rate.shape, rate.scale_s, waited_s, size)
            } else {
                Counts::poisson(0.0, size)
            };
            density.add_sequence(self.next(), self.step, &self.pool, nth, &others, weight);
        }
    }
}

/// The pool of a counter that was seen to go round, if its ends are none that a system is known
/// for: the narrowest that holds the ports, and wider ones by what a step may leave over. With
/// each the logarithm of its prior probability.
pub(super) fn round_of(step: i16, allocations: &[Allocation]) -> Vec<(PortPool, f64)> {
    let ports = || allocations.iter().map(|allocation| allocation.port);
    let turned = allocations
        .windows(2)
        .any(|pair| (i32::from(pair[1].port) - i32::from(pair[0].port)) * i32::from(step) < 0);
    let ends = ports().min().zip(ports().max()).filter(|_| turned);
    let Some((low, high)) = ends.filter(|(low, _)| *low >= 1024) else { return Vec::new() };
    let wider = (0..step.unsigned_abs()).map(|left_over| {
        let (low, high) = match step {
            ..0 => (low.saturating_sub(left_over), high),
            0.. => (low, high.saturating_add(left_over)),
        };
        let pool = PortPool::range(low, high).ok()?;
        // Size log-uniform from 8 to 64,512 and place uniform, as area.rs has it.
        let size = f64::from(pool.size());
        let prior = ANYWHERE / (size * (64_512.0_f64 / 8.0).ln()) / (64_513.0 - size).max(1.0);
        Some((pool, prior.ln()))
    });
    wider.flatten().collect()
}

/// How many mappings others made between two of ours.
fn taken_between(step: i16, pool: &PortPool, from: u16, to: u16) -> Option<u64> {
    let size = i64::from(pool.size());
    let forwards = i64::from(pool.place(to)?) - i64::from(pool.place(from)?);
    let stride = i64::from(step.unsigned_abs());
    let distance = (forwards * i64::from(step.signum())).rem_euclid(size);
    // After at most `stride` rounds the counter is back at a place it knows.
    (0..=stride)
        .map(|rounds| distance + rounds * size)
        .find(|distance| *distance > 0 && distance % stride == 0)
        .and_then(|distance| u64::try_from(distance / stride - 1).ok())
}

/// Stirling's series: exact to 1e-10 from 10 on, and a product below.
fn ln_factorial(n: u64) -> f64 {
    if n < 10 {
        return (2..=n).map(|factor| (factor as f64).ln()).sum();
    }
    let x = n as f64 + 1.0;
    let square = x * x;
    (x - 0.5) * x.ln() - x
        + 0.5 * std::f64::consts::TAU.ln()
        + (1.0 / 12.0 - (1.0 / 360.0 - 1.0 / 1260.0 / square) / square) / x
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factorials_are_products() {
        let mut sum = 0.0;
        for n in 1..200_u64 {
            sum += (n as f64).ln();
            assert!((ln_factorial(n) - sum).abs() < 1e-9, "{n}: {}", ln_factorial(n) - sum);
        }
    }

    #[test]
    fn the_mappings_of_others_are_counted_around_the_pool() {
        let pool: PortPool = "1024-2047,4096-5119".parse().unwrap();
        for (step, from, to, taken) in [
            (1, 1024, 1025, Some(0)),
            (1, 2047, 4098, Some(2)),
            (-1, 1024, 5118, Some(1)),
            (2, 5119, 1025, Some(0)),
            (2, 1024, 1027, None),
            (3, 5118, 1024, Some(682 * 2 + 1)),
            (1, 1500, 1500, Some(2047)),
        ] {
            assert_eq!(taken_between(step, &pool, from, to), taken, "{step}: {from} to {to}");
        }
    }
}
