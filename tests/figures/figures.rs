//! The figures that this program is judged by, each measured beside its alternative in one run.
//!
//! `netns-scripts/testbed.sh bench [FIGURE...] [--json FILE] [--markdown FILE]` runs it. It
//! measures and does not judge: a figure that misses its bar says so in the table, and only a
//! measurement that could not be made is a failure.

mod behaviour;
mod capacity;
mod chance;
mod clock;
mod connecting;
mod crowd;
mod delay;
mod ebpf;
mod end;
mod firing;
mod handover;
mod job;
mod joined;
mod leaks;
mod loss;
mod machine;
mod meetings;
mod nats;
mod output;
mod pair;
mod peer;
mod ports;
mod reply;
mod retransmissions;
mod sample;
mod searches;
mod series;
mod served;
mod server;
mod skew;
mod spray;
mod strategies;
mod table;
mod throughput;
mod trials;

// The tests' own networks; measurements need a part of what tests do.
#[allow(dead_code, reason = "shared with tests/lab")]
#[path = "../lab/capture.rs"]
mod capture;
#[allow(dead_code, reason = "shared with tests/lab")]
#[path = "../lab/network.rs"]
mod network;
#[allow(dead_code, reason = "shared with tests/lab")]
#[path = "../lab/told.rs"]
mod told;
#[allow(dead_code, reason = "shared with tests/lab")]
#[path = "../lab/transit.rs"]
mod transit;
#[allow(dead_code, reason = "shared with tests/lab")]
#[path = "../lab/veth.rs"]
mod veth;
// What the matrix of all routers is made of.
#[allow(dead_code, reason = "shared with tests/matrix")]
#[path = "../matrix/kind.rs"]
mod kind;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;

use machine::Machine;
use output::write;
use table::{Measured, Table};

type Measurement = fn() -> Result<Measured, Box<dyn Error>>;

const FIGURES: [(&str, Measurement); 26] = [
    ("delay", delay::measure),
    ("firing", firing::measure),
    ("connecting", connecting::measure),
    ("handover", handover::measure),
    ("reply", reply::measure),
    ("leaks", leaks::measure),
    ("retransmissions", retransmissions::measure),
    ("throughput", throughput::measure),
    ("skew", skew::measure),
    ("series", series::measure),
    ("spray", spray::measure),
    ("ebpf-cost", ebpf::cost),
    ("ebpf-rate", ebpf::rate),
    ("strategies", strategies::measure),
    ("ports", ports::measure),
    ("sequential", ports::sequential),
    ("random", searches::random),
    ("random-wide", searches::random_wide),
    ("one-random", searches::one_random),
    ("loss", loss::measure),
    ("chance", chance::measure),
    ("meet", meetings::measure),
    ("clock", clock::measure),
    ("server", capacity::measure),
    ("joined-servers", joined::measure),
    ("nat", behaviour::measure),
];

/// Measures, and prints the figures as a table.
#[derive(Parser)]
#[command(name = "testbed.sh bench")]
struct Arguments {
    /// Which figures; all if none is named
    #[arg(value_parser = FIGURES.map(|(name, _)| name))]
    figures: Vec<String>,
    /// Write the table here as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the table here as Markdown
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// As cargo bench passes it
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let done = match (arguments.next().as_deref(), arguments.next()) {
        (Some("end"), Some(job)) => end::serve(&job).map(|()| true),
        (Some(spray::SERVE), Some(way)) => spray::serve(&way).map(|()| true),
        _ => run(&Arguments::parse()),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("figures: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether everything could be measured.
fn run(arguments: &Arguments) -> Result<bool, Box<dyn Error>> {
    let machine = Machine::here();
    let mut measured = Vec::new();
    let mut complete = true;
    for (name, measure) in FIGURES {
        if !arguments.figures.is_empty() && !arguments.figures.iter().any(|wanted| wanted == name) {
            continue;
        }
        eprint!("measuring {name} ... ");
        let began = Instant::now();
        match measure() {
            Ok(figure) => {
                eprintln!("{:.0} s", began.elapsed().as_secs_f64());
                measured.push(figure);
            }
            Err(error) => {
                eprintln!("could not be measured: {error}");
                complete = false;
            }
        }
    }
    let table = Table::new(machine, measured);
    println!("\n{}", table.to_markdown());
    if let Some(path) = &arguments.json {
        write(path, (serde_json::to_string_pretty(&table)? + "\n").as_bytes())?;
    }
    if let Some(path) = &arguments.markdown {
        write(path, table.to_markdown().as_bytes())?;
    }
    Ok(complete)
}
