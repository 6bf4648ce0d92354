//! Stated chances against routers that really draw lots.

use super::chance::{Grid, expected, none_random, none_stable_random, none_stable_stable};
use super::*;
use crate::nat::Sequence;
use std::collections::HashSet;

/// SplitMix64 (Steele, Lea and Flood 2014): the same lots in every run.
struct Lots(u64);

impl Lots {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: u32) -> u32 {
        (((self.next() >> 32) * u64::from(end)) >> 32) as u32
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// By the gaps of the process, a part at a time lest the product underflow.
    fn poisson(&mut self, mean: f64) -> i64 {
        let (mut left, mut count) = (mean, 0);
        while left > 0.0 {
            let part = left.min(20.0);
            let (floor, mut product) = ((-part).exp(), self.unit());
            while product > floor {
                count += 1;
                product *= self.unit();
            }
            left -= part;
        }
        count
    }

    /// Of a whole shape: a sum of exponential gaps.
    fn gamma(&mut self, shape: f64) -> f64 {
        (0..shape.round() as u32).map(|_| -(1.0 - self.unit()).ln()).sum()
    }

    /// So many different numbers below `pool`.
    fn different(&mut self, pool: u32, count: u32) -> Vec<u32> {
        let mut drawn: Vec<u32> = Vec::with_capacity(count as usize);
        while (drawn.len() as u32) < count {
            let lot = self.below(pool);
            if !drawn.contains(&lot) {
                drawn.push(lot);
            }
        }
        drawn
    }
}

/// What a router draws, as (column, row).
type Cells = fn(&mut Lots, Grid) -> Vec<(u32, u32)>;

/// Random for each destination.
fn random_cells(lots: &mut Lots, grid: Grid) -> Vec<(u32, u32)> {
    let mut column = |column| {
        let rows = lots.different(grid.pool, grid.sources);
        rows.into_iter().map(move |row| (column, row))
    };
    (0..grid.targets).flat_map(&mut column).collect()
}

/// One unknown port a source, for all destinations.
fn stable_cells(lots: &mut Lots, grid: Grid) -> Vec<(u32, u32)> {
    let rows = lots.different(grid.pool, grid.sources);
    (0..grid.targets).flat_map(|column| rows.iter().map(move |row| (column, *row))).collect()
}

const TRIALS: u32 = 20_000;

fn grid(pool: u32, sources: u32, targets: u32) -> Grid {
    Grid { pool, sources, targets }
}

/// How often a pair matched, in sizes small enough for a matrix.
fn simulated((a, cells_a): (Grid, Cells), (b, cells_b): (Grid, Cells)) -> f64 {
    let mut lots = Lots(7);
    let mut last_seen = vec![0; (a.pool * b.pool) as usize];
    let hits = (1..=TRIALS)
        .filter(|trial| {
            for (column, row) in cells_a(&mut lots, a) {
                last_seen[(row * b.pool + column) as usize] = *trial;
            }
            cells_b(&mut lots, b)
                .iter()
                .any(|(row, column)| last_seen[(row * b.pool + column) as usize] == *trial)
        })
        .count();
    hits as f64 / f64::from(TRIALS)
}

#[test]
fn random_against_random() {
    let mut seen = Vec::new();
    for (a, b) in [
        (grid(64, 1, 38), grid(64, 1, 39)),
        (grid(64, 1, 64), grid(64, 1, 64)),
        (grid(64, 2, 40), grid(64, 1, 60)),
        (grid(64, 3, 30), grid(64, 2, 64)),
        (grid(64, 5, 10), grid(64, 20, 4)),
        (grid(100, 7, 9), grid(30, 2, 30)),
        (grid(100, 1, 30), grid(30, 29, 2)),
        (grid(7, 2, 3), grid(9, 4, 2)),
        (grid(7, 1, 7), grid(7, 1, 7)),
        (grid(424, 1, 255), grid(424, 1, 255)),
        (grid(424, 2, 212), grid(424, 16, 23)),
    ] {
        let stated = 1.0 - none_random(a, b);
        let seen_rate = simulated((a, random_cells), (b, random_cells));
        println!("{a:?} {b:?}: stated {stated:.4}, seen {seen_rate:.4}");
        assert!((stated - seen_rate).abs() < 0.01, "{a:?} {b:?}: {stated} {seen_rate}");
        let other_way = 1.0 - none_random(b, a);
        assert!((stated - other_way).abs() < 0.005, "{a:?} {b:?}: {stated} {other_way}");
        seen.push(seen_rate);
    }
    for about in [0.3, 0.6, 0.9] {
        assert!(seen.iter().any(|seen| (seen - about).abs() < 0.06), "nothing near {about}");
    }
}

