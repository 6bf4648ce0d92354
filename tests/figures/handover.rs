//! From the last segment of the handshake to a descriptor that can be used.

use std::error::Error;

use crate::job::{How, Then};
use crate::pair::{Meeting, Pair};
use crate::sample::{Sample, us};
use crate::table::{Measured, Row};

const PUNCHES: usize = 100;

pub(crate) fn measure() -> Result<Measured, Box<dyn Error>> {
    let pair = Pair::behind_nats("10ms");
    let (mut took, mut returned) = (Vec::new(), Vec::new());
    for _ in 0..PUNCHES {
        for outcome in pair.connected(Meeting::of(How::Punch { opener: true }, Then::Close))? {
            let report = outcome.report.ok_or("a punch without a report")?;
            let handover = report.handover.ok_or("a report without its hand-over")?;
            took.push(us(handover.took_ns));
            // The report ends when the socket is ready; the caller has it a little later.
            let after = outcome.fd_ns.zip(report.fd_ns).map(|(caller, ready)| caller - ready);
            returned.push(us(handover.took_ns + after.unwrap_or(0)));
        }
    }
    let took: Sample = took.into_iter().collect();
    let returned: Sample = returned.into_iter().collect();
    Ok(Measured {
        rows: vec![Row {
            figure: format!("hand-over, {} times", took.len()),
            measured: format!("p50 {:.0} us, p99 {:.0} us", took.median(), took.percentile(99)),
            alternative: format!("until the call returns: p50 {:.0} us", returned.median()),
            ratio: "-".into(),
            bar: "p50 <= 150 us",
            met: took.median() <= 150.0,
        }],
        samples: vec![
            took.summary("last handshake segment to usable descriptor", "us"),
            returned.summary("last handshake segment to the call's return", "us"),
        ],
        notes: vec![
            "hand-over: from the kernel's receive timestamp, so that waking up is part of it; both \
             ends complete at the same moment and share two cores with the network between them"
                .into(),
        ],
    })
}
