//! Whether the descriptor carries as much as one that the kernel made itself.

use std::error::Error;
use std::time::Duration;

use tcp_punch::sys::clock;

use crate::job::{How, Then};
use crate::pair::{Meeting, NOTICE, Pair};
use crate::sample::Sample;
use crate::table::{Measured, Row};

const RUNS: usize = 25;
const SENDING_MS: u64 = 700;
const PUNCH: [How; 2] = [How::Punch { opener: true }; 2];
/// Host b has a public address in this figure, so that the kernel can make its connection in the
/// ordinary way on the same path.
const KERNEL: [How; 2] = [How::Connect, How::Accept];

pub(crate) fn measure() -> Result<Measured, Box<dyn Error>> {
    let mut measured = Measured::default();
    for delay in ["0ms", "10ms"] {
        let pair = Pair::half_open(delay);
        let (mut punched, mut kernel) = (Vec::new(), Vec::new());
        for run in 0..RUNS {
            // Whoever comes second may find a warmer or a busier machine.
            if run % 2 == 0 {
                punched.push(rate(&pair, PUNCH)?);
                kernel.push(rate(&pair, KERNEL)?);
            } else {
                kernel.push(rate(&pair, KERNEL)?);
                punched.push(rate(&pair, PUNCH)?);
            }
        }
        let ours: Sample = punched.into_iter().collect();
        let theirs: Sample = kernel.into_iter().collect();
        let ratio = ours.median() / theirs.median();
        let spread = |sample: &Sample| {
            format!(
                "{:.0} Mbit/s ({:.0} to {:.0})",
                sample.median(),
                sample.percentile(0),
                sample.percentile(100)
            )
        };
        measured.rows.push(Row {
            figure: format!("throughput, one-way delay {delay}"),
            measured: spread(&ours),
            alternative: format!("kernel's: {}", spread(&theirs)),
            ratio: format!("{ratio:.3}"),
            bar: ">= 0.98",
            met: ratio >= 0.98,
        });
        measured.samples.push(ours.summary(format!("throughput at {delay}, punch"), "Mbit/s"));
        measured.samples.push(theirs.summary(format!("throughput at {delay}, kernel"), "Mbit/s"));
    }
    measured.notes.push(format!(
        "throughput: {RUNS} runs of {SENDING_MS} ms of each kind in turn, from host a to host b, \
         from the first byte read to the end; the network between them is one process, which is \
         what bounds it"
    ));
    Ok(measured)
}

/// Megabits per second.
fn rate(pair: &Pair, how: [How; 2]) -> Result<f64, Box<dyn Error>> {
    let meeting = Meeting {
        at: clock::now().after(NOTICE),
        skew: Duration::ZERO,
        how,
        then: [Then::Send { ms: SENDING_MS }, Then::Receive],
        patience: Duration::from_secs(4),
    };
    let [_, receiver] = pair.connected(meeting)?;
    Ok(receiver.received as f64 * 8e3 / receiver.receiving_ns as f64)
}
