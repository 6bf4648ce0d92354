//! Plans as both ends see them.

use super::*;
use crate::nat::Sequence;

const INSTANT: WallTime = WallTime::from_unix_ns(1_795_258_800_000_000_000);
const LEAD: Duration = Duration::from_millis(250);

fn pool(text: &str) -> PortPool {
    text.parse().unwrap()
}

fn end(model: PortModel) -> End {
    End { model, port: 0 }
}

fn random(text: &str) -> End {
    end(PortModel::Random(pool(text)))
}

fn preserving(port: u16) -> End {
    End { model: PortModel::Preserving, port }
}

fn opened_at() -> WallTime {
    INSTANT.before(LEAD)
}

fn sequence(next: u16, rate: f64, age: Duration) -> Sequence {
    Sequence {
        next,
        at: Some(INSTANT.before(age)),
        step: 1,
        rate,
        counted_s: None,
        pool: pool("1024-65535"),
    }
}

fn sequential(next: u16) -> End {
    end(PortModel::Sequential(sequence(next, 50.0, Duration::from_secs(1))))
}

fn budget(text: &str) -> Budget {
    text.parse().unwrap()
}

fn plans(a: &End, b: &End, budget: &Budget) -> [Plan; 2] {
    [(a, b), (b, a)].map(|(ours, theirs)| Plan::new(ours, theirs, budget, opened_at()).unwrap())
}

#[test]
fn both_linux_random() {
    let linux = end(PortModel::LinuxRandom);
    for plan in plans(&linux, &linux, &Budget::default()) {
        assert!(plan.chance >= 0.999 && plan.packets() <= 4_000, "{}", plan.words());
        assert_eq!(plan.sources, Sources::Any { count: 4, of: pool("512-1023") });
        assert_eq!(plan.targets, (600..=1023).collect::<Vec<_>>());
        assert_eq!(
            plan.words(),
            "1,696 tuples from 4 source ports to 424 ports of the peer; 16.0 pairs expected to \
             match, chance 99.99 %"
        );
        assert_eq!(plan.opening_takes(), Duration::from_micros(169_600));
        assert_eq!(INSTANT.ns_since(plan.opens_at()), 419_600_000);
    }
}

#[test]
fn linux_random_against_preserving() {
    let [random, preserving] =
        plans(&end(PortModel::LinuxRandom), &preserving(40_000), &Budget::default());
    assert_eq!(random.targets, [40_000]);
    assert_eq!(preserving.sources, Sources::Exactly(40_000));
    for plan in [random, preserving] {
        assert!(plan.chance >= 0.99 && plan.packets() <= 1_500, "{}", plan.words());
        assert!(plan.fires());
    }
}

#[test]
fn both_in_a_block_of_64() {
    let [plan, _] = plans(&random("4096-4159"), &random("4096-4159"), &Budget::default());
    assert!(plan.chance >= 0.9999 && plan.packets() <= 600, "{}", plan.words());
}

#[test]
fn sequential_against_preserving() {
    for plan in plans(&sequential(40_001), &preserving(6_000), &Budget::default()) {
        assert!(plan.chance >= 0.999 && plan.packets() <= 1_000, "{}", plan.words());
    }
}

#[test]
fn both_sequential() {
    for plan in plans(&sequential(40_001), &sequential(65_530), &Budget::default()) {
        assert!(plan.chance >= 0.999 && plan.packets() <= 1_000, "{}", plan.words());
    }
}

/// How the testbed's routers number their ports (tests/matrix/kind.rs), each beside each.
#[test]
fn at_the_default_budget_hardly_any_pair_of_common_routers_fails() {
    let busy = |age_ms| {
        let at = INSTANT.before(Duration::from_millis(age_ms));
        format!("sequential:next=30002,step=2,rate=50,at={:.3}", at.unix_ns() as f64 / 1e9)
    };
    let busy = [250, 300, 450, 700, 2_000, 10_000].map(busy);
    let models = [
        "preserving",
        "stable-random:41000-41063",
        "linux-random",
        "sequential:next=30001",
        "parity:40000-40999",
        "random:50000-50063",
    ];
    let models = models.into_iter().chain(busy.iter().map(String::as_str));
    let ends: Vec<_> =
        models.map(|model| End { model: model.parse().unwrap(), port: 40_000 }).collect();
    for a in &ends {
        for b in &ends {
            let [plan, _] = plans(a, b, &Budget::default());
            let words = format!("{} and {}: {}", a.model, b.model, plan.words());
            assert!(plan.chance >= 0.999, "{words}");
        }
    }
}