#[test]
fn stable_but_unknown_ports() {
    for (a, b) in [
        (grid(64, 1, 30), grid(64, 3, 40)),
        (grid(64, 5, 12), grid(64, 2, 60)),
        (grid(100, 10, 9), grid(30, 2, 50)),
    ] {
        let stated = 1.0 - none_stable_random(a, b);
        let seen = simulated((a, stable_cells), (b, random_cells));
        assert!((stated - seen).abs() < 0.01, "{a:?} {b:?}: {stated} {seen}");
        let stated = 1.0 - none_stable_stable(a, b);
        let seen = simulated((a, stable_cells), (b, stable_cells));
        assert!((stated - seen).abs() < 0.01, "{a:?} {b:?}: {stated} {seen}");
    }
}

/// Every way in which `a` can draw its cells, each as probable as any other.
fn all_ways(a: Grid) -> Vec<Vec<(u32, u32)>> {
    let column = |column: u32| -> Vec<Vec<(u32, u32)>> {
        (0..1_u32 << a.pool)
            .filter(|rows| rows.count_ones() == a.sources)
            .map(|rows| {
                (0..a.pool).filter(move |row| rows >> row & 1 == 1).map(|row| (column, row))
            })
            .map(Iterator::collect)
            .collect()
    };
    (0..a.targets).fold(vec![vec![]], |ways, nth| {
        let column = column(nth);
        ways.iter()
            .flat_map(|way| column.iter().map(|cells| [way.as_slice(), cells].concat()))
            .collect()
    })
}

#[test]
fn tiny_pools_counted_out() {
    for (a, b) in [
        (grid(2, 1, 2), grid(2, 1, 2)),
        (grid(3, 1, 3), grid(3, 1, 3)),
        (grid(3, 2, 2), grid(3, 1, 3)),
        (grid(4, 1, 3), grid(3, 2, 2)),
        (grid(4, 2, 2), grid(4, 1, 4)),
        (grid(5, 3, 2), grid(2, 1, 4)),
    ] {
        let (ways_a, ways_b) = (all_ways(a), all_ways(b));
        let missed = ways_a
            .iter()
            .flat_map(|one| ways_b.iter().map(move |another| (one, another)))
            .filter(|(one, another)| {
                !one.iter().any(|(column, row)| another.contains(&(*row, *column)))
            })
            .count();
        let exact = missed as f64 / (ways_a.len() * ways_b.len()) as f64;
        let stated = none_random(a, b);
        assert!((stated - exact).abs() < 1e-9, "{a:?} {b:?}: {stated}, counted {exact}");
        let pairs: usize = ways_a
            .iter()
            .flat_map(|one| ways_b.iter().map(move |another| (one, another)))
            .map(|(one, another)| one.iter().filter(|(c, r)| another.contains(&(*r, *c))).count())
            .sum();
        let mean = pairs as f64 / (ways_a.len() * ways_b.len()) as f64;
        assert!((mean - expected(a, b)).abs() < 1e-9, "{a:?} {b:?}");
    }
}

const INSTANT: WallTime = WallTime::from_unix_ns(1_795_258_800_000_000_000);
const LEAD: Duration = Duration::from_millis(250);

fn pool(text: &str) -> PortPool {
    text.parse().unwrap()
}

/// A router and what its host sends through it.
struct Side<'a> {
    model: &'a PortModel,
    plan: Plan,
    rate: f64,
    /// In the plan's order: the source's place and the peer's port.
    tuples: Vec<(u16, u16)>,
    /// The ports that may be drawn.
    pool: Vec<u16>,
    fixed: u16,
}

impl<'a> Side<'a> {
    fn new(ours: &'a End, theirs: &End, budget: &Budget) -> Self {
        let plan = Plan::new(ours, theirs, budget, INSTANT.before(LEAD)).unwrap();
        let pool = match &ours.model {
            PortModel::Random(pool) | PortModel::StableRandom(pool) => pool.iter().collect(),
            PortModel::LinuxRandom => (600..=1023).collect(),
            PortModel::Parity(pool) => {
                let Sources::Any { of, .. } = &plan.sources else { panic!("{plan:?}") };
                let parity = of.nth(0) % 2;
                assert!(of.iter().all(|port| port % 2 == parity));
                pool.iter().filter(|port| port % 2 == parity).collect()
            }
            _ => Vec::new(),
        };
        Self {
            model: &ours.model,
            rate: f64::from(budget.rate),
            tuples: (0..plan.len()).map(|nth| plan.tuple(nth)).collect(),
            pool,
            fixed: ours.port,
            plan,
        }
    }

