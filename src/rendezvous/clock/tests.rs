use super::*;
use proptest::prelude::*;

const NOON: i64 = 1_795_258_800_000_000_000;
const MS: i64 = 1_000_000;

/// Reproducible random numbers (splitmix64).
struct Dice(u64);

impl Dice {
    /// From 0 up to 1.
    fn roll(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Exponential.
    fn queue(&mut self, mean_ns: f64) -> i64 {
        (-(1.0 - self.roll()).ln() * mean_ns) as i64
    }
}

/// A server whose clock is ahead by `offset_ns` at noon and gains `drift_ppm`.
struct World {
    offset_ns: i64,
    drift_ppm: i64,
    there_ns: i64,
    back_ns: i64,
    queue_ns: f64,
    dice: Dice,
}

impl World {
    fn new(offset_ns: i64, seed: u64) -> Self {
        let dice = Dice(seed);
        Self { offset_ns, drift_ppm: 0, there_ns: 10 * MS, back_ns: 10 * MS, queue_ns: 0.0, dice }
    }

    fn truth(&self, local: i64) -> i64 {
        self.offset_ns + (local - NOON) * self.drift_ppm / 1_000_000
    }

    fn exchange(&mut self, sent: i64) -> ClockExchange {
        let received = sent + self.there_ns + self.dice.queue(self.queue_ns);
        let answered = received + 30_000;
        let returned = answered + self.back_ns + self.dice.queue(self.queue_ns);
        let server = |local: i64| ServerTime(local + self.truth(local));
        ClockExchange {
            sent: wall(sent),
            received: server(received),
            answered: server(answered),
            returned: wall(returned),
        }
    }

