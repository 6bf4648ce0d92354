//! How exactly the network between the routers delays what passes: all figures rest on it.

use std::error::Error;
use std::time::Duration;

use crate::network::Network;
use crate::sample::{Sample, us};
use crate::table::{Measured, Row};
use crate::transit::transit_times;

const DELAY: Duration = Duration::from_millis(10);
const PACKETS: usize = 200;
const LATEST_US: f64 = 200.0;
const ROUTER_B: &str = "203.0.113.1";

pub(crate) fn measure() -> Result<Measured, Box<dyn Error>> {
    let network = Network::up(["--delay", "10ms"]);
    let later = transit_times(&network, "0.0.0.0:0", ROUTER_B, PACKETS)
        .into_iter()
        .map(|took| us(took.as_nanos() as i64 - DELAY.as_nanos() as i64));
    let later: Sample = later.collect();
    let (p50, p99) = (later.median(), later.percentile(99));
    Ok(Measured {
        rows: vec![Row {
            figure: format!("the lab's delay of 10 ms, {PACKETS} packets: later than that by"),
            measured: format!("p50 {p50:.0} us, p99 {p99:.0} us"),
            alternative: "-".into(),
            ratio: "-".into(),
            bar: "p50 <= 200 us",
            met: p50 <= LATEST_US,
        }],
        samples: vec![later.summary("later than the delay asked for", "us")],
        notes: vec!["delay: between both routers' outer interfaces, by the kernel's stamps".into()],
    })
}
