//! Whether a plan's chance is what happens.

use std::error::Error;
use std::time::Duration;

use tcp_punch::punch::{Budget, End, Plan};
use tcp_punch::sys::clock;

use crate::job::{How, Tuning};
use crate::table::{Measured, Row};
use crate::trials::{Ports, Trials};

const TRIALS: usize = 200;
const MODEL: &str = "linux-random";
/// Two packets for each of so many tuples that about one search in twelve is in vain.
const BUDGET: [u32; 3] = [1_342, 670, 10_000];
/// The last SYN has left 70 ms after the instant.
const PATIENCE: Duration = Duration::from_millis(1_000);
/// Percentage points between the stated and the measured chance.
const POINTS: f64 = 3.0;

pub(crate) fn measure() -> Result<Measured, Box<dyn Error>> {
    let [packets, entries, rate] = BUDGET;
    let end = End { model: MODEL.parse()?, port: 0 };
    let plan = Plan::new(&end, &end, &Budget { packets, entries, rate }, clock::now())?;
    let trials = Trials::between("random-fully", "random-fully", TRIALS)
        .searching([MODEL; 2], Ports::Privileged);
    let tuning = Tuning { budget: Some(BUDGET), anyway: true, ..Tuning::default() };
    let score = Trials { how: How::Tuned(tuning), patience: PATIENCE, ..trials }.run()?;
    let seen = score.connected() as f64 / score.tried as f64;
    // One standard deviation of what chance alone does to so many trials.
    let doubt = 100.0 * (plan.chance * (1.0 - plan.chance) / score.tried as f64).sqrt();
    let figure = "the planner's chance, both random-fully";
    let mut notes = score.notes(figure);
    notes.insert(0, format!("chance: {}", plan.words()));
    Ok(Measured {
        rows: vec![Row {
            figure: figure.into(),
            measured: format!("{:.1} %, {score}", 100.0 * seen),
            alternative: format!(
                "stated: {:.1} %, binomial error of {} trials {doubt:.1} points",
                100.0 * plan.chance,
                score.tried
            ),
            ratio: format!("{:+.1} points", 100.0 * (seen - plan.chance)),
            bar: "within 3 points",
            met: (100.0 * (seen - plan.chance)).abs() <= POINTS,
        }],
        samples: vec![score.times.summary(figure, "ms")],
        notes,
    })
}