#[test]
fn a_hopeless_search_is_called_so() {
    let all = random("1024-65535");
    let [plan, _] = plans(&all, &all, &Budget::default());
    assert!(plan.chance > 0.0005 && plan.chance < 0.0015, "{}", plan.words());
    assert_eq!(
        plan.words(),
        "1,999 tuples from 1 source port to 1,999 ports of the peer; hardly any pair expected to \
         match, chance 0.09 %"
    );
    let needed = plan.needed(0.9).unwrap();
    let [plan, _] = plans(&all, &all, &needed);
    assert!(plan.chance >= 0.9 && needed.entries < 100_000, "{needed}");
}

#[test]
fn all_ports_of_both_with_a_raised_budget() {
    let all = random("1024-65535");
    let raised = budget("packets=260000,entries=130000,rate=100000");
    let [ours, theirs] = plans(&all, &all, &raised);
    assert!(ours.chance >= 0.9 && ours.packets() <= 260_000, "{}", ours.words());
    assert!(ours.fires() && theirs.fires(), "equal ends cannot be told apart");
    let [ours, theirs] = plans(&all, &random("1024-65534"), &raised);
    assert!(ours.fires() != theirs.fires());
    assert!(ours.packets().min(theirs.packets()) <= 130_002);
}

/// What the targets are drawn from is what the other end's sources map to.
#[test]
fn both_ends_see_one_plan() {
    let stable_random = end(PortModel::StableRandom(pool("7000-7299")));
    let parity = end(PortModel::Parity(pool("5001-5101")));
    let ends = [
        (preserving(5_000), pool("5000")),
        (End { model: PortModel::Stable, port: 77 }, pool("77")),
        (random("4096-4159,5000-5063"), pool("4096-4159,5000-5063")),
        (parity, PortPool::new((5_001..=5_101).step_by(2).map(|port| port..=port)).unwrap()),
        (stable_random, pool("7000-7299")),
        (end(PortModel::LinuxRandom), pool("600-1023")),
        (sequential(40_001), pool("40001-42500")),
        (sequential(65_530), pool("1024-3500,65530-65535")),
    ];
    for budget in ["packets=4000", "packets=500", "packets=4", "packets=9,rate=1"].map(budget) {
        for (a, maps_to_a) in &ends {
            for (b, maps_to_b) in &ends {
                let [ours, theirs] = plans(a, b, &budget);
                assert_eq!(ours.chance.to_bits(), theirs.chance.to_bits(), "{a:?} {b:?}");
                assert_eq!(ours.expected_matches.to_bits(), theirs.expected_matches.to_bits());
                assert!(ours.fires() && theirs.fires());
                for (plan, maps_to) in [(&ours, maps_to_b), (&theirs, maps_to_a)] {
                    assert!((1..=budget.tuples()).contains(&plan.len()), "{a:?} {b:?} {budget}");
                    let strays = plan.targets.iter().any(|to| !maps_to.contains(*to));
                    assert!(!strays || budget.rate == 1, "{a:?} {b:?} {:?}", plan.targets);
                    let mut once = plan.targets.clone();
                    once.sort_unstable();
                    once.dedup();
                    assert_eq!(once.len(), plan.targets.len(), "{a:?} {b:?}");
                }
                if a == b {
                    assert_eq!(ours, theirs);
                }
            }
        }
    }
}

#[test]
fn tuples_come_target_by_target() {
    let [plan, _] = plans(&sequential(40_001), &sequential(50_001), &Budget::default());
    let (sources, targets) = (u32::from(plan.sources.count()), plan.targets.clone());
    assert!(targets.len() > 1);
    assert_eq!(plan.tuple(0), (0, targets[0]));
    assert_eq!(plan.tuple(sources - 1), (plan.sources.count() - 1, targets[0]));
    assert_eq!(plan.tuple(sources), (0, targets[1]));
    assert_eq!(plan.len(), sources * targets.len() as u32);
}

#[test]
fn the_most_probable_port_of_a_sequence_comes_first() {
    let [_, plan] = plans(&sequential(40_001), &preserving(9), &Budget::default());
    let (first, last) = (plan.targets[0], *plan.targets.last().unwrap());
    let off = |port: u16| port.abs_diff(40_001 + 47 + 7);
    assert!(off(first) < 10 && off(last) > 35, "{:?}", plan.targets);
}

