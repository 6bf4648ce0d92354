//! How well a client knows the server's clock, where that clock is set wrong.

use std::error::Error;
use std::io;
use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use tcp_punch::engine::server_clock;

use crate::network::Network;
use crate::peer::{Rendezvous, binary};
use crate::sample::Sample;
use crate::server::ADDRESS;
use crate::table::{Measured, Row};

/// Either way.
const BURSTS: usize = 100;
const PATIENCE: Duration = Duration::from_secs(5);
/// What libfaketime adds to the server's clock, and what that is in nanoseconds.
const SET_OFF: [(&str, i64); 2] = [("+0.5", 500_000_000), ("-0.5", -500_000_000)];
const MOST_US: f64 = 200.0;
const FIGURE: &str = "server's clock, set off by 500 ms either way: error of one burst";

pub(crate) fn measure() -> Result<Measured, Box<dyn Error>> {
    let (mut errors_us, mut covered) = (Vec::new(), 0);
    let (mut bounds_us, mut likely_us) = (Vec::new(), Vec::new());
    for (by, truth) in SET_OFF {
        let options = ["--delay", "10ms", "--server", ADDRESS, "--nat-b", "none"];
        let network = Network::up(options);
        let host = network.server();
        let mut command = host.command("env");
        command.arg(format!("LD_PRELOAD={}", library()?)).arg(format!("FAKETIME={by}"));
        // Timeouts go by the monotonic clock, which nobody sets.
        command.args(["FAKETIME_DONT_FAKE_MONOTONIC=1", "DONT_FAKE_MONOTONIC=1"]).arg(binary()?);
        let quota = ["--quota", "meetings=100000"];
        let _server = Rendezvous::of(command, &host, &[ADDRESS], &quota)?;
        let server = (ADDRESS.parse::<IpAddr>()?, 3478).into();
        for _ in 0..BURSTS {
            let estimate = network.host_a().run(|| server_clock(server, PATIENCE))?;
            let error = (estimate.offset_ns - truth).unsigned_abs();
            errors_us.push(error as f64 / 1e3);
            bounds_us.push(estimate.bound.as_secs_f64() * 1e6);
            likely_us.push(estimate.likely.as_secs_f64() * 1e6);
            covered += usize::from(u128::from(error) <= estimate.bound.as_nanos());
        }
    }
    let errors: Sample = errors_us.into_iter().collect();
    let count = errors.len();
    let (bounds, likely): (Sample, Sample) =
        (bounds_us.into_iter().collect(), likely_us.into_iter().collect());
    Ok(Measured {
        rows: vec![Row {
            figure: FIGURE.into(),
            measured: format!(
                "p50 {:.0} µs, p95 {:.0} µs; the bound covered {covered}/{count}",
                errors.median(),
                errors.percentile(95)
            ),
            alternative: format!("half of the round trip: {:.0} µs", bounds.median()),
            ratio: "-".into(),
            bar: "p95 <= 200 µs, the bound always covers",
            met: covered == count && errors.percentile(95) <= MOST_US,
        }],
        samples: vec![
            errors.summary("server's clock, error", "µs"),
            bounds.summary("server's clock, bound", "µs"),
            likely.summary("server's clock, likely error as stated", "µs"),
        ],
        notes: vec![
            "clock: 10 ms one way, both ways alike; a connection of its own for every burst; the \
             truth is what libfaketime adds to the server's clock, which is otherwise ours"
                .into(),
        ],
    })
}

/// libfaketime, from the program that preloads it.
fn library() -> io::Result<String> {
    let output = Command::new("faketime").args(["-f", "+0s", "printenv", "LD_PRELOAD"]).output()?;
    let path = String::from_utf8(output.stdout).map_err(io::Error::other)?;
    match path.trim() {
        "" => Err(io::Error::other("faketime preloads nothing")),
        path => Ok(path.to_owned()),
    }
}
