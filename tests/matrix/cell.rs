//! One pair of kinds by both methods, and all of them together, as JSON has them.

use std::error::Error;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::kind::Kind;
use crate::machine::Machine;
use crate::oracle::Expectation;
use crate::sample::Sample;
use crate::trial::{Trial, Trials};

/// What the ends are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Told {
    /// An instant, and models where ports are not preserved.
    Punch,
    /// Nothing but a code.
    Meet,
}

/// A whole run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Matrix {
    pub(crate) machine: Machine,
    pub(crate) one_way_delay: &'static str,
    pub(crate) method: Told,
    pub(crate) kinds: Vec<Router>,
    pub(crate) pairs: Vec<Cell>,
}

/// One kind of router.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Router {
    pub(crate) name: &'static str,
    /// Options of network.sh.
    pub(crate) network: &'static str,
    /// A second router behind it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) outer: Option<&'static str>,
    /// What the product was told.
    pub(crate) model: Option<&'static str>,
}

/// One pair of kinds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Cell {
    pub(crate) a: &'static str,
    pub(crate) b: &'static str,
    pub(crate) oracle: Expectation,
    pub(crate) punch: Score,
    /// A loop of timed connect(), which is what there is without the product.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) connect: Option<Score>,
}

/// What the trials by one method came to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Score {
    pub(crate) tried: usize,
    pub(crate) connected: usize,
    /// From the instant until the later end had its descriptor, or from the second program's start
    /// until both had the other's byte; of the trials that connected.
    pub(crate) median_ms: Option<f64>,
    pub(crate) p95_ms: Option<f64>,
    /// The median of packets sent at a and at b; of all trials.
    pub(crate) packets: [f64; 2],
    /// Attempts that the machine was too busy for. They were repeated and do not count.
    pub(crate) not_ready: usize,
    /// From the instant until the later end had its descriptor, of each trial that connected.
    pub(crate) times_ms: Vec<f64>,
    /// The others.
    pub(crate) failures: Vec<Trial>,
}

impl From<&Kind> for Router {
    fn from(kind: &Kind) -> Self {
        Self { name: kind.name, network: kind.network, outer: kind.outer, model: kind.model }
    }
}

impl From<Trials> for Score {
    fn from(Trials { trials, not_ready }: Trials) -> Self {
        let times: Sample = trials.iter().filter_map(|trial| trial.fd_ms).collect();
        let some = |ms: f64| ms.is_finite().then_some(ms);
        let packets = |side: usize| {
            let sent: Sample = trials.iter().map(|it| it.packets[side] as f64).collect();
            if sent.len() == 0 { 0.0 } else { sent.median() }
        };
        Self {
            tried: trials.len(),
            connected: trials.iter().filter(|trial| trial.connected).count(),
            median_ms: some(times.median()),
            p95_ms: some(times.percentile(95)),
            packets: [packets(0), packets(1)],
            not_ready,
            times_ms: trials.iter().filter_map(|trial| trial.fd_ms).collect(),
            failures: trials.into_iter().filter(|trial| !trial.connected).collect(),
        }
    }
}

impl Score {
    /// The share that connected, in percent; `None` where nothing was tried.
    pub(crate) fn percent(&self) -> Option<f64> {
        (self.tried > 0).then(|| self.connected as f64 * 100.0 / self.tried as f64)
    }
}

impl Matrix {
    /// What an earlier run has written.
    pub(crate) fn read(path: &Path) -> Result<Self, Box<dyn Error>> {
        // Its words are those of constants, so it is read once and kept.
        let text: &'static str = fs::read_to_string(path)?.leak();
        Ok(serde_json::from_str(text)?)
    }

    /// Whether nobody was told an address.
    pub(crate) fn is_of_meetings(&self) -> bool {
        self.method == Told::Meet
    }

    /// All pairs that can be punched, in one line.
    pub(crate) fn words(&self) -> String {
        let possible = |cell: &&Cell| !matches!(cell.oracle, Expectation::Impossible { .. });
        let cells: Vec<_> = self.pairs.iter().filter(possible).collect();
        let whole = |scores: Vec<&Score>| {
            let all = scores.iter().filter(|score| score.connected == score.tried);
            let (tried, connected) = scores.iter().fold((0, 0), |(tried, connected), score| {
                (tried + score.tried, connected + score.connected)
            });
            format!("{connected} of {tried} trials, all of them in {} pairs", all.count())
        };
        let punch = cells.iter().map(|cell| &cell.punch).collect();
        let connect: Vec<&Score> = cells.iter().filter_map(|cell| cell.connect.as_ref()).collect();
        let mut words = format!(
            "{} pairs, {} possible. tcp-punch: {}",
            self.pairs.len(),
            cells.len(),
            whole(punch)
        );
        if !connect.is_empty() {
            words += &format!("; connect(): {}", whole(connect));
        }
        words
    }
}

impl Cell {
    /// Whether this is the pair of these kinds, either way round.
    pub(crate) fn is_of(&self, one: &str, other: &str) -> bool {
        (self.a, self.b) == (one, other) || (self.a, self.b) == (other, one)
    }
}
