//! How an attempt came out, in words and as an exit status.

use super::{Failure, Status, span};
use crate::engine::Report;
use crate::engine::report::Outcome;
use std::time::Duration;

/// The one line about a connection that stands.
pub fn line(report: &Report) -> String {
    let mut text = format!("tcp-punch: connected to {}", report.tuple.remote);
    if let Some(ns) = report.established_ns {
        text += &format!(", {} the instant", relative(ns));
    }
    if let Some(ns) = report.fired.error_ns {
        let error = span::say(Duration::from_nanos(ns.unsigned_abs()));
        let way = if ns < 0 { "early" } else { "late" };
        text += &format!(" (SYN {error} {way})");
    }
    text
}

/// The failure that `report` tells of; `None` if it connected.
pub fn failure(report: &Report) -> Option<Failure> {
    let status = match report.outcome {
        Outcome::Connected => return None,
        Outcome::TimedOut => Status::TimedOut,
        Outcome::Refused => Status::Refused,
        Outcome::Interrupted | Outcome::Failed => Status::Internal,
    };
    Some(Failure::new(status, &report.verdict, &report.advice))
}

fn relative(ns: i64) -> String {
    let distance = span::say(Duration::from_nanos(ns.unsigned_abs()));
    if ns < 0 { format!("{distance} before") } else { format!("{distance} after") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_one_line() {
        let mut report: Report =
            serde_json::from_str(include_str!("../../docs/report.example.json")).unwrap();
        assert_eq!(
            line(&report),
            "tcp-punch: connected to 203.0.113.2:40001, 20 ms after the instant (SYN 17 µs late)"
        );
        assert_eq!(failure(&report), None);
        report.outcome = Outcome::TimedOut;
        assert_eq!(failure(&report).map(|f| f.status), Some(Status::TimedOut));
    }
}
