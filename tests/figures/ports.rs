//! Routers whose next port is known, or one of a few.

use std::error::Error;
use std::time::Duration;

use crate::server;
use crate::table::Measured;
use crate::trials::{Model, Ports, THREE_RTT_MS, Trials};

const TRIALS: usize = 100;
const CONNECTS: usize = 10;

const COUNTING: &str = "user:ports=sequential,mapping=apdm,step=1";
/// Each end knows of the other's block; the two are not the same.
const BLOCK_A: &str = "user:ports=block,mapping=apdm,pool=41000-41063";
const BLOCK_B: &str = "user:ports=block,mapping=apdm,pool=52000-52063";
const BLOCKS: [Model; 2] = [Model::Told("random:41000-41063"), Model::Told("random:52000-52063")];

/// Others make so many mappings a second.
const BUSY: &str = "user:ports=sequential,mapping=apdm,step=1,rate=50";
const RATE: u32 = 50;
/// With the time that a trial's processes are given in any case, a second from where the router
/// was seen to stand.
const AGE: Duration = Duration::from_millis(930);

pub(crate) fn measure() -> Result<Measured, Box<dyn Error>> {
    let counting = Model::Counting { rate: 0 };
    let mut measured = Measured::default();
    for (figure, trials) in [
        ("both preserving", Trials::between("masquerade", "masquerade", TRIALS)),
        ("both sequential", predicted(COUNTING, COUNTING, [counting; 2])),
        (
            "sequential against preserving",
            predicted(COUNTING, "masquerade", [counting, Model::Told("preserving")]),
        ),
        (
            "both in a block of 64",
            Trials { own_network: true, ..predicted(BLOCK_A, BLOCK_B, BLOCKS) },
        ),
    ] {
        trials.compare(figure, CONNECTS, Some(THREE_RTT_MS), &mut measured)?;
    }
    Ok(measured)
}

/// With competitors, and seen a second ago.
pub(crate) fn sequential() -> Result<Measured, Box<dyn Error>> {
    let mut measured = Measured::default();
    let models = [Model::Counting { rate: RATE }, Model::Told("preserving")];
    let trials = Trials { notice: AGE, ..predicted(BUSY, "masquerade", models) };
    let figure = "sequential, 50 competing mappings a second, against preserving";
    trials.compare(figure, CONNECTS, None, &mut measured)?;
    measured.notes.push(
        "sequential: a server outside sees one connection, and a second later is the instant; \
         the router makes others' mappings as a Poisson process"
            .into(),
    );
    Ok(measured)
}

fn predicted(a: &'static str, b: &'static str, models: [Model; 2]) -> Trials {
    let mut trials = Trials::between(a, b, TRIALS).searching(["preserving"; 2], Ports::Fresh);
    trials.network.extend(["--server", server::ADDRESS]);
    Trials { models: Some(models), notice: Duration::from_millis(330), networks: 4, ..trials }
}
