//! Stated chances against routers that really draw lots.

use super::chance::{Grid, expected, none_random, none_stable_random, none_stable_stable};
use super::*;
use crate::nat::Sequence;
use std::collections::{BTreeMap, HashSet};

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

    /// So many different numbers below `pool`.
    fn different(&mut self, pool: u32, count: u32) -> Vec<u32> {
        let mut drawn: Vec<u32> = Vec::new();
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
        (grid(64, 5, 10), grid(64, 20, 8)),
        (grid(100, 7, 9), grid(30, 2, 100)),
        (grid(100, 1, 30), grid(30, 29, 2)),
        (grid(7, 2, 3), grid(9, 4, 2)),
        (grid(7, 1, 7), grid(7, 1, 7)),
        (grid(424, 1, 255), grid(424, 1, 255)),
        (grid(424, 1, 400), grid(424, 1, 412)),
        (grid(424, 2, 424), grid(424, 1, 424)),
        (grid(1000, 40, 10), grid(1000, 5, 500)),
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

fn pool(text: &str) -> PortPool {
    text.parse().unwrap()
}

/// What the router makes of a plan: (external port, the peer's port) of each tuple, the tuples
/// opened at the plan's pace.
fn mappings(lots: &mut Lots, end: &End, plan: &Plan, budget: &Budget) -> Vec<(u16, u16)> {
    let tuples: Vec<_> = (0..plan.len()).map(|nth| plan.tuple(nth)).collect();
    let mut taken: BTreeMap<u16, Vec<u16>> = BTreeMap::new();
    let mut drawn = |lots: &mut Lots, key: u16, pool: &[u16]| loop {
        let port = pool[lots.below(pool.len() as u32) as usize];
        let taken = taken.entry(key).or_default();
        if !taken.contains(&port) {
            taken.push(port);
            return port;
        }
    };
    match &end.model {
        PortModel::Preserving | PortModel::Stable => {
            tuples.iter().map(|(_, to)| (end.port, *to)).collect()
        }
        PortModel::Random(pool) => {
            let ports: Vec<_> = pool.iter().collect();
            tuples.iter().map(|(_, to)| (drawn(lots, *to, &ports), *to)).collect()
        }
        PortModel::Parity(pool) => {
            let Sources::Any { of, .. } = &plan.sources else { panic!("{plan:?}") };
            let parity = of.nth(0) % 2;
            assert!(of.iter().all(|port| port % 2 == parity));
            let ports: Vec<_> = pool.iter().filter(|port| port % 2 == parity).collect();
            tuples.iter().map(|(_, to)| (drawn(lots, *to, &ports), *to)).collect()
        }
        PortModel::LinuxRandom => {
            let ports: Vec<_> = (600..=1023).collect();
            tuples.iter().map(|(_, to)| (drawn(lots, *to, &ports), *to)).collect()
        }
        PortModel::StableRandom(pool) => {
            let ports: Vec<_> = pool.iter().collect();
            let count = u32::from(plan.sources.count());
            let of_source = lots.different(pool.size(), count);
            tuples.iter().map(|(s, to)| (ports[of_source[usize::from(*s)] as usize], *to)).collect()
        }
        PortModel::Sequential(Sequence { next, at, step, rate, pool }) => {
            let first = at.map_or(0.0, |at| plan.opens_at().ns_since(at) as f64 / 1e9);
            let mut offset =
                if first < 0.0 { -lots.poisson(-first * rate) } else { lots.poisson(first * rate) };
            let start = i64::from(pool.place(*next).unwrap());
            let between = rate / f64::from(budget.rate);
            tuples
                .iter()
                .map(|(_, to)| {
                    let place = start + i64::from(*step) * offset;
                    offset += 1 + lots.poisson(between);
                    (pool.nth(place.rem_euclid(i64::from(pool.size())) as u32), *to)
                })
                .collect()
        }
    }
}

fn sequential(text: &str, step: i16, rate: f64, age_ms: i64) -> End {
    let pool = pool(text);
    let at = INSTANT.before(Duration::ZERO).unix_ns() - age_ms * 1_000_000;
    let next = pool.nth(pool.size() - 5);
    let at = Some(WallTime::from_unix_ns(at));
    End { model: PortModel::Sequential(Sequence { next, at, step, rate, pool }), port: 0 }
}

/// Whole plans of both ends, through both routers.
fn tried(a: &End, b: &End, budget: &Budget, trials: u32) -> (f64, f64, Plan, Plan) {
    let ours = Plan::new(a, b, budget, INSTANT).unwrap();
    let theirs = Plan::new(b, a, budget, INSTANT).unwrap();
    let mut lots = Lots(11);
    let (mut hits, mut pairs) = (0_u32, 0);
    for _ in 0..trials {
        let one: HashSet<_> = mappings(&mut lots, a, &ours, budget).into_iter().collect();
        let another = mappings(&mut lots, b, &theirs, budget);
        let matches = another.iter().filter(|(at, to)| one.contains(&(*to, *at))).count();
        hits += u32::from(matches > 0);
        pairs += matches;
    }
    let trials = f64::from(trials);
    (f64::from(hits) / trials, pairs as f64 / trials, ours, theirs)
}

#[test]
fn timing() {
    let all = PortModel::Random(pool("1024-65535"));
    let r = End { model: all, port: 0 };
    let sr = End { model: PortModel::StableRandom(pool("1024-65535")), port: 0 };
    let l = End { model: PortModel::LinuxRandom, port: 0 };
    let p = End { model: PortModel::Preserving, port: 7 };
    let s = sequential("1024-65535", 1, 50.0, 1_000);
    let busy = sequential("1024-65535", 1, 5000.0, 100_000);
    let ends = [r, sr, l, p, s, busy];
    let big: Budget = "packets=260000,entries=130000,rate=100000".parse().unwrap();
    for budget in [Budget::default(), big] {
        for a in &ends {
            for b in &ends {
                let t = std::time::Instant::now();
                let plan = Plan::new(a, b, &budget, INSTANT).unwrap();
                let took = t.elapsed();
                let t = std::time::Instant::now();
                let needed = plan.needed(0.99);
                println!(
                    "{took:?} {:?} {needed:?} {} | {} {} {:?} {:?}",
                    t.elapsed(),
                    plan.words(),
                    plan.packets(),
                    plan.fires(),
                    format!("{:?}", a.model).split_at(10).0,
                    format!("{:?}", b.model).split_at(10).0
                );
            }
        }
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
    ];
    for budget in ["packets=4000", "packets=300", "packets=62", "packets=4"] {
        let budget: Budget = budget.parse().unwrap();
        for (nth, a) in ends.iter().enumerate() {
            for b in &ends[nth..] {
                let trials = (400_000 / budget.packets).clamp(300, 2_000);
                let (seen, pairs, ours, theirs) = tried(a, b, &budget, trials);
                let words = format!(
                    "{budget} {:?} {:?}\n  {}\n  {}\n  seen {seen:.4}, pairs {pairs:.3} {}",
                    a.model,
                    b.model,
                    ours.words(),
                    theirs.words(),
                    ours.expected_matches
                );
                // Three standard deviations of what is seen, and what a small pool leaves out.
                let chance = ours.chance;
                let doubt = 3.0 * (chance * (1.0 - chance) / f64::from(trials)).sqrt() + 0.01;
                if (chance - seen).abs() >= doubt {
                    println!("BAD {words}");
                }
                if ours.packets() > budget.packets || ours.len() > budget.entries {
                    println!("OVER {words}");
                }
            }
        }
    }
}
