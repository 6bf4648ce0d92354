//! What both ends do, worked out from both at once: the same whichever of them asks.

use super::allocation::Allocation;
use super::chance::{self, Grid};
use super::counted::{counted_counted, counted_random, counted_stable, fixed_counted};
use super::{Budget, End, PlanError};
use crate::wire::WallTime;

/// A chance that needs no more packets: failures by bad luck are rarer than those by bad lines.
pub(super) const TARGET: f64 = 0.9999;
/// Each source port costs a descriptor, and a process has 1,024, in which two searches at once
/// (`rendezvous::Agreement` lists no more of a kind) find room.
pub(super) const MOST_SOURCES: u32 = 448;
/// A pool this small is covered whole rather than searched with many sources.
const SMALL_POOL: u32 = 512;
/// Sources against a covered pool: each of them finds its match, one is enough if none is lost.
const FEW_SOURCES: u32 = 4;
/// Above so many tuples only one end sends SYNs; its peer's openers let them pass.
const BOTH_FIRE: u32 = 10_000;

/// What one end sends: from so many source ports to each of these ports of its peer.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Half {
    pub(super) sources: u32,
    pub(super) targets: Vec<u16>,
}

impl Half {
    pub(super) fn new(sources: u32, targets: Vec<u16>) -> Self {
        Self { sources, targets }
    }

    pub(super) fn tuples(&self) -> u32 {
        self.sources.saturating_mul(u32::try_from(self.targets.len()).unwrap_or(u32::MAX))
    }
}

/// Both halves and what they are worth.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Shape {
    pub(super) ours: Half,
    pub(super) theirs: Half,
    pub(super) chance: f64,
    pub(super) expected: f64,
    /// Whether we send SYNs from the instant on.
    pub(super) fires: bool,
}

impl Shape {
    pub(super) fn new(ours: Half, theirs: Half, missed: f64, expected: f64) -> Self {
        Self { ours, theirs, chance: (1.0 - missed).clamp(0.0, 1.0), expected, fires: true }
    }

    fn flipped(self) -> Self {
        Self { ours: self.theirs, theirs: self.ours, ..self }
    }

    /// Good enough and of these the cheapest, or else the best.
    pub(super) fn better_than(&self, other: &Self) -> bool {
        let cost = |shape: &Self| shape.ours.tuples() + shape.theirs.tuples();
        match (self.chance >= TARGET, other.chance >= TARGET) {
            (true, true) => cost(self) < cost(other),
            (one, another) => one || !another && self.chance > other.chance,
        }
    }
}

/// Ends are put in an order that both of them see, so that both calculate the same, to the last
/// bit. Only what a plan depends on takes part: a port where the model has one.
pub(super) fn shape(
    a: &End,
    b: &End,
    budget: &Budget,
    opened_at: WallTime,
) -> Result<Shape, PlanError> {
    if budget.rate == 0 || budget.tuples() == 0 {
        return Err(PlanError::BudgetTooSmall(*budget));
    }
    let (one, another) =
        (Allocation::of(a, opened_at, budget.rate)?, Allocation::of(b, opened_at, budget.rate)?);
    let key = |end: &End, allocation: &Allocation<'_>| {
        let port = if let Allocation::Fixed(port) = allocation { *port } else { 0 };
        (allocation.rank(), port, format!("{:?}", end.model))
    };
    let (key_a, key_b) = (key(a, &one), key(b, &another));
    let mut shape = if key_a <= key_b {
        ordered(&one, &another, budget.tuples())
    } else {
        ordered(&another, &one, budget.tuples()).flipped()
    };
    let (ours, theirs) = (shape.ours.tuples(), shape.theirs.tuples());
    if ours.max(theirs) > BOTH_FIRE && (ours, &key_a) != (theirs, &key_b) {
        shape.fires = (ours, &key_a) < (theirs, &key_b);
    }
    Ok(shape)
}

fn ordered(a: &Allocation<'_>, b: &Allocation<'_>, most: u32) -> Shape {
    use Allocation::{Counted, Fixed, Random, StableRandom};
    match (a, b) {
        (Fixed(a), Fixed(b)) => {
            Shape::new(Half::new(1, vec![*b]), Half::new(1, vec![*a]), 0.0, 1.0)
        }
        (Fixed(a), Random(b) | StableRandom(b)) => one_sided(*a, b, most),
        (Fixed(a), Counted(b)) => fixed_counted(*a, b, most),
        (Counted(a), Counted(b)) => counted_counted(a, b, most),
        (Counted(a), StableRandom(b)) => counted_stable(a, b, most),
        (Counted(a), Random(b)) => counted_random(a, b, most),
        (StableRandom(a), StableRandom(b)) => stable_stable(a, b, most),
        (StableRandom(a), Random(b)) => grids(a, b, most, chance::none_stable_random),
        (Random(a), Random(b)) => grids(a, b, most, chance::none_random),
        // `ordered` is called with the lower rank first.
        _ => ordered(b, a, most).flipped(),
    }
}

