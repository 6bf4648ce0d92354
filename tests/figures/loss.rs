//! Through a network that loses, reorders and repeats packets.

use std::error::Error;

use crate::table::Measured;
use crate::trials::{KEY, Ports, Trials};

const TRIALS: usize = 100;
const CONNECTS: usize = 20;
const IMPAIRED: [&str; 6] = ["--loss", "5", "--reorder", "5", "--duplicate", "5"];

pub(crate) fn measure() -> Result<Measured, Box<dyn Error>> {
    let plain = || Trials::between("masquerade", "masquerade", TRIALS);
    let random = Trials::between("random-fully", "random-fully", TRIALS)
        .searching(["linux-random"; 2], Ports::Privileged);
    let kind = "masquerade,syn-block";
    let blocking = Trials { key: Some(KEY), ..Trials::between(kind, kind, TRIALS) };
    let mut measured = Measured::default();
    for (figure, mut trials) in [
        ("5 % lost, reordered and doubled, with a key", Trials { key: Some(KEY), ..plain() }),
        ("5 % lost, reordered and doubled, no key", plain()),
        ("5 % lost, reordered and doubled, both random-fully", random),
        ("5 % lost, reordered and doubled, both block SYNs in FORWARD", blocking),
    ] {
        trials.network.extend(IMPAIRED);
        trials.compare(figure, CONNECTS, None, &mut measured)?;
    }
    Ok(measured)
}
