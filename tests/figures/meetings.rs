//! From the start of the second peer's program to bytes both ways, no address and no instant typed.

use std::error::Error;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use crate::network::Network;
use crate::peer::{Heard, Peer, Rendezvous};
use crate::sample::Sample;
use crate::server::ADDRESS;
use crate::table::{Measured, Row};

const PRESERVING: usize = 100;
const RANDOM: usize = 100;
/// The first peer has been there for a while, as a person needs to read a code out.
const READING: Duration = Duration::from_millis(700);
/// A meeting that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(15);

/// From the second peer's start to bytes both ways.
fn meet(network: &Network) -> Result<f64, String> {
    let text = |error: io::Error| error.to_string();
    let mut a = Peer::start(&network.host_a(), ADDRESS, &[]).map_err(text)?;
    let code = a.code().map_err(text)?;
    thread::sleep(READING);
    let began = Instant::now();
    let mut b = Peer::start(&network.host_b(), ADDRESS, &[&code]).map_err(text)?;
    let deadline = began + PATIENCE;
    match [a.hear(deadline).map_err(text)?, b.hear(deadline).map_err(text)?] {
        [Heard::Byte(a), Heard::Byte(b)] => Ok(a.max(b).duration_since(began).as_secs_f64() * 1e3),
        _ => Err(format!("host-a: {}; host-b: {}", a.said(), b.said())),
    }
}

struct Case {
    figure: &'static str,
    nat: &'static str,
    count: usize,
    bar: &'static str,
    most_ms: f64,
    alternative: &'static str,
}

pub(crate) fn measure() -> Result<Measured, Box<dyn Error>> {
    let mut measured = Measured::default();
    for case in [
        Case {
            figure: "meet, preserving routers: second program started to bytes both ways",
            nat: "masquerade",
            count: PRESERVING,
            bar: ">= 99 %, p50 <= 150 ms",
            most_ms: 150.0,
            alternative: "published: libp2p DCUtR 300 ms, warpgate 2,640 ms",
        },
        Case {
            figure: "meet, both random-fully",
            nat: "random-fully",
            count: RANDOM,
            bar: ">= 99 %, p50 <= 1 s",
            most_ms: 1000.0,
            alternative: "published: never",
        },
    ] {
        let options = ["--delay", "10ms", "--server", ADDRESS];
        let network =
            Network::up([&options[..], &["--nat-a", case.nat, "--nat-b", case.nat]].concat());
        // By IPv6 there would be nothing to punch but firewalls.
        for host in [network.host_a(), network.host_b()] {
            host.must("sysctl -qw net.ipv6.conf.all.disable_ipv6=1");
        }
        let server = Rendezvous::start(&network.server(), &[ADDRESS])?;
        let (mut times, mut failures) = (Vec::new(), Vec::new());
        for _ in 0..case.count {
            network.flush_routers();
            match meet(&network) {
                Ok(ms) => times.push(ms),
                Err(why) => failures.push(why),
            }
        }
        drop(server);
        let (met, times) = (times.len(), times.into_iter().collect::<Sample>());
        measured.rows.push(Row {
            figure: case.figure.into(),
            measured: format!(
                "{met}/{}; p50 {:.0} ms, p95 {:.0} ms",
                case.count,
                times.median(),
                times.percentile(95)
            ),
            alternative: case.alternative.into(),
            ratio: "-".into(),
            bar: case.bar,
            met: met * 100 >= case.count * 99 && times.median() <= case.most_ms,
        });
        measured.samples.push(times.summary(case.figure, "ms"));
        measured.notes.extend(failures.into_iter().take(5).map(|why| format!("failed: {why}")));
    }
    measured.notes.push(
        "meet: the program's own start, the server (20 ms there and back), key exchange, clock, \
         the survey of the router, the punch and both ends' proofs are all in it"
            .into(),
    );
    Ok(measured)
}
