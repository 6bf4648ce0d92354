//! The chance that a plan states against how often the punch succeeds.

use crate::behaviour::{Behaviour, Dependence, MASQUERADE, PLAIN, Ports};
use crate::network::{Conditions, punch};
use std::time::Duration;
use tcp_punch::punch::Budget;

const TRIALS: u64 = 2_000;
/// More than three standard deviations of so many trials.
const TOLERANCE: f64 = 0.03;

fn conditions(a: Behaviour, b: Behaviour, tuples: u32) -> Conditions {
    Conditions {
        one_way: Duration::from_millis(1),
        routers: [vec![a], vec![b]],
        models: true,
        budget: Budget { packets: 2 * tuples + 2, entries: tuples, rate: 10_000 },
        timeout: Duration::from_secs(1),
        ..Conditions::default()
    }
}

/// Budgets whose plans state about these chances, and what comes of them.
fn hold(a: Behaviour, b: Behaviour) {
    let stated = |tuples: u32| punch(&conditions(a, b, tuples)).chance;
    let chances: Vec<_> = (1..160).map(|tuples| (tuples, stated(tuples))).collect();
    let mut seen = Vec::new();
    for wanted in [0.3_f64, 0.6, 0.9, 0.99] {
        let nearest = |(_, chance): &&(u32, f64)| ((chance - wanted).abs() * 1e6) as u64;
        let (tuples, chance) = *chances.iter().min_by_key(nearest).expect("some");
        if seen.contains(&tuples) {
            continue;
        }
        seen.push(tuples);
        let met = (0..TRIALS).filter(|seed| {
            let outcome = punch(&Conditions { seed: *seed, ..conditions(a, b, tuples) });
            outcome.established.iter().all(Option::is_some) && outcome.agree
        });
        let rate = met.count() as f64 / TRIALS as f64;
        println!("{} and {}, {tuples} tuples: stated {chance:.3}, met {rate:.3}", a.name, b.name);
        assert!(
            (rate - chance).abs() <= TOLERANCE,
            "{} and {}, {tuples} tuples: {rate} of {TRIALS}, but stated {chance}",
            a.name,
            b.name
        );
    }
}

const RANDOM: Behaviour = Behaviour { name: "random", ports: Ports::Random((4096, 4159)), ..PLAIN };
const SYMMETRIC: Behaviour =
    Behaviour { name: "random with resets", ports: Ports::Random((4096, 4127)), ..MASQUERADE };
const STABLE: Behaviour = Behaviour {
    name: "stable",
    mapping: Dependence::Address,
    ports: Ports::Random((5000, 5099)),
    ..PLAIN
};
const PARITY: Behaviour = Behaviour { name: "parity", ports: Ports::Parity((4000, 4099)), ..PLAIN };

const fn sequential(rate: f64) -> Behaviour {
    let ports = Ports::Sequential { step: 1, rate, pool: (1024, 65_535) };
    Behaviour { name: "sequential", ports, ..PLAIN }
}

#[test]
fn both_random() {
    hold(RANDOM, RANDOM);
}

#[test]
fn both_random_with_resets() {
    hold(SYMMETRIC, SYMMETRIC);
}

#[test]
fn random_and_parity() {
    hold(RANDOM, PARITY);
}

#[test]
fn preserving_and_random() {
    hold(PLAIN, Behaviour { ports: Ports::Random((4096, 5119)), ..RANDOM });
}

#[test]
fn stable_and_random() {
    hold(STABLE, RANDOM);
}

#[test]
fn both_stable() {
    hold(STABLE, STABLE);
}

#[test]
fn sequential_and_preserving() {
    hold(sequential(300.0), PLAIN);
}

#[test]
fn both_sequential() {
    hold(sequential(200.0), sequential(50.0));
}

#[test]
fn sequential_and_random() {
    hold(sequential(20.0), RANDOM);
}

#[test]
fn sequential_and_stable() {
    hold(sequential(20.0), STABLE);
}
