//! Shapes with a sequential router: our mappings are a run of ports whose beginning is known but
//! for what others have made in the meantime.

use super::chance;
use super::course::{Course, Span};
use super::shape::{Half, MOST_SOURCES, Shape, TARGET, size, spread};

/// At least two ways to match: one may be lost.
const FEWEST_WAYS: u32 = 2;
/// More only make up for a router busier than we are.
const MOST_WAYS: u32 = 8;

/// At least so many places of a run for a random end to search: its pool may have been estimated
/// from a few ports, and each place stands for one port that may lie beside the real one.
const FEWEST_PLACES: u32 = 4;

/// Of so many mappings of a run the mean is that of all.
const SAMPLES: u32 = 16;

/// How many independent tries leave none of them with a tenth of what a plan may miss.
fn ways(each: f64) -> u32 {
    (FEWEST_WAYS..MOST_WAYS)
        .find(|ways| (1.0 - each).powf(f64::from(*ways)) <= (1.0 - TARGET) / 10.0)
        .unwrap_or(MOST_WAYS)
}

/// The sequential end `b` makes a run of mappings to the other's one port; the other one searches
/// with steps short enough to meet the run several times.
pub(super) fn fixed_counted(fixed: u16, b: &Course<'_>, most: u32) -> Shape {
    let ways = ways(b.ours()).min(most).min(b.orbit());
    let width = b.spread(0, 1).len();
    // `ways * step` sources and `width / step` targets: their sum is least here.
    let balanced = chance::floor((f64::from(width) / f64::from(ways)).sqrt());
    let step = balanced.min(MOST_SOURCES.min(most).min(b.orbit()) / ways).max(1);
    let run = ways * step;
    let begins = b.spread(0, run);
    let (step, targets) = match (begins.len() - 1) / step + ways {
        targets if targets * step <= b.orbit() => (step, targets),
        _ => (1, b.orbit()),
    };
    let middle = (begins.first + begins.last + i64::from(run)) / 2;
    let whole_orbit = targets == b.orbit() && targets <= most;
    let first = middle - i64::from(targets * step) / 2;
    let mut offsets: Vec<i64> =
        (0..i64::from(targets)).map(|nth| first + nth * i64::from(step)).collect();
    offsets.sort_by_key(|offset| (offset - middle).abs());
    offsets.truncate(most as usize);
    let probable_first = b.ports(offsets.iter().copied());
    offsets.sort_unstable();

    let before = |offset: i64| offsets.partition_point(|target| *target < offset);
    let (mut missed, mut expected) = (1.0, 0.0);
    let nearest = Span {
        first: offsets.first().map_or(0, |first| first - i64::from(run)),
        last: offsets.last().copied().unwrap_or(0),
    };
    for begin in nearest.first..=nearest.last {
        let at = Span { first: begin, last: begin };
        let mass = b.mass(0, run, at);
        let met = before(begin + i64::from(run)) - before(begin);
        // The run's first mapping is ours for certain; any other place may be another's.
        let first_met = offsets.binary_search(&begin).is_ok();
        let rest = (met - usize::from(first_met)) as f64;
        expected += mass * (rest * b.ours() + f64::from(u8::from(first_met)));
        if first_met {
            missed -= mass;
        } else {
            missed -= mass * (1.0 - (1.0 - b.ours()).powf(rest));
        }
    }
    if whole_orbit {
        (missed, expected) = (0.0, f64::from(run));
    }
    Shape::new(Half::new(1, probable_first), Half::new(run, vec![fixed]), missed, expected)
}

/// Both ends sequential. Each sends from a run of sources to one port at which the peer's run is
/// sure to arrive: where that peer's run is expected to have its middle. This is done several
/// times over, one target after the other, in case one of the two places is another's.
pub(super) fn counted_counted(a: &Course<'_>, b: &Course<'_>, most: u32) -> Shape {
    // A second block first: one may be lost. A single one only if there is no room.
    let blocks = (FEWEST_WAYS..=MOST_WAYS).chain([1]);
    let shapes = blocks.map(|blocks| in_blocks(a, b, blocks, most));
    best(shapes).unwrap_or_else(|| in_blocks(a, b, 1, most))
}

fn in_blocks(a: &Course<'_>, b: &Course<'_>, blocks: u32, most: u32) -> Shape {
    let blocks = blocks.min(a.orbit()).min(b.orbit()).min(most);
    let run = |course: &Course<'_>| {
        let widest = course.spread(1, 1);
        let reach = course.deviation(1, 1) * 12.0 + 17.0;
        chance::floor(reach)
            .max(widest.len())
            .min(MOST_SOURCES)
            .min(most / blocks)
            .min(course.orbit() / blocks)
            .max(1)
    };
    let (run_a, run_b) = (run(a), run(b));
    // Where the middle mapping of each block is expected.
    let middles = |course: &Course<'_>, run: u32| -> Vec<i64> {
        (0..blocks)
            .map(|block| {
                let nth = block * run + run / 2;
                i64::from(nth) + course.competing(nth, blocks * run).round() as i64
            })
            .collect()
    };
    let (middles_a, middles_b) = (middles(a, run_a), middles(b, run_b));
    // The probability that a block reaches over the place meant for it: much the same for all.
    let block = blocks / 2;
    let reached = |course: &Course<'_>, run: u32, middles: &[i64]| {
        let middle = middles[block as usize];
        let place = Span { first: middle, last: middle };
        course.covers(place, (block * run, (block + 1) * run), blocks * run)
    };
    let both = a.ours() * b.ours();
    let reached = reached(a, run_a, &middles_a) * reached(b, run_b, &middles_b);
    let chance = reached * (1.0 - (1.0 - both).powf(f64::from(blocks)));
    Shape::new(
        Half::new(run_a, b.ports(middles_b)),
        Half::new(run_b, a.ports(middles_a)),
        1.0 - chance,
        reached * both * f64::from(blocks),
    )
}