pub(super) fn size(ports: &[u16]) -> u32 {
    u32::try_from(ports.len()).unwrap_or(u32::MAX)
}

/// So many of the ports, evenly spread.
pub(super) fn spread(ports: &[u16], count: u32) -> Vec<u16> {
    let count = count as usize;
    (0..count).map(|nth| ports[nth * ports.len() / count]).collect()
}

/// One end has one port for all; it searches the other's pool, while the other one offers many
/// mappings to be found. To one destination they are different ports.
fn one_sided(fixed: u16, pool: &[u16], most: u32) -> Shape {
    let n = size(pool);
    let sources = MOST_SOURCES.min(most).min(n);
    let (tried, offered) = if n <= SMALL_POOL && n <= most {
        (n, FEW_SOURCES.min(sources))
    } else {
        let enough = |tried, offered| chance::none_drawn(n, tried, offered) <= 1.0 - TARGET;
        // More tried never hurts, so the fewest that are enough are found by halving.
        let fewest = |offered| {
            let (mut low, mut high) = (1, most.min(n));
            while low < high {
                let middle = low.midpoint(high);
                if enough(middle, offered) { high = middle } else { low = middle + 1 }
            }
            enough(low, offered).then_some((low, offered))
        };
        (1..=sources)
            .filter_map(fewest)
            .min_by_key(|(tried, offered)| tried + offered)
            .unwrap_or((most.min(n), sources))
    };
    let expected = f64::from(tried) * f64::from(offered) / f64::from(n);
    let missed = chance::none_drawn(n, tried, offered);
    let searching = Half::new(1, spread(pool, tried));
    Shape::new(searching, Half::new(offered, vec![fixed]), missed, expected)
}

/// Both ends send from c sources to all of the other's pool, or to as much of it as the budget
/// allows; then no more of the budget is spent than it takes.
fn grids(a: &[u16], b: &[u16], most: u32, missed: impl Fn(Grid, Grid) -> f64) -> Shape {
    let (n_a, n_b) = (size(a), size(b));
    let search = |most| cheapest_grids(n_a, n_b, most, &missed);
    let (mut missed, mut one, mut another) = search(most);
    let enough = |missed| missed <= 1.0 - TARGET;
    if enough(missed) && (one.targets < n_b || another.targets < n_a) {
        let (mut low, mut high) = (1, most);
        while low < high {
            let middle = low.midpoint(high);
            let found = search(middle);
            if enough(found.0) {
                (high, (missed, one, another)) = (middle, found);
            } else {
                low = middle + 1;
            }
        }
    }
    Shape::new(
        Half::new(one.sources, spread(b, one.targets)),
        Half::new(another.sources, spread(a, another.targets)),
        missed,
        chance::expected(one, another),
    )
}

/// The fewest sources that are enough, or else the best number of them.
fn cheapest_grids(
    n_a: u32,
    n_b: u32,
    most: u32,
    missed: impl Fn(Grid, Grid) -> f64,
) -> (f64, Grid, Grid) {
    let grids = |sources: u32| {
        let one = Grid { pool: n_a, sources: sources.min(n_a), targets: n_b.min(most / sources) };
        let another =
            Grid { pool: n_b, sources: sources.min(n_b), targets: n_a.min(most / sources) };
        (missed(one, another), one, another)
    };
    let mut best = grids(1);
    for sources in 2..=MOST_SOURCES.min(most) {
        // Once neither pool can be covered, more sources only mean fewer targets.
        let spent = best.1.targets < n_b && best.2.targets < n_a;
        if spent || best.0 <= 1.0 - TARGET {
            break;
        }
        let next = grids(sources);
        if next.0 < best.0 {
            best = next;
        }
    }
    best
}

/// Both ends have one unknown port a source: one source is enough for whoever covers the pool.
fn stable_stable(a: &[u16], b: &[u16], most: u32) -> Shape {
    let larger = size(a).max(size(b));
    let small = larger <= SMALL_POOL;
    let sources = if small { FEW_SOURCES.min(most / larger).max(1) } else { 1 };
    let grid = |own: &[u16], other: &[u16]| Grid {
        pool: size(own),
        sources: sources.min(size(own)),
        targets: size(other).min(most / sources),
    };
    let (one, another) = (grid(a, b), grid(b, a));
    Shape::new(
        Half::new(one.sources, spread(b, one.targets)),
        Half::new(another.sources, spread(a, another.targets)),
        chance::none_stable_stable(one, another),
        chance::expected(one, another),
    )
}
