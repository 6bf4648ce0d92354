//! Arguments, commands, words and pictures for people.

pub mod args;
pub mod choice;
pub mod configuration;
pub mod countdown;
pub mod datapath;
pub mod destination;
pub mod doctor;
pub mod endpoint;
pub mod exit;
pub mod expose;
pub mod folder;
pub mod how;
pub mod identity;
pub mod interrupt;
pub mod ladder;
pub mod listing;
pub mod log;
pub mod meet;
pub mod model;
pub mod nat;
pub mod opener;
pub mod outcome;
pub mod peers;
pub mod punch;
pub mod race;
pub mod reach;
pub mod records;
pub mod secret;
pub mod serve;
pub mod server;
pub mod span;
pub mod stun;
pub mod usage;
pub mod when;

pub use exit::{Failure, Status};

use crate::engine::Report;
use crate::sys::clock;
use args::{Args, Command};
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use ladder::Ladder;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

/// Runs the program.
pub fn main() -> ExitCode {
    // First of all, so that `+2s` counts from the key press.
    let now = clock::now();
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error)
            if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) =>
        {
            return end(print(error.render().to_string().as_bytes()).map(|()| 0));
        }
        Err(error) => return end(Err(usage::condense(&error))),
    };
    match &args.command {
        Some(Command::Serve(serve)) => serve::start_log(serve),
        Some(Command::Meet(args)) => log::start(args.meeting.records.level()),
        Some(Command::Reach(args)) => log::start(args.meeting.records.level()),
        Some(Command::Expose(args)) => expose::start_log(args),
        Some(Command::Nat(nat)) => log::start(log::level(nat.quiet, nat.verbose)),
        _ => log::start(args.punch.records.level()),
    }
    end(match &args.command {
        None => punch::punch(&args.punch, now),
        Some(Command::Meet(args)) => meet::meet(args),
        Some(Command::Expose(args)) => expose::expose(args),
        Some(Command::Reach(args)) => reach::reach(args),
        Some(Command::Key { identity }) => identity::show(identity.as_deref()),
        Some(Command::Serve(args)) => serve::serve(args),
        Some(Command::Doctor { json }) => doctor::run(*json),
        Some(Command::Nat(args)) => nat::run(args),
        Some(Command::Completions { shell }) => completions(*shell),
        Some(Command::Man) => manual(),
        Some(Command::Ladder { a, b, svg }) => draw(a, b.as_deref(), *svg),
    })
}

fn end(result: Result<u8, Failure>) -> ExitCode {
    match result {
        Ok(status) => ExitCode::from(status),
        Err(failure) => {
            // With nobody left to read it, the status still tells.
            let _ = writeln!(io::stderr(), "{failure}");
            failure.status.into()
        }
    }
}

/// Writes to standard output. A reader that went away, as `head` does, is not a failure.
pub(crate) fn print(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::new(
            Status::Internal,
            format!("standard output cannot be written: {error}"),
            "give it a file or pipe that takes data",
        )),
        _ => Ok(()),
    }
}

fn completions(shell: clap_complete::Shell) -> Result<u8, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "tcp-punch", &mut script);
    print(&script).map(|()| 0)
}

fn manual() -> Result<u8, Failure> {
    let mut page = Vec::new();
    clap_mangen::Man::new(Args::command()).render(&mut page).map_err(|error| {
        Failure::new(Status::Internal, format!("the manual page: {error}"), "report this as a bug")
    })?;
    print(&page).map(|()| 0)
}

fn draw(a: &Path, b: Option<&Path>, svg: bool) -> Result<u8, Failure> {
    let read = |path: &Path| -> Result<Report, Failure> {
        let todo = "give a file that --report wrote";
        let text = std::fs::read(path)
            .map_err(|e| Failure::usage(format!("{} cannot be read: {e}", path.display()), todo))?;
        serde_json::from_slice(&text)
            .map_err(|e| Failure::usage(format!("{} is no report: {e}", path.display()), todo))
    };
    let a = read(a)?;
    let ladder = match b {
        None => Ladder::of_one(&a),
        Some(b) => Ladder::of_both(&a, &read(b)?),
    };
    print(if svg { ladder.svg() } else { ladder.text() }.as_bytes()).map(|()| 0)
}
