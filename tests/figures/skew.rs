//! How far apart the two ends may be, with routers that answer an unsolicited SYN with RST.

use std::error::Error;
use std::time::Duration;

use tcp_punch::sys::clock;

use crate::job::{How, Then};
use crate::pair::{Meeting, Pair};
use crate::table::{Measured, Row};

const TRIALS: usize = 20;
/// Trials that wait for their instant at the same time…
const AT_ONCE: usize = 5;
/// …but far enough from each other that one's firing does not disturb the next one's.
const APART: Duration = Duration::from_millis(30);
const PUNCH_SKEWS: [u64; 7] = [0, 20, 50, 100, 200, 300, 1000];
const LOOP_SKEWS: [u64; 6] = [0, 5, 10, 15, 20, 50];
const PATIENCE: Duration = Duration::from_secs(4);

pub(crate) fn measure() -> Result<Measured, Box<dyn Error>> {
    let pair = Pair::behind_nats("10ms");
    let punches = successes(&pair, How::Punch { opener: true }, &PUNCH_SKEWS)?;
    let loops = successes(&pair, How::ConnectLoop, &LOOP_SKEWS)?;
    let (ours, theirs) = (tolerated(&punches), tolerated(&loops));
    let words = |skew: Option<u64>| skew.map_or("none".to_owned(), |skew| format!("{skew} ms"));
    let list = |rates: &[(u64, usize)]| {
        let rates: Vec<_> =
            rates.iter().map(|(skew, good)| format!("{skew} ms: {good}/{TRIALS}")).collect();
        rates.join(", ")
    };
    Ok(Measured {
        rows: vec![Row {
            figure: "skew tolerated, RST-answering routers".into(),
            measured: words(ours),
            alternative: format!("connect() loop: {}", words(theirs)),
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
            format!("skew, connect() loop: {}", list(&loops)),
        ],
    })
}

fn successes(pair: &Pair, how: How, skews: &[u64]) -> Result<Vec<(u64, usize)>, Box<dyn Error>> {
    let mut rates = Vec::new();
    for skew in skews {
        let mut good = 0;
        for _ in 0..TRIALS / AT_ONCE {
            // Ten processes start before the first instant.
            let first = clock::now().after(Duration::from_millis(450));
            let mut running = Vec::new();
            for number in 0..AT_ONCE {
                running.push(pair.meet(Meeting {
                    at: first.after(APART * number as u32),
                    skew: Duration::from_millis(*skew),
                    how: [how; 2],
                    then: [Then::Close; 2],
                    patience: PATIENCE,
                })?);
            }
            for [a, b] in running {
                let connected = [a.outcome()?, b.outcome()?].iter().all(|end| end.error.is_none());
                good += usize::from(connected);
            }
        }
        rates.push((*skew, good));
    }
    Ok(rates)
}

/// The largest skew up to which every trial connected.
fn tolerated(rates: &[(u64, usize)]) -> Option<u64> {
    rates.iter().take_while(|(_, good)| *good == TRIALS).map(|(skew, _)| *skew).last()
}
