//! Every pair of kinds of routers meets exactly where the oracle says that it can.

use crate::behaviour::{Behaviour, KINDS};
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
        opener: conditions.openers,
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
                    openers,
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

#[test]
fn every_pair_meets_exactly_where_the_oracle_says_so() {
    let verdicts = hold_all(&single(), &[(true, true, true), (false, true, true)]);
    println!("{verdicts:?}");
}
