//! Through routers that let no SYN in.

use std::error::Error;

use crate::job::{How, Tuning};
use crate::table::Measured;
use crate::trials::{KEY, THREE_RTT_MS, Trials};

const TRIALS: usize = 100;
/// Of one strategy alone.
const ALONE: usize = 100;
const CONNECTS: usize = 10;

const SYN_ACK: [bool; 3] = [false, true, false];
const MID_STREAM: [bool; 3] = [false, false, true];

pub(crate) fn measure() -> Result<Measured, Box<dyn Error>> {
    let mut measured = Measured::default();
    for (figure, kind, strategies, count) in [
        ("both block SYNs in FORWARD, auto", "masquerade,syn-block", None, TRIALS),
        ("both block SYNs in FORWARD, syn-ack", "masquerade,syn-block", Some(SYN_ACK), ALONE),
        ("both block SYNs in raw, mid-stream", "masquerade,raw-syn-block", Some(MID_STREAM), ALONE),
    ] {
        let how = How::Tuned(Tuning { strategies, ..Tuning::default() });
        let trials = Trials { how, key: Some(KEY), ..Trials::between(kind, kind, count) };
        trials.compare(figure, CONNECTS, Some(THREE_RTT_MS), &mut measured)?;
    }
    measured.notes.push(
        "strategies and searches, one-way delay 10 ms: from the instant until the later end had \
         its descriptor, and both have read what the other wrote; packets are one side's, openers \
         and probes included; beside it a loop of timed connect(), pausing 5 ms, for 4 s"
            .into(),
    );
    Ok(measured)
}
