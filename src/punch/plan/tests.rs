//! Plans as both ends see them.

use super::*;

pub(super) fn end(model: PortModel, port: u16) -> End {
    End { model, port }
}

const INSTANT: WallTime = WallTime::from_unix_ns(1_795_258_800_000_000_000);

fn linux() -> End {
    end(PortModel::LinuxRandom, 0)
}

fn preserving(port: u16) -> End {
    end(PortModel::Preserving, port)
}

fn plans(a: &End, b: &End, budget: &Budget) -> (Plan, Plan) {
    let plan = |one, another| Plan::new(one, another, budget, INSTANT).unwrap();
    (plan(a, b), plan(b, a))
}

#[test]
fn both_linux_random() {
    let (plan, _) = plans(&linux(), &linux(), &Budget::default());
    println!("{} {:?}", plan.words(), plan.packets());
    assert!(plan.chance >= 0.999 && plan.packets() <= 4_000);
    let (plan, _) = plans(&linux(), &preserving(5000), &Budget::default());
    println!("{} {:?}", plan.words(), plan.packets());
}
