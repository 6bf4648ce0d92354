//! Searches for random ports.

use std::error::Error;
use std::time::Duration;

use tcp_punch::punch::{Budget, End, Plan};
use tcp_punch::sys::clock;

use crate::job::{How, Tuning};
use crate::table::{Measured, Row};
use crate::trials::{Ports, Score, Trials};

const TRIALS: usize = 100;
const CONNECTS: usize = 10;
const RANDOM: &str = "linux-random";

const WIDE_TRIALS: usize = 50;
const WIDE: &str = "random:1024-65535";
/// Packets, entries, packets a second: two packets for each of 130,000 tuples. The userspace wide
/// area network takes what two ends send at this rate; at 100,000 the routers' queues overflow.
const WIDE_BUDGET: [u32; 3] = [260_000, 130_000, 40_000];
const WIDE_PATIENCE: Duration = Duration::from_secs(5);

/// Both routers random, from the sources that make their pool small.
pub(crate) fn random() -> Result<Measured, Box<dyn Error>> {
    let trials = Trials::between("random-fully", "random-fully", TRIALS)
        .searching([RANDOM; 2], Ports::Privileged);
    compared("both random-fully", &trials, ">= 99 %, p50 <= 0.5 s, <= 4,000 packets", |score| {
        score.reaches(99) && score.times.median() <= 500.0 && score.packets <= 4_000
    })
}

/// One of them keeps its port.
pub(crate) fn one_random() -> Result<Measured, Box<dyn Error>> {
    let trials = Trials::between("random-fully", "masquerade", TRIALS)
        .searching([RANDOM, "preserving"], Ports::PrivilegedAndFresh);
    compared("random-fully against masquerade", &trials, ">= 99 %, <= 1,500 packets", |score| {
        score.reaches(99) && score.packets <= 1_500
    })
}

/// Both random over all ports: no privileged source port is used.
pub(crate) fn random_wide() -> Result<Measured, Box<dyn Error>> {
    let trials = Trials::between("random-fully", "random-fully", WIDE_TRIALS)
        .searching([WIDE; 2], Ports::Fresh);
    let [_, entries, rate] = WIDE_BUDGET;
    let trials = Trials {
        how: How::Tuned(Tuning { budget: Some(WIDE_BUDGET), ..Tuning::default() }),
        networks: 1,
        notice: trials.notice + Duration::from_secs_f64(f64::from(entries) / f64::from(rate)),
        patience: WIDE_PATIENCE,
        ..trials
    };
    let figure = "both random-fully over 64,512 ports";
    let mut measured = compared(figure, &trials, ">= 90 % within 5 s", |score| {
        score.reaches(90) && score.times.percentile(100) <= 5_000.0
    })?;
    let [packets, ..] = WIDE_BUDGET;
    let end = End { model: WIDE.parse()?, port: 0 };
    let plan = Plan::new(&end, &end, &Budget { packets, entries, rate }, clock::now())?;
    measured.notes.push(format!("{figure}: {}, {rate} packets a second", plan.words()));
    Ok(measured)
}

fn compared(
    figure: &str,
    trials: &Trials,
    bar: &'static str,
    met: impl FnOnce(&Score) -> bool,
) -> Result<Measured, Box<dyn Error>> {
    let ours = trials.run()?;
    let theirs = trials.connecting(CONNECTS).run()?;
    Ok(Measured {
        rows: vec![Row {
            figure: figure.into(),
            measured: ours.to_string(),
            alternative: theirs.of_connect(),
            ratio: "-".into(),
            bar,
            met: met(&ours),
        }],
        samples: vec![ours.times.summary(figure, "ms")],
        notes: [
            ours.notes(figure),
            vec![format!("{figure}: {} packets found a router's queue full", ours.dropped)],
        ]
        .concat(),
    })
}
