//! Every kind of router with every kind: how often, how fast and with how many packets two hosts
//! behind them connect, punched and by a timed `connect()` loop.
//!
//! `netns-scripts/testbed.sh matrix` runs it. What does not connect is a result and no failure of
//! the run; only what could not be measured is.

mod cell;
mod kind;
mod meetings;
mod oracle;
mod picture;
mod timetable;
mod trial;

// The measurements' own ends and samples, and the tests' networks.
#[allow(dead_code, reason = "shared with tests/lab")]
#[path = "../lab/capture.rs"]
mod capture;
#[allow(dead_code, reason = "shared with tests/figures")]
#[path = "../figures/end.rs"]
mod end;
#[allow(dead_code, reason = "shared with tests/figures")]
#[path = "../figures/job.rs"]
mod job;
#[path = "../figures/machine.rs"]
mod machine;
#[allow(dead_code, reason = "shared with tests/lab")]
#[path = "../lab/network.rs"]
mod network;
#[path = "../figures/output.rs"]
mod output;
#[allow(dead_code, reason = "shared with tests/figures")]
#[path = "../figures/pair.rs"]
mod pair;
#[allow(dead_code, reason = "shared with tests/figures")]
#[path = "../figures/peer.rs"]
mod peer;
#[allow(dead_code, reason = "shared with tests/figures")]
#[path = "../figures/sample.rs"]
mod sample;

use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;

use cell::{Cell, Matrix, Score, Told};
use kind::{KINDS, Kind};
use machine::Machine;
use meetings::Turns;
use timetable::Timetable;
use trial::{DELAY, Method, Sides, Trials};

type Pairing = [&'static Kind; 2];

/// Two hosts connect through every pair of kinds of routers.
#[derive(Parser)]
#[command(name = "testbed.sh matrix")]
struct Arguments {
    /// By `tcp-punch meet` instead, which is told nothing but a code; no connect()
    #[arg(long)]
    meet: bool,
    /// Punches of each pair
    #[arg(long, default_value_t = 10, value_name = "N")]
    trials: usize,
    /// connect() trials of each pair
    #[arg(long, default_value_t = 3, value_name = "N")]
    connect_trials: usize,
    /// Only these kinds, each with each
    #[arg(long, value_delimiter = ',', value_parser = named, value_name = "KIND,...")]
    kinds: Vec<&'static Kind>,
    /// Only these pairs
    #[arg(long, value_delimiter = ',', value_parser = pairing, value_name = "KIND/KIND,...")]
    pairs: Vec<Pairing>,
    /// Trials side by side in one network; a search is always alone
    #[arg(long, default_value_t = 5, value_name = "N")]
    concurrency: usize,
    /// Networks side by side; their trials take turns all the same
    #[arg(long, default_value_t = 5, value_name = "N")]
    networks: usize,
    /// Meetings under way at a time, of all networks; one for each processor is the most that do
    /// not disturb each other
    #[arg(long, default_value_t = 1, value_name = "N")]
    meetings_at_once: usize,
    /// A punch has failed so long after the instant
    #[arg(long, default_value_t = 4000, value_name = "MS")]
    patience: u64,
    /// A connect() loop has failed so long after the instant
    #[arg(long, default_value_t = 1500, value_name = "MS")]
    connect_patience: u64,
    /// Measure nothing, and show what an earlier run wrote as JSON
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// Write everything here as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw it here
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Draw it here as PNG, by rsvg-convert
    #[arg(long, value_name = "FILE")]
    png: Option<PathBuf>,
    /// As cargo bench passes it
    #[arg(long, hide = true)]
    bench: bool,
}

fn named(name: &str) -> Result<&'static Kind, String> {
    Kind::named(name).ok_or_else(|| {
        format!("no such kind; there are {}", KINDS.map(|kind| kind.name).join(", "))
    })
}