/// `b` has an unknown port a source, one for all: `a` goes to all that it may be, `b` to every
/// place that this run may take.
pub(super) fn counted_stable(a: &Course<'_>, b: &[u16], most: u32) -> Shape {
    let n = size(b);
    let most = most.min(a.orbit());
    let width = |run: u32| (a.spread(run, run).last - a.spread(0, run).first + 1).max(1);
    let room = most.saturating_sub(u32::try_from(width(n.min(most))).unwrap_or(u32::MAX));
    let run = n.min(room.max(most.div_ceil(2)));
    let begins = Span { first: a.spread(0, run).first, last: a.spread(run, run).last };
    let begins = begins.cut(most - run + 1);
    let places = begins.first..begins.last + i64::from(run);
    // `b`'s port is met by one mapping of the run, which has to lie among the places.
    let reached = |nth: u32| {
        let nth_offset = i64::from(nth);
        a.mass(
            nth,
            run,
            Span { first: places.start - nth_offset, last: places.end - 1 - nth_offset },
        )
    };
    let samples: Vec<f64> = (0..run).step_by(run.div_ceil(SAMPLES) as usize).map(reached).collect();
    let reached = samples.iter().sum::<f64>() / samples.len() as f64;
    let hit = reached * f64::from(run) / f64::from(n);
    Shape::new(Half::new(1, spread(b, run)), Half::new(1, a.ports(places)), 1.0 - hit, hit)
}

/// `b` is random: each place of the run has one destination of `a`'s, which one of `b`'s sources
/// finds or not.
pub(super) fn counted_random(a: &Course<'_>, b: &[u16], most: u32) -> Shape {
    let cap = most_sources(b).min(most).min(size(b));
    // Many sources to few places cost least; the budget is best used up by whole places.
    let few = (0..8).map(|power| 1 << power);
    let many = (1..=12).map(|places| most / places);
    let mut sources: Vec<u32> = few.chain(many).map(|sources: u32| sources.clamp(1, cap)).collect();
    sources.sort_unstable();
    sources.dedup();
    let shapes = sources.into_iter().map(|sources| counted_random_from(a, b, sources, most));
    best(shapes).unwrap_or_else(|| counted_random_from(a, b, 1, most))
}

/// Of the 512 source ports that netfilter maps below 1024 half are left for the next search: what
/// routers and hosts still hold of this one stands in its way otherwise (measured: 293 of 300 with
/// 424 of them at a time, one search after the other).
fn most_sources(pool: &[u16]) -> u32 {
    if pool.iter().all(|port| *port < 1024) { MOST_SOURCES.min(256) } else { MOST_SOURCES }
}

fn counted_random_from(a: &Course<'_>, b: &[u16], sources: u32, most: u32) -> Shape {
    let n = size(b);
    let most_places = (most / sources).min(a.orbit()).max(1);
    let found = f64::from(sources) / f64::from(n) * a.ours();
    // The window itself may fail; it is left half of what a plan may miss.
    let enough = ((1.0 - TARGET) / 2.0).ln() / (-found).ln_1p();
    let places = chance::floor(enough).saturating_add(1).max(FEWEST_PLACES);
    let places = places.min(most_places).min(most.div_ceil(2));
    let longest = most - places + 1;
    // A short run begins later than a long one: the counter is then known less well, or better.
    let widest = a.spread(0, 1).len().max(a.spread(0, most).len());
    let wanted = widest.min(longest) + places;
    let from = wanted.div_ceil(n).min(MOST_SOURCES);
    let to = wanted.div_ceil(from).min(most / from).min(n).max(1);
    let run = from * to;
    let begins = a.spread(0, run).cut((run + 1).saturating_sub(places).max(1));
    // The run begins before the first of them, and ends behind the last.
    let offsets = Span { first: begins.last, last: begins.last + i64::from(places) - 1 };
    let reached = a.covers(offsets, (0, run), run);
    let missed = (1.0 - found).max(0.0).powf(f64::from(places));
    Shape::new(
        Half::new(from, apart(spread(b, to))),
        Half::new(sources, a.ports(offsets.first..=offsets.last)),
        1.0 - reached * (1.0 - missed),
        reached * found * f64::from(places),
    )
}

/// In an order in which neighbours are far from each other, by steps of some golden section.
fn apart(ports: Vec<u16>) -> Vec<u16> {
    let count = ports.len();
    let divides = |it: usize, step: usize| step.is_multiple_of(it) && count.is_multiple_of(it);
    let coprime = |step: &usize| !(2..=*step).any(|it| divides(it, *step));
    let step = ((count * 5 / 13).max(1)..).find(coprime).unwrap_or(1);
    (0..count).map(|nth| ports[nth * step % count]).collect()
}

fn best(shapes: impl Iterator<Item = Shape>) -> Option<Shape> {
    shapes.reduce(|best, shape| if shape.better_than(&best) { shape } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_put_apart_and_none_is_lost() {
        for count in 1..200_u16 {
            let ports: Vec<u16> = (0..count).collect();
            let mut parted = apart(ports.clone());
            let near = parted.windows(2).filter(|it| it[0].abs_diff(it[1]) < count / 4).count();
            assert!(near == 0 || count < 12, "{count}: {parted:?}");
            parted.sort_unstable();
            assert_eq!(parted, ports);
        }
    }
}
