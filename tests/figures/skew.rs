//! How far apart the two ends may be, with routers that answer an unsolicited SYN with RST.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use tcp_punch::sys::clock;

use crate::job::{How, Then};
use crate::pair::{Meeting, NOTICE, Pair};
use crate::sample::{Sample, ms};
use crate::table::{Measured, Row};

const TRIALS: usize = 20;
/// Punches that wait for their instant at the same time…
const AT_ONCE: usize = 5;
/// …but far enough from each other that one's firing does not disturb the next one's. Loops run
/// alone: disturbed by each other they fall out of step, and into luck.
const APART: Duration = Duration::from_millis(30);
const PUNCH_SKEWS: [u64; 7] = [0, 20, 50, 100, 200, 300, 1000];
const LOOP_SKEWS: [u64; 7] = [0, 5, 10, 15, 20, 50, 200];
/// What a loop waits after a failure. Without it, it connects soon after both ends have begun:
/// always one SYN under way and so a mapping, at the price of fifty SYNs and as many resets a
/// second at each end. With it there are gaps, and both ends may keep hitting the other's.
const PAUSE_MS: u64 = 10;
const PATIENCE: Duration = Duration::from_secs(4);

pub(crate) fn measure() -> Result<Measured, Box<dyn Error>> {
    let pair = Pair::behind_nats("10ms");
    let punches = successes(&pair, How::Punch { opener: true }, AT_ONCE, &PUNCH_SKEWS)?;
    let once_more = |pause_ms| successes(&pair, How::ConnectLoop { pause_ms }, 1, &LOOP_SKEWS);
    let (pausing, hasty) = (once_more(PAUSE_MS)?, once_more(0)?);
    let (ours, theirs) = (tolerated(&punches), tolerated(&pausing));
    let words = |skew: Option<u64>| skew.map_or("none".to_owned(), |skew| format!("{skew} ms"));
    let list = |rates: &[Rate]| {
        let rates: Vec<_> = rates.iter().map(ToString::to_string).collect();
        rates.join(", ")
    };
    Ok(Measured {
        rows: vec![Row {
            figure: "skew tolerated, RST-answering routers".into(),
            measured: words(ours),
            alternative: format!(
                "connect() loop pausing {PAUSE_MS} ms: {}, not pausing: {}",
                words(theirs),
                words(tolerated(&hasty))
            ),
            ratio: match (ours, theirs) {
                (Some(ours), Some(theirs)) if theirs > 0 => {
                    format!("{:.0} times", ours as f64 / theirs as f64)
                }
                _ => "-".into(),
            },
            bar: ">= 200 ms",
            met: ours.is_some_and(|ours| ours >= 200),
        }],
        samples: vec![],
        notes: vec![
            format!(
                "skew, one-way delay 10 ms, both ends connected within {} s of their instant, \
                 tolerated: all of {TRIALS} trials up to there",
                PATIENCE.as_secs()
            ),
            format!("skew, punch: {}", list(&punches)),
            format!("skew, connect() loop pausing {PAUSE_MS} ms: {}", list(&pausing)),
            format!("skew, connect() loop not pausing: {}", list(&hasty)),
        ],
    })
}

/// How trials at one skew went.
struct Rate {
    skew_ms: u64,
    good: usize,
    /// From the later instant until both ends had their descriptor, where they did, milliseconds.
    took: Sample,
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { skew_ms, good, took } = self;
        write!(f, "{skew_ms} ms: {good}/{TRIALS} after {:.0} ms", took.median())
    }
}

fn successes(
    pair: &Pair,
    how: How,
    at_once: usize,
    skews: &[u64],
) -> Result<Vec<Rate>, Box<dyn Error>> {
    let mut rates = Vec::new();
    for skew in skews {
        let mut took = Vec::new();
        for _ in 0..TRIALS / at_once {
            // Each process gets the time to start before the first instant.
            let first = clock::now().after(NOTICE + NOTICE / 3 * at_once as u32);
            let mut running = Vec::new();
            for number in 0..at_once {
                running.push(pair.meet(Meeting {
                    at: first.after(APART * number as u32),
                    skew: Duration::from_millis(*skew),
                    how: [how; 2],
                    then: [Then::Close; 2],
                    patience: PATIENCE,
                })?);
            }
            for [a, b] in running {
                let skew_ns = i64::try_from(skew * 1_000_000)?;
                if let (Some(a), Some(b)) = (a.outcome()?.fd_ns, b.outcome()?.fd_ns) {
                    took.push(ms((a - skew_ns).max(b)));
                }
            }
        }
        rates.push(Rate { skew_ms: *skew, good: took.len(), took: took.into_iter().collect() });
    }
    Ok(rates)
}

/// The largest skew up to which every trial connected.
fn tolerated(rates: &[Rate]) -> Option<u64> {
    rates.iter().take_while(|rate| rate.good == TRIALS).map(|rate| rate.skew_ms).last()
}