#[test]
fn the_budget_needed_is_enough_and_hardly_more() {
    for (a, b) in [
        (end(PortModel::LinuxRandom), end(PortModel::LinuxRandom)),
        (random("1024-65535"), preserving(1)),
        (random("2000-2999"), sequential(5_000)),
        (sequential(5_000), sequential(9_000)),
    ] {
        let [poor, _] = plans(&a, &b, &budget("packets=40"));
        let needed = poor.needed(0.99).unwrap();
        assert!(plans(&a, &b, &needed)[0].chance >= 0.99, "{a:?} {b:?} {needed}");
        let less = Budget { packets: needed.packets * 4 / 5, ..needed };
        assert!(plans(&a, &b, &less)[0].chance < 0.99, "{a:?} {b:?} {needed}");
    }
    let long_ago = end(PortModel::Sequential(sequence(2_000, 500.0, Duration::from_secs(3_600))));
    assert_eq!(plans(&long_ago, &long_ago, &Budget::default())[0].needed(0.9), None);
}

#[test]
fn what_cannot_be_planned() {
    let fails = |a: &End, text: &str| {
        let error = Plan::new(a, &preserving(7), &budget(text), opened_at()).unwrap_err();
        let other_way = Plan::new(&preserving(7), a, &budget(text), opened_at()).unwrap_err();
        assert_eq!(error.to_string(), other_way.to_string());
        error.to_string()
    };
    assert!(fails(&random("1-9"), "packets=3").contains("packets=3,entries=2000,rate=10000"));
    assert_eq!(fails(&preserving(0), "rate=1"), PlanError::NoPort.to_string());
    let broken = |sequence: Sequence| fails(&end(PortModel::Sequential(sequence)), "rate=1");
    let sequence = sequence(1024, 1.0, Duration::ZERO);
    assert_eq!(broken(Sequence { step: 0, ..sequence.clone() }), PlanError::NoStep.to_string());
    assert!(
        broken(Sequence { next: 1023, ..sequence.clone() }).contains("1023 is not in its pool")
    );
    for rate in [-1.0, f64::NAN, f64::INFINITY] {
        assert!(broken(Sequence { rate, ..sequence.clone() }).contains("mappings a second"));
    }
}

#[test]
fn wild_models_are_planned_in_bounds() {
    let wild = [
        Sequence { rate: 1e9, ..sequence(2_000, 0.0, Duration::from_secs(1 << 30)) },
        Sequence { rate: 1e300, ..sequence(2_000, 0.0, Duration::from_secs(1 << 30)) },
        Sequence { at: None, ..sequence(65_535, 1e6, Duration::ZERO) },
        Sequence {
            at: Some(INSTANT.after(Duration::from_secs(1 << 30))),
            ..sequence(9_999, 9e9, LEAD)
        },
        Sequence { step: i16::MIN, pool: pool("1-2"), next: 2, ..sequence(2, 3.0, LEAD) },
        Sequence { step: 5, pool: pool("1000-1004"), ..sequence(1_000, 3.0, LEAD) },
    ]
    .map(|sequence| end(PortModel::Sequential(sequence)));
    let others = [
        preserving(7),
        random("1-65535"),
        end(PortModel::StableRandom(pool("9"))),
        end(PortModel::Parity(pool("9"))),
        end(PortModel::StableRandom(pool("1-65535"))),
    ];
    for budget in ["packets=4000", "packets=4294967295,entries=4294967295"].map(budget) {
        for a in wild.iter().chain(&others) {
            for b in wild.iter().chain(&others) {
                let [plan, _] = plans(a, b, &budget);
                assert!((0.0..=1.0).contains(&plan.chance), "{a:?} {b:?} {}", plan.words());
                assert!((1..=65_535).contains(&plan.targets.len()), "{a:?} {b:?}");
                assert!(plan.len() <= budget.tuples() && plan.sources.count() <= 448);
            }
        }
    }
}

#[test]
fn words_for_people() {
    for (chance, says) in
        [(1.0, "100 %"), (0.999_999, "99.99 %"), (0.5, "50.00 %"), (0.000_01, "below 0.01 %")]
    {
        assert_eq!(percent(chance), says);
    }
    for (count, says) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
        assert_eq!(thousands(count), says);
    }
    assert_eq!((pairs(16.04), pairs(0.0312)), ("16.0 pairs".into(), "0.031 pairs".into()));
    assert_eq!([1, 99, 101, 1_234].map(|number| round_up(number, 2)), [1, 99, 110, 1_300]);
}
