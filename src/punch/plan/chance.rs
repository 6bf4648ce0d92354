//! The arithmetic of searches: how probable it is that no pair of mappings matches.
//!
//! A mapping is a cell: its column is the peer's port that it goes to, its row the external port
//! that it got. Both ends' mappings are cells of one matrix, and a pair matches where they share
//! a cell: each end's external port is the port that the other one sends to.

use std::collections::BTreeMap;

/// What one end does: from `sources` ports to each of `targets` ports of the peer, its external
/// ports falling among `pool` ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grid {
    pub(super) pool: u32,
    pub(super) sources: u32,
    pub(super) targets: u32,
}

impl Grid {
    fn tuples(self) -> f64 {
        f64::from(self.sources) * f64::from(self.targets)
    }
}

/// Pairs that match on average: the same whatever the dependence among an end's mappings.
pub(super) fn expected(a: Grid, b: Grid) -> f64 {
    a.tuples() * b.tuples() / (f64::from(a.pool) * f64::from(b.pool))
}

/// The probability that none of `drawn` different ones of `pool` is among the `wanted`.
pub(super) fn none_drawn(pool: u32, wanted: u32, drawn: u32) -> f64 {
    if wanted + drawn > pool {
        return 0.0;
    }
    (ln_choose(pool - wanted, drawn) - ln_choose(pool, drawn)).exp().min(1.0)
}

/// Both ends random for each destination: the probability that no pair matches.
///
/// To one destination an end's external ports differ; for different ones they are independent.
/// So given how many mappings of `a` stand in a row, `b`, which goes to that row's port from its
/// own sources, misses them all with probability g = [`none_drawn`]; rows are independent given
/// their counts. A row's count is binomial. Counts of different rows are not quite independent,
/// as a column holds just so many: with columns of n ports, c of them taken, two rows share a
/// column's ports with covariance −p(1−p)/(n−1), p = c/n. The second term is what this changes,
/// to first order in it; what is left is of the order of 1/n²: below 0.005 for n = 7, 0.0001 for
/// n = 64. It is least where g is nearest to a straight line.
pub(super) fn none_random(a: Grid, b: Grid) -> f64 {
    if a.pool.max(b.pool) <= COUNTED_OUT {
        return none_counted_out(a, b);
    }
    if too_full_to_miss(a, b) || too_full_to_miss(b, a) {
        return 0.0;
    }
    let share = |grid: Grid| f64::from(grid.sources) / f64::from(grid.pool);
    if share(a) < share(b) { none_by_rows(b, a) } else { none_by_rows(a, b) }
}

/// Some row has the average count at least: `b` cannot miss it if it goes to all rows and has
/// more sources there than the row has gaps.
fn too_full_to_miss(a: Grid, b: Grid) -> bool {
    let gaps = f64::from(a.pool) * f64::from(b.pool.saturating_sub(b.sources));
    b.targets == a.pool && a.tuples() > gaps
}

fn none_by_rows(a: Grid, b: Grid) -> f64 {
    let p = f64::from(a.sources) / f64::from(a.pool);
    let miss = |count: u32| none_drawn(b.pool, count, b.sources);
    let row = binomial_mean(a.targets, p, miss);
    if row <= 0.0 {
        return 0.0;
    }
    let slope = binomial_mean(a.targets - 1, p, |count| miss(count + 1) - miss(count)) / row;
    let covariance = -p * (1.0 - p) / (f64::from(a.pool) - 1.0).max(1.0);
    let rows = f64::from(b.targets);
    let pairs = rows * (rows - 1.0) / 2.0;
    let log = rows * row.ln() + pairs * f64::from(a.targets) * covariance * slope * slope;
    log.exp().clamp(0.0, 1.0)
}

/// Pools up to this size are counted out: 924 different row counts at most.
const COUNTED_OUT: u32 = 6;

/// [`none_random`] exactly: column by column, all ways in which the counts of the rows that `b`
/// goes to can grow. Their order does not matter.
fn none_counted_out(a: Grid, b: Grid) -> f64 {
    let mut ways = BTreeMap::from([(vec![0; b.targets as usize], 1.0)]);
    let elsewhere = a.pool - b.targets;
    for _ in 0..a.targets {
        let mut grown = BTreeMap::new();
        for (rows, probability) in &ways {
            for hit in (0..1_u32 << b.targets).filter(|hit| {
                let hits = hit.count_ones();
                hits <= a.sources && a.sources - hits <= elsewhere
            }) {
                let mut rows: Vec<u32> = rows.clone();
                for (place, count) in rows.iter_mut().enumerate() {
                    *count += hit >> place & 1;
                }
                rows.sort_unstable();
                let rest = ln_choose(elsewhere, a.sources - hit.count_ones());
                let share = (rest - ln_choose(a.pool, a.sources)).exp();
                *grown.entry(rows).or_insert(0.0) += probability * share;
            }
        }
        ways = grown;
    }
    let missed = |rows: &Vec<u32>| -> f64 {
        rows.iter().map(|count| none_drawn(b.pool, *count, b.sources)).product()
    };
    ways.iter().map(|(rows, probability)| probability * missed(rows)).sum::<f64>().min(1.0)
}

/// `a` has one unknown port a source, the same for every destination, `b` is random for each:
/// every row of `a` that `b` goes to is full.
pub(super) fn none_stable_random(a: Grid, b: Grid) -> f64 {
    let row = none_drawn(b.pool, a.targets, b.sources);
    hypergeometric_mean(a.pool, b.targets, a.sources, |rows| row.powf(f64::from(rows)))
}