    /// (external port, the peer's port) of each tuple, opened at the plan's pace.
    fn mappings(&self, lots: &mut Lots) -> Vec<(u16, u16)> {
        let count = self.pool.len() as u32;
        let sources = usize::from(self.plan.sources.count());
        match self.model {
            PortModel::Preserving | PortModel::Stable => {
                self.tuples.iter().map(|(_, to)| (self.fixed, *to)).collect()
            }
            PortModel::Random(_) | PortModel::Parity(_) | PortModel::LinuxRandom => {
                let mut mappings = Vec::with_capacity(self.tuples.len());
                for to_one in self.tuples.chunks(sources) {
                    let drawn = lots.different(count, sources as u32);
                    let places = drawn.iter().zip(to_one);
                    mappings.extend(places.map(|(at, (_, to))| (self.pool[*at as usize], *to)));
                }
                mappings
            }
            PortModel::StableRandom(_) => {
                let drawn = lots.different(count, sources as u32);
                let port = |source: u16| self.pool[drawn[usize::from(source)] as usize];
                self.tuples.iter().map(|(source, to)| (port(*source), *to)).collect()
            }
            PortModel::Sequential(Sequence { next, at, step, rate, counted_s, pool }) => {
                let rate = &counted_s.map_or(*rate, |seconds| lots.gamma(rate * seconds) / seconds);
                let age = at.map_or(0.0, |at| self.plan.opens_at().ns_since(at) as f64 / 1e9);
                let others = lots.poisson(age.abs() * rate);
                let mut offset = if age < 0.0 { -others } else { others };
                let start = i64::from(pool.place(*next).unwrap());
                let mappings = self.tuples.iter().map(|(_, to)| {
                    let place = start + i64::from(*step) * offset;
                    offset += 1 + lots.poisson(rate / self.rate);
                    (pool.nth(place.rem_euclid(i64::from(pool.size())) as u32), *to)
                });
                mappings.collect()
            }
        }
    }
}

/// A counter whose competing mappings were counted for a fifth of a second.
fn counted(text: &str, rate: f64, age_ms: i64) -> End {
    let mut end = sequential(text, 1, rate, age_ms);
    if let PortModel::Sequential(sequence) = &mut end.model {
        sequence.counted_s = Some(0.2);
    }
    end
}

fn sequential(text: &str, step: i16, rate: f64, age_ms: i64) -> End {
    let pool = pool(text);
    let at = INSTANT.before(Duration::ZERO).unix_ns() - age_ms * 1_000_000;
    let next = pool.nth(pool.size() - 5);
    let at = Some(WallTime::from_unix_ns(at));
    End {
        model: PortModel::Sequential(Sequence { next, at, step, rate, counted_s: None, pool }),
        port: 0,
    }
}

#[test]
fn every_pair_of_models_meets_as_often_as_its_plan_says() {
    let random = |model: fn(PortPool) -> PortModel, text| End { model: model(pool(text)), port: 0 };
    let ends = [
        End { model: PortModel::Preserving, port: 5000 },
        random(PortModel::Random, "4096-4159"),
        random(PortModel::Random, "2000-2999"),
        random(PortModel::Parity, "5001-5100"),
        random(PortModel::StableRandom, "7000-7299"),
        sequential("1024-65535", 1, 50.0, 1_000),
        sequential("30000-30999", -2, 2_000.0, 300),
        sequential("30000-30049", 3, 5.0, 100),
        sequential("1024-65535", 1, 400.0, -500),
        sequential("1024-65535", 1, 0.0, 60_000),
        counted("1024-65535", 15.0, 700),
        counted("1024-65535", 50.0, 500),
        counted("1024-65535", 400.0, 300),
    ];
    let mut lots = Lots(11);
    for (budget, trials) in
        [("packets=4000", 20), ("packets=300", 300), ("packets=62", 800), ("packets=4", 1_500)]
    {
        let budget: Budget = budget.parse().unwrap();
        for (nth, a) in ends.iter().enumerate() {
            for b in &ends[nth..] {
                meets_as_often_as_stated(&mut lots, a, b, &budget, trials);
            }
        }
    }
}

fn meets_as_often_as_stated(lots: &mut Lots, a: &End, b: &End, budget: &Budget, trials: u32) {
    let (ours, theirs) = (Side::new(a, b, budget), Side::new(b, a, budget));
    let (mut hits, mut pairs) = (0_u32, 0);
    for _ in 0..trials {
        let one: HashSet<_> = ours.mappings(lots).into_iter().collect();
        let another = theirs.mappings(lots);
        let met = another.iter().filter(|(at, to)| one.contains(&(*to, *at))).count();
        hits += u32::from(met > 0);
        pairs += met;
    }
    let trials = f64::from(trials);
    let (seen, pairs) = (f64::from(hits) / trials, pairs as f64 / trials);
    let Plan { chance, expected_matches: expected, .. } = ours.plan;
    let words = format!(
        "{budget}\n{:?}\n{:?}\n{}\n{}\nseen {seen:.4}, pairs {pairs:.3} of {expected:.3}",
        a.model,
        b.model,
        ours.plan.words(),
        theirs.plan.words()
    );
    // Three and a half standard deviations: some two hundred cases are looked at.
    let doubt = 3.5 * (chance * (1.0 - chance) / trials).sqrt() + 0.01;
    assert!((chance - seen).abs() < doubt, "{words}");
    assert!(expected < 2.0 * pairs + 0.2 && pairs < 2.0 * expected + 0.2, "{words}");
    for side in [&ours, &theirs] {
        assert!(side.plan.len() <= budget.entries, "{words}");
        assert!(side.plan.packets() <= budget.packets, "{words}");
    }
}