fn pairing(text: &str) -> Result<Pairing, String> {
    let (a, b) = text.split_once('/').ok_or("a pair is two kinds with / between them")?;
    Ok([named(a)?, named(b)?])
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let done = match (arguments.next().as_deref(), arguments.next()) {
        (Some("end"), Some(job)) => end::serve(&job).map(|()| true),
        _ => run(&Arguments::parse()),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("matrix: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether everything could be measured.
fn run(arguments: &Arguments) -> Result<bool, Box<dyn Error>> {
    let (matrix, complete) = match &arguments.from {
        Some(path) => (Matrix::read(path)?, true),
        None => measured(arguments),
    };
    println!("{}", matrix.words());
    let svg = matrix.svg();
    if let Some(path) = &arguments.json {
        output::write(path, (serde_json::to_string_pretty(&matrix)? + "\n").as_bytes())?;
    }
    if let Some(path) = &arguments.svg {
        output::write(path, svg.as_bytes())?;
    }
    if let Some(path) = &arguments.png {
        draw(&svg, path)?;
    }
    Ok(complete)
}

/// And whether all could be.
fn measured(arguments: &Arguments) -> (Matrix, bool) {
    let pairings = arguments.pairings();
    let machine = Machine::here();
    let cells = measure_all(&pairings, arguments);
    let kinds = KINDS.iter().filter(|kind| pairings.iter().flatten().any(|it| it == kind));
    let matrix = Matrix {
        machine,
        one_way_delay: DELAY,
        method: if arguments.meet { Told::Meet } else { Told::Punch },
        kinds: kinds.map(Into::into).collect(),
        pairs: cells.into_iter().flatten().collect(),
    };
    let complete = matrix.pairs.len() == pairings.len();
    (matrix, complete)
}

/// `None` for what could not be measured.
fn measure_all(pairings: &[Pairing], arguments: &Arguments) -> Vec<Option<Cell>> {
    let (timetable, turns) = (Timetable::default(), Turns::new(arguments.meetings_at_once));
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let cells = Mutex::new(vec![None; pairings.len()]);
    let work = || {
        while let Some((place, pair)) = {
            let place = next.fetch_add(1, Ordering::Relaxed);
            pairings.get(place).map(|pair| (place, pair))
        } {
            let began = Instant::now();
            let measured = match arguments.meet {
                true => meet(*pair, arguments, &turns),
                false => measure(*pair, arguments, &timetable),
            };
            let number = done.fetch_add(1, Ordering::Relaxed) + 1;
            let seconds = began.elapsed().as_secs_f64();
            print!("{number:3}/{} ", pairings.len());
            match measured {
                Ok(cell) => {
                    println!("{} ({seconds:.0} s)", cell.line());
                    cells.lock().expect("nobody panics holding it")[place] = Some(cell);
                }
                Err(error) => {
                    let [a, b] = pair.map(|kind| kind.name);
                    println!("{a} / {b} could not be measured: {error}");
                }
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..arguments.networks.max(1) {
            scope.spawn(work);
        }
    });
    cells.into_inner().expect("nobody panics holding it")
}

fn measure(
    pair: Pairing,
    arguments: &Arguments,
    timetable: &Timetable,
) -> Result<Cell, Box<dyn Error>> {
    let sides = Sides::up(pair, arguments.concurrency, timetable);
    let trials = |method, count, ms| {
        Trials::run(&sides, method, count, Duration::from_millis(ms)).map(Score::from)
    };
    let punch = trials(Method::Punch, arguments.trials, arguments.patience)?;
    let connect = trials(Method::Connect, arguments.connect_trials, arguments.connect_patience)?;
    Ok(Cell::of(pair, punch, Some(connect)))
}

fn meet(pair: Pairing, arguments: &Arguments, turns: &Turns) -> Result<Cell, Box<dyn Error>> {
    let patience = Duration::from_millis(arguments.patience);
    let met = meetings::trials(pair, arguments.trials, patience, turns)?;
    Ok(Cell::of(pair, met.into(), None))
}

/// The picture at twice its size, for screens with small pixels.
fn draw(svg: &str, path: &Path) -> Result<(), Box<dyn Error>> {
    let mut convert = Command::new("rsvg-convert")
        .args(["--zoom", "2"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("rsvg-convert: {error}"))?;
    // It reads everything before it writes.
    convert.stdin.take().ok_or("no pipe")?.write_all(svg.as_bytes())?;
    let drawn = convert.wait_with_output()?;
    if !drawn.status.success() {
        return Err(format!("rsvg-convert: {}", drawn.status).into());
    }
    output::write(path, &drawn.stdout)
}

impl Arguments {
    fn pairings(&self) -> Vec<Pairing> {
        if !self.pairs.is_empty() {
            return self.pairs.clone();
        }
        let wanted: Vec<&'static Kind> = KINDS
            .iter()
            .filter(|kind| self.kinds.is_empty() || self.kinds.contains(kind))
            .collect();
        let with_each = |(index, a): (usize, &&'static Kind)| {
            let a = *a;
            wanted[index..].iter().map(move |b| [a, *b]).collect::<Vec<_>>()
        };
        wanted.iter().enumerate().flat_map(with_each).collect()
    }
}

impl Cell {
    fn of([a, b]: Pairing, punch: Score, connect: Option<Score>) -> Self {
        Self { a: a.name, b: b.name, oracle: oracle::expect(a, b), punch, connect }
    }

    /// The pair in one line.
    fn line(&self) -> String {
        let score = |score: &Score| {
            let ms = |ms: Option<f64>| ms.map_or("-".to_owned(), |ms| format!("{ms:.1}"));
            format!(
                "{}/{} in {} ms (p95 {}), {:.0}+{:.0} packets",
                score.connected,
                score.tried,
                ms(score.median_ms),
                ms(score.p95_ms),
                score.packets[0],
                score.packets[1]
            )
        };
        let possible = match &self.oracle {
            oracle::Expectation::Possible { strategy, .. } => format!("possible by {strategy}"),
            oracle::Expectation::Impossible { .. } => "impossible".to_owned(),
        };
        let connect = self.connect.as_ref().map(|it| format!("; connect() {}", score(it)));
        format!(
            "{} / {}, {possible}: {}{}",
            self.a,
            self.b,
            score(&self.punch),
            connect.unwrap_or_default()
        )
    }
}