    /// The estimate just after a burst, and the error of it.
    fn burst(&mut self, count: i64) -> (ClockEstimate, i64) {
        let mut filter = ClockFilter::default();
        let mut now = NOON;
        for nth in 0..count {
            let exchange = self.exchange(NOON + nth * MS);
            now = now.max(exchange.returned.unix_ns());
            assert_eq!(filter.push(exchange), Taken::Agrees);
        }
        let estimate = filter.estimate(wall(now)).unwrap();
        (estimate, estimate.offset_ns - self.truth(now))
    }
}

fn wall(ns: i64) -> WallTime {
    WallTime::from_unix_ns(ns)
}

/// The error that one burst in twenty exceeds, and how often it exceeds what is called likely.
fn p95(bursts: u32, count: i64, queue_ns: f64) -> (i64, f64) {
    let (mut errors, mut beyond) = (Vec::new(), 0);
    for seed in 0..bursts {
        let mut world = World::new(0, u64::from(seed) << 20);
        world.offset_ns = ((world.dice.roll() - 0.5) * 1e9) as i64;
        world.queue_ns = queue_ns;
        let (estimate, error) = world.burst(count);
        let error = error.abs();
        assert!(u128::from(error.unsigned_abs()) <= estimate.bound.as_nanos(), "seed {seed}");
        beyond += u32::from(u128::from(error.unsigned_abs()) > estimate.likely.as_nanos());
        errors.push(error);
    }
    errors.sort_unstable();
    (errors[errors.len() * 95 / 100], f64::from(beyond) / f64::from(bursts))
}

#[test]
fn a_burst_finds_the_offset_to_a_fifth_of_a_millisecond() {
    for (count, queue_ns) in [(4, 0.5e6), (6, 0.5e6), (8, 0.5e6), (8, 1e6)] {
        let (p95, beyond) = p95(4000, count, queue_ns);
        println!("{count} exchanges, queues of {} ms: {p95} ns, {beyond:.3}", queue_ns / 1e6);
        assert!(p95 <= 200_000, "{count} exchanges, {queue_ns} ns: {p95} ns");
        assert!(beyond <= 0.1, "{count} exchanges, {queue_ns} ns: {beyond}");
    }
}

#[test]
fn without_queues_the_middle_is_the_truth() {
    for offset in [-500 * MS, -1, 0, 1, 500 * MS] {
        let (estimate, error) = World::new(offset, 1).burst(4);
        assert!(error.abs() < 20, "{error} ns");
        assert_eq!(estimate.round_trip, Duration::from_millis(20));
        assert!(estimate.bound >= Duration::from_millis(10));
        assert!(estimate.bound < Duration::from_micros(10_010));
    }
}

#[test]
fn one_lucky_request_and_one_lucky_answer_are_enough() {
    let mut filter = ClockFilter::default();
    let exchange = |there: i64, back: i64| ClockExchange {
        sent: wall(NOON),
        received: ServerTime(NOON + there),
        answered: ServerTime(NOON + there),
        returned: wall(NOON + there + back),
    };
    let _ = filter.push(exchange(10 * MS, 14 * MS));
    let _ = filter.push(exchange(15 * MS, 10 * MS));
    let estimate = filter.estimate(wall(NOON + 25 * MS)).unwrap();
    assert!(estimate.offset_ns.abs() < 10_000, "{}", estimate.offset_ns);
    assert_eq!(estimate.round_trip, Duration::from_millis(24));
}

#[test]
fn a_clock_that_is_set_starts_the_estimate_anew() {
    for by in [-3_600_000 * MS, -100 * MS, 100 * MS, 3_600_000 * MS] {
        let mut filter = ClockFilter::default();
        let mut world = World::new(7 * MS, 3);
        for nth in 0..4 {
            assert_eq!(filter.push(world.exchange(NOON + nth * MS)), Taken::Agrees);
        }
        // Ours is set by so much: what has left before comes back after.
        let mut halfway = world.exchange(NOON + 4 * MS);
        halfway.returned = wall(halfway.returned.unix_ns() + by);
        let mut said = vec![filter.push(halfway)];
        world.offset_ns -= by;
        for nth in 5..9 {
            said.push(filter.push(world.exchange(NOON + by + nth * MS)));
        }
        assert_eq!(said.iter().filter(|it| **it == Taken::Stepped).count(), 1, "{by}: {said:?}");
        let estimate = filter.estimate(wall(NOON + by + 30 * MS)).unwrap();
        let error = estimate.offset_ns - world.offset_ns;
        assert!(error.abs() < 100_000, "{by}: {error} ns");
    }
}

#[test]
fn the_bound_grows_with_the_age_of_what_is_known() {
    let mut filter = ClockFilter::default();
    let _ = filter.push(World::new(0, 5).exchange(NOON));
    let bound = |seconds: i64| filter.estimate(wall(NOON + seconds * 1000 * MS)).unwrap().bound;
    assert!(bound(100) - bound(0) >= Duration::from_millis(19), "{:?}", bound(100) - bound(0));
    let estimate = filter.estimate(wall(NOON)).unwrap();
    assert!(estimate.bound_at(wall(NOON + 100_000 * MS)) >= bound(100));
}

#[test]
fn nothing_known_is_no_estimate() {
    assert_eq!(ClockFilter::default().estimate(wall(NOON)), None);
}

proptest! {
    #[test]
    fn the_bound_covers_the_truth_however_the_delay_is_shared(
        offset_ns in -1_000_000 * MS..1_000_000 * MS,
        drift_ppm in -200_i64..=200,
        there_ns in 0..300 * MS,
        back_ns in 0..300 * MS,
        queue_ns in 0.0..50e6,
        count in 1_i64..12,
        age in 0..600_000 * MS,
        seed: u64,
    ) {
        let mut world = World { there_ns, back_ns, queue_ns, drift_ppm, ..World::new(offset_ns, seed) };
        let mut filter = ClockFilter::default();
        let mut now = NOON;
        for nth in 0..count {
            let exchange = world.exchange(NOON + nth * MS);
            now = now.max(exchange.returned.unix_ns());
            prop_assert_eq!(filter.push(exchange), Taken::Agrees);
        }
        for now in [now, now + age] {
            let estimate = filter.estimate(wall(now)).unwrap();
            let error = (estimate.offset_ns - world.truth(now)).unsigned_abs();
            prop_assert!(u128::from(error) <= estimate.bound.as_nanos() + 2, "{} {:?}", error, estimate);
            prop_assert!(estimate.likely <= estimate.bound);
        }
    }

    #[test]
    fn no_timestamps_panic(times in prop::collection::vec(any::<[i64; 4]>(), 0..40), now: i64) {
        let mut filter = ClockFilter::default();
        for [sent, received, answered, returned] in times {
            let times = ClockTimes { sent_ns: sent, received_ns: received, answered_ns: answered };
            let _ = filter.push(ClockExchange::of(&times, wall(returned)));
            prop_assert!(filter.len() <= KEPT);
        }
        if let Some(estimate) = filter.estimate(wall(now)) {
            let _ = estimate.to_local(estimate.to_server(wall(now)));
            let _ = estimate.bound_at(wall(i64::MIN));
        }
    }
}