/// Both ends have one unknown port a source, the same for every destination: each has to go to
/// one of the other's ports, whatever else.
pub(super) fn none_stable_stable(a: Grid, b: Grid) -> f64 {
    let found = |a: Grid, b: Grid| 1.0 - none_drawn(a.pool, b.targets, a.sources);
    1.0 - found(a, b) * found(b, a)
}

/// Above this mean nothing near a pool's size is predicted, and adding up takes too long.
const MOST_PREDICTABLE: f64 = 1e7;

/// The probability that a Poisson variable of this mean lies in the range; 0 for hopeless means.
pub(super) fn poisson_mass(mean: f64, first: i64, last: i64) -> f64 {
    let first = u32::try_from(first.max(0)).unwrap_or(u32::MAX);
    let Ok(last) = u32::try_from(last.min(i64::from(u32::MAX))) else { return 0.0 };
    if mean > MOST_PREDICTABLE {
        return 0.0;
    }
    if mean <= 0.0 {
        return if first == 0 { 1.0 } else { 0.0 };
    }
    let mass = |count: u32| (f64::from(count) * mean.ln() - mean - ln_factorial(count)).exp();
    // Ten standard deviations hold all that a double can tell.
    let reach = 10.0 * mean.sqrt() + 40.0;
    let (first, last) = (first.max(floor(mean - reach)), last.min(floor(mean + reach)));
    (first..=last).map(mass).sum::<f64>().min(1.0)
}

/// The probability that a count of this mean lies in the range. Its rate was itself counted, and is
/// now foretold for `odds` times as long: a negative binomial distribution, and Poisson's where
/// `odds` is 0.
pub(super) fn count_mass(mean: f64, odds: f64, first: i64, last: i64) -> f64 {
    if mean <= 0.0 || odds <= 1e-6 || mean > MOST_PREDICTABLE {
        return poisson_mass(mean, first, last);
    }
    let shape = mean / odds;
    let ratio = |count: f64| (shape + count) / (count + 1.0) * odds / (1.0 + odds);
    let reach = 10.0 * (mean * (1.0 + odds)).sqrt() + 40.0;
    // What falls off on either side of the likeliest count, in parts of that.
    let mode = ((shape - 1.0) * odds).max(0.0).floor();
    let (lowest, highest) = ((mode - reach).max(0.0), mode + 2.0 * reach);
    let inside = |count: f64| count as i64 >= first && count as i64 <= last;
    let (mut all, mut held) = (0.0, 0.0);
    let mut add = |count: f64, weight: f64| {
        all += weight;
        held += if inside(count) { weight } else { 0.0 };
    };
    let (mut count, mut weight) = (mode, 1.0);
    while count <= highest {
        add(count, weight);
        weight *= ratio(count);
        count += 1.0;
    }
    (count, weight) = (mode, 1.0);
    while count > lowest {
        count -= 1.0;
        weight /= ratio(count);
        add(count, weight);
    }
    (held / all).min(1.0)
}

/// The mean of `value` over a binomial number of successes.
fn binomial_mean(trials: u32, p: f64, value: impl Fn(u32) -> f64) -> f64 {
    if p >= 1.0 {
        return value(trials);
    }
    let (mean, deviation) = (f64::from(trials) * p, (f64::from(trials) * p * (1.0 - p)).sqrt());
    let reach = 10.0 * deviation + 40.0;
    let first = floor(mean - reach);
    let last = floor(mean + reach).min(trials);
    let mass = |count: u32| {
        let log = f64::from(count) * p.ln() + f64::from(trials - count) * (-p).ln_1p();
        (ln_choose(trials, count) + log).exp()
    };
    (first..=last).map(|count| mass(count) * value(count)).sum()
}

/// The mean of `value` over the number of the `wanted` among `drawn` different ones of `pool`.
fn hypergeometric_mean(pool: u32, wanted: u32, drawn: u32, value: impl Fn(u32) -> f64) -> f64 {
    let mass = |count: u32| {
        let ways = ln_choose(wanted, count) + ln_choose(pool - wanted, drawn - count);
        (ways - ln_choose(pool, drawn)).exp()
    };
    let first = (wanted + drawn).saturating_sub(pool);
    (first..=wanted.min(drawn)).map(|count| mass(count) * value(count)).sum()
}

fn ln_choose(of: u32, chosen: u32) -> f64 {
    ln_factorial(of) - ln_factorial(chosen) - ln_factorial(of - chosen)
}

/// Stirling's series, whose next term is below 10⁻¹² from 16 on.
fn ln_factorial(n: u32) -> f64 {
    if n < 16 {
        return (2..=n).map(|factor| f64::from(factor).ln()).sum();
    }
    let x = f64::from(n);
    let tail = 1.0 / (12.0 * x) - 1.0 / (360.0 * x.powi(3)) + 1.0 / (1260.0 * x.powi(5));
    (x + 0.5) * x.ln() - x + 0.5 * std::f64::consts::TAU.ln() + tail - 1.0 / (1680.0 * x.powi(7))
}

/// The whole number below, 0 for what is negative.
pub(super) fn floor(x: f64) -> u32 {
    // The cast saturates.
    x.max(0.0) as u32
}
