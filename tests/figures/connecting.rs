//! From the instant to the descriptor.

use std::error::Error;

use crate::job::{How, Outcome, Then};
use crate::pair::{Meeting, Pair};
use crate::sample::{Sample, ms, us};
use crate::table::{Measured, Row};

const MEETINGS: usize = 60;
/// A timed connect() that misses the crossing is repeated by nobody, so some fail; no more than
/// this makes a median of them.
const FAILURES: usize = MEETINGS / 4;

pub(crate) fn measure() -> Result<Measured, Box<dyn Error>> {
    let pair = Pair::behind_nats("10ms");
    let (mut punches, mut connects) = (Vec::new(), Vec::new());
    let mut failed = 0;
    for _ in 0..MEETINGS {
        punches.extend(pair.connected(Meeting::of(How::Punch { opener: true }, Then::Close))?);
        match pair.connected(Meeting::of(How::Connect, Then::Close)) {
            Ok(outcomes) => connects.extend(outcomes),
            Err(error) if failed >= FAILURES => return Err(error.into()),
            Err(_) => failed += 1,
        }
    }
    let elapsed = |outcomes: &[Outcome]| {
        outcomes.iter().filter_map(|outcome| outcome.fd_ns).map(ms).collect::<Sample>()
    };
    let (ours, theirs) = (elapsed(&punches), elapsed(&connects));
    let reports = || punches.iter().filter_map(|outcome| outcome.report.as_ref());
    let errors = reports().filter_map(|report| report.fired.error_ns);
    let errors = errors.map(|ns| us(ns.saturating_abs())).collect::<Sample>();
    let inside = reports().filter_map(|report| report.fd_ns).map(ms).collect::<Sample>();
    let ratio = ours.median() / theirs.median();
    let both = |sample: &Sample| {
        format!("p50 {:.2} ms, p99 {:.2} ms", sample.median(), sample.percentile(99))
    };
    Ok(Measured {
        rows: vec![Row {
            figure: "instant to descriptor, RTT 20 ms".into(),
            measured: both(&ours),
            alternative: format!("timed connect(): {}", both(&theirs)),
            ratio: format!("{ratio:.3}"),
            bar: "no slower",
            met: ratio <= 1.0,
        }],
        samples: vec![
            ours.summary("instant to descriptor in the caller's hands, punch", "ms"),
            inside.summary("instant to descriptor, punch, as its own report has it", "ms"),
            theirs.summary("instant to descriptor, timed connect()", "ms"),
            errors.summary("send error by report, both ends firing at once", "us"),
        ],
        notes: vec![format!(
            "instant to descriptor: until the call returns, at both ends; {failed} of {MEETINGS} \
             timed connect() pairs did not connect and do not count"
        )],
    })
}
