//! Every pair of kinds of routers meets exactly where the oracle says that it can.

use crate::behaviour::{Behaviour, KINDS, Ports};
use crate::network::{Conditions, punch};
use crate::oracle::{Means, Why, oracle};
use std::collections::BTreeMap;
use std::time::Duration;
use tcp_punch::punch::Budget;

const SEEDS: u64 = 3;

fn means(conditions: &Conditions) -> Means {
    Means {
        key: conditions.key,
        models: conditions.models,
        opener: conditions.openers == [true; 2],
        tuples: conditions.budget.entries.min(conditions.budget.packets / 2 - 1),
    }
}

/// Punches through both, with several seeds, and holds the oracle against it.
fn hold(conditions: &Conditions, failures: &mut Vec<String>) -> Result<(), Why> {
    let [a, b] = conditions
        .routers
        .each_ref()
        .map(|routers| routers.iter().copied().reduce(Behaviour::behind).expect("a router"));
    let verdict = oracle(&a, &b, &means(conditions));
    if verdict == Err(Why::PortsTooMany) {
        // By luck it may come off all the same; the plan has to say how little likely that is.
        let chance = punch(conditions).chance;
        if chance > 0.99 {
            failures.push(format!("{} {}: chance {chance}, but too many ports", a.name, b.name));
        }
        return verdict;
    }
    if verdict == Err(Why::SearchResets) {
        // By luck: the tuple that matches is one on which SYNs crossed.
        return verdict;
    }
    for seed in 0..SEEDS {
        let outcome = punch(&Conditions { seed, ..conditions.clone() });
        let met = outcome.established.iter().all(Option::is_some) && outcome.agree;
        let none = outcome.established.iter().all(Option::is_none);
        if met != verdict.is_ok() || !met && !none {
            let names = conditions.routers.each_ref().map(|routers| {
                routers.iter().map(|router| router.name).collect::<Vec<_>>().join(", ")
            });
            failures.push(format!(
                "{names:?} {:?} seed {seed}: {verdict:?}, but {outcome}",
                means(conditions)
            ));
            break;
        }
    }
    verdict
}

/// All pairs of kinds, in every combination of means.
fn hold_all(
    routers: &[Vec<Behaviour>],
    all_means: &[(bool, bool, bool)],
) -> BTreeMap<Option<Why>, u32> {
    let (mut failures, mut verdicts) = (Vec::new(), BTreeMap::new());
    for (nth, a) in routers.iter().enumerate() {
        for b in &routers[nth..] {
            for (key, models, openers) in all_means.iter().copied() {
                let holds = |routers: &[Behaviour]| {
                    routers.iter().map(|router| router.entries).min().unwrap_or(0)
                };
                let entries = holds(a).min(holds(b)).clamp(1, 4_000);
                let conditions = Conditions {
                    routers: [a.clone(), b.clone()],
                    key,
                    models,
                    openers: [openers; 2],
                    timeout: Duration::from_secs(3),
                    budget: Budget { packets: 8_000, entries, rate: 10_000 },
                    ..Conditions::default()
                };
                let verdict = hold(&conditions, &mut failures);
                *verdicts.entry(verdict.err()).or_insert(0) += 1;
            }
        }
    }
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
    verdicts
}

fn single() -> Vec<Vec<Behaviour>> {
    KINDS.map(|kind| vec![kind]).to_vec()
}

/// Key, models, openers.
const ALL_MEANS: [(bool, bool, bool); 6] = [
    (true, true, true),
    (false, true, true),
    (true, false, true),
    (false, false, true),
    (true, true, false),
    (false, true, false),
];

#[test]
fn every_pair_meets_exactly_where_the_oracle_says_so() {
    let verdicts = hold_all(&single(), &ALL_MEANS);
    println!("{verdicts:?}");
    for why in [
        Why::TableFull,
        Why::PortsUnknown,
        Why::PortsTooMany,
        Why::NumbersRewritten,
        Why::SynsBlocked,
        Why::SearchSynsBlocked,
        Why::SearchResets,
    ] {
        assert!(verdicts.contains_key(&Some(why)), "no pair fails because {why}");
    }
}

#[test]
fn two_routers_in_a_row_are_what_the_oracle_makes_of_both() {
    let chosen: Vec<_> = KINDS.iter().filter(|kind| !SAME_IN_A_ROW.contains(&kind.name)).collect();
    let rows: Vec<_> = chosen
        .iter()
        .enumerate()
        .map(|(nth, inner)| vec![**inner, *chosen[(nth * 7 + 3) % chosen.len()]])
        .collect();
    hold_all(&rows, &[(true, true, true), (false, true, true)]);
}

/// What says nothing new there.
const SAME_IN_A_ROW: [&str; 2] = ["full", "small table"];

/// Preserving, sequential and block routers, and SYN-blocking ones, cost three round trips at most.
#[test]
fn what_is_promised_in_three_round_trips_takes_no_more() {
    let promised: Vec<_> = KINDS
        .iter()
        .filter(|kind| match kind.ports {
            Ports::Preserving | Ports::Sequential { .. } => true,
            Ports::Random((first, last)) | Ports::Parity((first, last)) => last - first < 64,
            Ports::LinuxRandom => false,
        })
        .collect();
    let mut slowest = (Duration::ZERO, String::new());
    for a in &promised {
        for b in &promised {
            for (key, skew_ms) in [(true, 0), (false, 0), (true, 4), (false, 4)] {
                let conditions = Conditions {
                    routers: [vec![**a], vec![**b]],
                    key,
                    models: true,
                    skew: Duration::from_millis(skew_ms),
                    budget: Budget {
                        packets: 4_000,
                        entries: 2_000.min(a.entries.min(b.entries).max(1)),
                        rate: 10_000,
                    },
                    ..Conditions::default()
                };
                if oracle(a, b, &means(&conditions)).is_err() {
                    continue;
                }
                let outcome = punch(&conditions);
                let took = outcome.established.into_iter().flatten().max().unwrap_or(Duration::MAX);
                if took > slowest.0 {
                    slowest = (took, format!("{}, {}: {outcome}", a.name, b.name));
                }
            }
        }
    }
    println!("{:?} {}", slowest.0, slowest.1.lines().next().unwrap_or(""));
    assert!(slowest.0 <= 3 * 2 * Duration::from_millis(10), "{}", slowest.1);
}
