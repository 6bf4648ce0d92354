//! Arguments, commands, words and pictures for people.

pub mod destination;

use std::process::ExitCode;

/// Runs the program.
pub fn main() -> ExitCode {
    ExitCode::SUCCESS
}
