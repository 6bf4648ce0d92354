//! `tcp-punch nat` behind every kind of router of the matrix: is it told for what it is?

use std::collections::VecDeque;
use std::error::Error;
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::kind::{KINDS, Kind};
use crate::network::Network;
use crate::sample::Sample;
use crate::table::{Measured, Row};
use crate::told;

const RUNS: u32 = 20;
/// Networks at a time: most of the time all wait for a router that says nothing.
const AT_ONCE: usize = 14;
const ADDRESSES: [&str; 2] = ["192.0.2.250", "192.0.2.251"];
const PATIENCE: Duration = Duration::from_secs(20);

/// What came of one kind.
struct Outcome {
    kind: &'static Kind,
    right: u32,
    took_ms: Vec<f64>,
    /// Of the runs that were wrong: what was found.
    wrong: Vec<String>,
}

pub(crate) fn measure() -> Result<Measured, Box<dyn Error>> {
    let queue: Mutex<VecDeque<&'static Kind>> = Mutex::new(KINDS.iter().collect());
    let done: Mutex<Vec<Result<Outcome, String>>> = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let Some(kind) = queue.lock().expect("no panic").pop_front() else { return };
                    let outcome = behind(kind).map_err(|error| format!("{}: {error}", kind.name));
                    done.lock().expect("no panic").push(outcome);
                }
            });
        }
    });
    let mut outcomes = Vec::new();
    for outcome in done.into_inner().expect("no panic") {
        outcomes.push(outcome?);
    }
    outcomes.sort_by_key(|it| KINDS.iter().position(|kind| kind.name == it.kind.name));
    Ok(told(&outcomes))
}

fn told(outcomes: &[Outcome]) -> Measured {
    let all = outcomes.iter().filter(|it| it.right == RUNS).count();
    let right: u32 = outcomes.iter().map(|it| it.right).sum();
    let mut measured = Measured::default();
    measured.rows.push(Row {
        figure: "NAT classification".into(),
        measured: format!(
            "{all} of {} kinds {RUNS} of {RUNS}; {right} of {} runs right",
            KINDS.len(),
            KINDS.len() * RUNS as usize
        ),
        alternative: "-".into(),
        ratio: "-".into(),
        bar: "20 of 20 for every kind",
        met: all == KINDS.len(),
    });
    let silent = |it: &&Outcome| told::expected(it.kind.name)["unsolicited"] == "silence";
    let (waits, answers): (Vec<_>, Vec<_>) = outcomes.iter().partition(silent);
    for (name, outcomes) in
        [("nat, the router answers", answers), ("nat, the router says nothing", waits)]
    {
        let took: Sample = outcomes.iter().flat_map(|it| it.took_ms.iter().copied()).collect();
        measured.samples.push(took.summary(name, "ms"));
    }
    for outcome in outcomes.iter().filter(|it| it.right < RUNS) {
        let first = outcome.wrong.first().map_or("", String::as_str);
        let (name, right) = (outcome.kind.name, outcome.right);
        measured.notes.push(format!("{name}: {right} of {RUNS}; once it was {first}"));
    }
    measured
}

fn behind(kind: &'static Kind) -> Result<Outcome, Box<dyn Error>> {
    let addresses = ADDRESSES.join(",");
    let options = ["--delay", "10ms", "--nat-b", "none", "--server", &addresses];
    let outer = kind.outer.into_iter().flat_map(|outer| ["--outer-a", outer]);
    let network = Network::up(options.into_iter().chain(["--nat-a", kind.network]).chain(outer));
    let _server = serve(&network)?;
    let mut outcome = Outcome { kind, right: 0, took_ms: Vec::new(), wrong: Vec::new() };
    for _ in 0..RUNS {
        let output = network
            .host_a()
            .command(program()?)
            .args(["nat", "-q", "--json", "--server", ADDRESSES[0]])
            .output()?;
        let found: Value = serde_json::from_slice(&output.stdout)
            .map_err(|error| format!("{error}: {}", String::from_utf8_lossy(&output.stderr)))?;
        outcome.took_ms.extend(found["took_ms"].as_f64());
        let is = told::essence(&found);
        if is == told::expected(kind.name) {
            outcome.right += 1;
        } else {
            outcome.wrong.push(is.to_string());
        }
    }
    Ok(outcome)
}

/// It goes with its network.
fn serve(network: &Network) -> Result<Child, Box<dyn Error>> {
    let mut command: Command = network.server().command(program()?);
    command.args(["serve", "-q", "--listen", &format!("{}:3478", ADDRESSES[0])]);
    command.args(["--alt-addr", ADDRESSES[1]]);
    let server = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
    let began = Instant::now();
    let listens = || {
        network.server().run(|| ADDRESSES.iter().all(|ip| TcpStream::connect((*ip, 3479)).is_ok()))
    };
    while !listens() {
        if began.elapsed() > PATIENCE {
            return Err("the server does not listen".into());
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(server)
}

fn program() -> Result<String, Box<dyn Error>> {
    Ok(std::env::var("TCP_PUNCH_BIN").map_err(|_| "TCP_PUNCH_BIN names no program")?)
}
