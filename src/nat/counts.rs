//! How many mappings others make in a time.

/// The distribution of how many mappings others make: probabilities from `first` on.
pub(super) struct Counts {
    pub(super) first: u64,
    pub(super) probabilities: Vec<f64>,
}

impl Counts {
    /// What is less likely than the likeliest count by this factor is left out.
    const NEGLIGIBLE: f64 = 1e-12;

    /// Poisson, as far as it matters for a counter that goes round in `pool_size` ports.
    pub(super) fn poisson(mean: f64, pool_size: u32) -> Self {
        let mean = mean.max(0.0);
        Self::around(mean.floor(), mean.sqrt(), pool_size, |count| mean / (count + 1.0))
    }

    /// Poisson with a rate that is itself Gamma(`shape`, `scale_s`)-distributed, over `seconds`:
    /// the negative binomial distribution.
    pub(super) fn poisson_gamma(shape: f64, scale_s: f64, seconds: f64, pool_size: u32) -> Self {
        let odds = seconds / scale_s;
        let mode = ((shape - 1.0) * odds).max(0.0).floor();
        let deviation = (shape * odds * (1.0 + odds)).sqrt();
        let ratio = seconds / (scale_s + seconds);
        Self::around(mode, deviation, pool_size, |count| (shape + count) / (count + 1.0) * ratio)
    }

    /// From the likeliest count outwards by the ratio of each probability to the one before:
    /// nothing overflows, and no logarithm is needed.
    fn around(mode: f64, deviation: f64, pool_size: u32, ratio: impl Fn(f64) -> f64) -> Self {
        // Wound around the pool twice and more, every place is as likely as any other: for a
        // normal distribution to 2·exp(-2π²·2²), far below a port's worth.
        if !deviation.is_finite() || deviation > 2.0 * f64::from(pool_size) {
            let each = 1.0 / f64::from(pool_size);
            return Self { first: 0, probabilities: vec![each; pool_size as usize] };
        }
        let mut below = Vec::new();
        let (mut count, mut weight) = (mode, 1.0);
        while count >= 1.0 {
            weight /= ratio(count - 1.0);
            if weight < Self::NEGLIGIBLE {
                break;
            }
            below.push(weight);
            count -= 1.0;
        }
        let first = mode as u64 - below.len() as u64;
        let mut probabilities: Vec<f64> = below.into_iter().rev().collect();
        (count, weight) = (mode, 1.0);
        while weight >= Self::NEGLIGIBLE {
            probabilities.push(weight);
            weight *= ratio(count);
            count += 1.0;
        }
        let sum: f64 = probabilities.iter().sum();
        probabilities.iter_mut().for_each(|weight| *weight /= sum);
        Self { first, probabilities }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gamma_rate_with_no_spread_is_poisson() {
        let sharp = Counts::poisson_gamma(1e9, 1e9 / 50.0, 0.1, 64_512);
        let poisson = Counts::poisson(5.0, 64_512);
        for (a, b) in sharp.probabilities.iter().zip(&poisson.probabilities) {
            assert!((a - b).abs() < 1e-7);
        }
    }

    #[test]
    fn an_exponential_rate_makes_a_geometric_count() {
        let counts = Counts::poisson_gamma(1.0, 2.0, 6.0, 64_512);
        for (count, probability) in (0..).zip(&counts.probabilities).take(40) {
            assert!((probability - 0.25 * 0.75_f64.powi(count)).abs() < 1e-9);
        }
    }
}
