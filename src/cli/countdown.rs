//! The countdown on the terminal while a punch waits for its instant.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

/// Shows how long is left, on one line that it takes away again.
///
/// It writes only where a person reads: nothing goes to a file or a pipe. Dropping it clears the
/// line, so that no path out of a punch leaves half a line behind.
#[derive(Debug)]
pub struct Countdown<W: Write> {
    out: Option<W>,
    shown: String,
}

impl Countdown<io::Stderr> {
    /// On standard error, silent unless that is a terminal.
    pub fn on_stderr() -> Self {
        let stderr = io::stderr();
        Self { out: stderr.is_terminal().then_some(stderr), shown: String::new() }
    }
}

impl<W: Write> Countdown<W> {
    /// On `out`, whatever it is.
    pub fn on(out: W) -> Self {
        Self { out: Some(out), shown: String::new() }
    }

    /// Shows what is left. Writes only when the text changes.
    pub fn tick(&mut self, remaining: Duration) {
        let text = render(remaining);
        if text == self.shown {
            return;
        }
        if let Some(out) = &mut self.out {
            // A terminal that went away is no reason to give up the punch.
            let _ = write!(out, "\r{text}\x1b[K").and_then(|()| out.flush());
        }
        self.shown = text;
    }

    /// Takes the line away.
    pub fn clear(&mut self) {
        if self.shown.is_empty() {
            return;
        }
        self.shown.clear();
        if let Some(out) = &mut self.out {
            let _ = write!(out, "\r\x1b[K").and_then(|()| out.flush());
        }
    }
}

impl<W: Write> Drop for Countdown<W> {
    fn drop(&mut self) {
        self.clear();
    }
}

/// What is left, in at most 24 columns: tenths of a second below ten seconds.
pub fn render(remaining: Duration) -> String {
    let secs = remaining.as_secs();
    let (hours, minutes, seconds) = (secs / 3600, secs / 60 % 60, secs % 60);
    match secs {
        0..10 => format!("punch in {secs}.{} s", remaining.subsec_millis() / 100),
        10..60 => format!("punch in {secs} s"),
        60..3600 => format!("punch in {minutes}:{seconds:02}"),
        _ => format!("punch in {hours}:{minutes:02}:{seconds:02}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_nearer_the_finer() {
        for (ms, text) in [
            (0, "punch in 0.0 s"),
            (3_249, "punch in 3.2 s"),
            (9_999, "punch in 9.9 s"),
            (10_000, "punch in 10 s"),
            (61_000, "punch in 1:01"),
            (86_399_000, "punch in 23:59:59"),
        ] {
            assert_eq!(render(Duration::from_millis(ms)), text);
        }
    }

    #[test]
    fn the_line_is_written_once_and_taken_away() {
        let mut out = Vec::new();
        let mut countdown = Countdown::on(&mut out);
        countdown.tick(Duration::from_millis(1_540));
        countdown.tick(Duration::from_millis(1_500));
        drop(countdown);
        assert_eq!(String::from_utf8(out).unwrap(), "\rpunch in 1.5 s\x1b[K\r\x1b[K");
    }

    proptest! {
        #[test]
        fn no_text_outgrows_the_line(secs in 0..=86_400u64) {
            prop_assert!(render(Duration::from_secs(secs)).len() <= 24);
        }
    }
}
