//! What is said on standard error besides results: tracing events by level.

use std::io::IsTerminal;
use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::prelude::*;

/// The least level that is shown: warnings by default, errors with `-q`, transitions with `-v`,
/// every packet with `-vv`.
pub fn level(quiet: bool, verbose: u8) -> LevelFilter {
    LevelFilter::from_level(match (quiet, verbose) {
        (true, _) => Level::ERROR,
        (false, 0) => Level::WARN,
        (false, 1) => Level::DEBUG,
        (false, _) => Level::TRACE,
    })
}

/// Sends events of `level` and above to standard error, coloured if that is a terminal and
/// `NO_COLOR` is not set. Called once; a second call changes nothing.
pub fn start(level: LevelFilter) {
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let _ = tracing_subscriber::fmt()
        .without_time()
        .with_writer(std::io::stderr)
        .with_max_level(level)
        .with_ansi(colour)
        .with_target(false)
        .finish()
        .with(ours(level))
        .try_init();
}

/// Without what the library for the bus says: it tells of every byte that it sends, passwords
/// included. What matters of it is said in our own words.
pub fn ours(level: LevelFilter) -> Targets {
    Targets::new().with_default(level).with_target("async_nats", LevelFilter::OFF)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quieter_and_louder() {
        assert_eq!(level(true, 0), LevelFilter::ERROR);
        assert_eq!(level(false, 0), LevelFilter::WARN);
        assert_eq!(level(false, 1), LevelFilter::DEBUG);
        assert_eq!(level(false, 9), LevelFilter::TRACE);
    }
}
