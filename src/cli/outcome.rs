//! How an attempt came out, in words and as an exit status.

use super::{Status, span};
use crate::engine::{PunchError, Report};
use crate::sys::{GuardError, RouteError};
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

/// The exit status of a punch that failed.
pub fn status(error: &PunchError) -> Status {
    match error {
        PunchError::Route(
            RouteError::Ourselves(_) | RouteError::Broadcast(_) | RouteError::NotOurs(_),
        )
        | PunchError::Guard(
            GuardError::PortInUse(_) | GuardError::TooFewFree { .. } | GuardError::NotOurs(_),
        )
        | PunchError::TupleInUse(_)
        | PunchError::Late { .. }
        | PunchError::Strategy(_)
        | PunchError::Plan(_)
        | PunchError::Pcap(_) => Status::Usage,
        PunchError::Guard(GuardError::Privileged(_)) => Status::Privilege,
        PunchError::Route(_) | PunchError::Unlikely { .. } => Status::Impossible,
        PunchError::TimedOut(_) | PunchError::NothingSent(_) | PunchError::CutOff(_) => {
            Status::TimedOut
        }
        PunchError::Refused(_) => Status::Refused,
        PunchError::HandOver(_) => Status::HandOver,
        PunchError::Call(failed) | PunchError::Guard(GuardError::Call(failed))
            if failed.is_permission() =>
        {
            Status::Privilege
        }
        PunchError::Datapath(error) if error.is_permission() => Status::Privilege,
        PunchError::Guard(_)
        | PunchError::Datapath(_)
        | PunchError::Call(_)
        | PunchError::NoRepair
        | PunchError::Interrupted => Status::Internal,
    }
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
        let report: Report =
            serde_json::from_str(include_str!("../../docs/report.example.json")).unwrap();
        assert_eq!(
            line(&report),
            "tcp-punch: connected to 203.0.113.2:40001, 20 ms after the instant (SYN 17 µs late)"
        );
    }
}
