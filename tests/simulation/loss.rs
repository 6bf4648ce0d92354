//! Loss and minutes, on top of routers that let no SYN in: whatever says the same must come again.

use crate::behaviour::{Behaviour, KINDS, MASQUERADE, OutOfTurn, Ports, SynIn};
use crate::network::{Conditions, Outcome, punch};
use std::time::Duration;

const NOTED: Behaviour =
    Behaviour { name: "SYN blocked", syn_in: SynIn::BlockedAfterTracking, ..MASQUERADE };
const UNSEEN: Behaviour =
    Behaviour { name: "raw SYN blocked", syn_in: SynIn::BlockedBeforeTracking, ..MASQUERADE };
const STRICT: Behaviour = Behaviour {
    name: "SYN blocked, strict",
    loose: false,
    out_of_turn: OutOfTurn::Dropped,
    ..NOTED
};

/// Those that can be met by SYN-ACKs that nobody asked for, or mid-stream.
const PAIRS: [[Behaviour; 2]; 4] =
    [[NOTED, NOTED], [NOTED, UNSEEN], [UNSEEN, UNSEEN], [STRICT, STRICT]];

fn conditions([a, b]: [Behaviour; 2], seed: u64) -> Conditions {
    Conditions {
        routers: [vec![a], vec![b]],
        key: true,
        models: true,
        seed,
        ..Conditions::default()
    }
}

fn trials() -> u64 {
    std::env::var("LOSS_TRIALS").ok().and_then(|text| text.parse().ok()).unwrap_or(2_000)
}

/// The share that connected in percent, the slowest, and the first that did not connect.
fn met(each: impl Fn(u64) -> Conditions) -> (f64, Duration, Option<Outcome>) {
    let (mut met, mut slowest, mut failed) = (0, Duration::ZERO, None);
    for seed in 0..trials() {
        let outcome = punch(&each(seed));
        match outcome.established {
            [Some(a), Some(b)] if outcome.agree => {
                met += 1;
                slowest = slowest.max(a).max(b);
            }
            _ => failed = failed.or(Some(outcome)),
        }
    }
    (100.0 * f64::from(met) / trials() as f64, slowest, failed)
}

#[test]
fn loss_is_outlived_behind_routers_that_let_no_syn_in() {
    let mut worst = Vec::new();
    for (pair, loss_percent) in PAIRS.iter().flat_map(|pair| [1, 4, 8].map(|loss| (*pair, loss))) {
        let (percent, slowest, failed) = met(|seed| Conditions {
            loss_percent,
            duplicate_percent: 5,
            jitter: Duration::from_millis(3),
            ..conditions(pair, seed)
        });
        let names = pair.map(|router| router.name);
        let line = format!("{names:?}, {loss_percent} % lost: {percent} %, slowest {slowest:?}");
        println!("{line}");
        let least = if loss_percent > 4 { 98.0 } else { 99.4 };
        if let Some(failed) = failed.filter(|_| percent < least) {
            worst.push(format!("{line}\n{failed}"));
        }
    }
    assert!(worst.is_empty(), "{}", worst.join("\n"));
}

/// Instants of two ends whose clocks are a second apart may lie in two minutes.
#[test]
fn ends_whose_instants_lie_in_two_minutes_meet_by_every_strategy() {
    for pair in PAIRS {
        for skew_ms in [0, 3, 1_000] {
            let (percent, slowest, failed) = met(|seed| Conditions {
                minutes_apart: true,
                skew: Duration::from_millis(skew_ms),
                ..conditions(pair, seed % 50)
            });
            let names = pair.map(|router| router.name);
            println!("{names:?}, {skew_ms} ms apart: {percent} %, slowest {slowest:?}");
            assert!(failed.is_none(), "{names:?}, {skew_ms} ms apart: {}", failed.unwrap());
        }
    }
}

/// Whether an end has an opener depends on what it learns of the path, which loss decides, too.
#[test]
fn loss_is_outlived_where_syns_pass_whichever_end_has_an_opener() {
    let mut failed = Vec::new();
    let passes = |kind: &&Behaviour| {
        kind.syn_in == SynIn::Allowed
            && kind.ports == Ports::Preserving
            && !kind.rewrites_sequence
            && kind.entries > 1
    };
    for router in KINDS.iter().filter(passes) {
        for openers in [[true; 2], [false; 2], [false, true]] {
            for key in [false, true] {
                let (percent, slowest, first) = met(|seed| Conditions {
                    one_way: Duration::from_millis(2),
                    jitter: Duration::from_millis(1),
                    routers: [vec![*router], vec![*router]],
                    openers,
                    key,
                    loss_percent: 5,
                    duplicate_percent: 5,
                    timeout: Duration::from_secs(10),
                    seed,
                    ..Conditions::default()
                });
                let with = format!("{}, openers {openers:?}, key {key}", router.name);
                println!("{with}: {percent} %, slowest {slowest:?}");
                failed.extend(first.map(|outcome| format!("{with}: {percent} %\n{outcome}")));
            }
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
