//! On what the figures were measured.

use std::fmt;
use std::fs;
use std::thread;

use serde::{Deserialize, Serialize};

/// The machine and how busy it was.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) kernel: String,
    /// Runnable processes on average over the minute before the run: others' work is noise.
    pub(crate) load_before: String,
    pub(crate) version: &'static str,
}

impl Machine {
    pub(crate) fn here() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let processor = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
            .map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned());
        let loadavg = read("/proc/loadavg");
        Self {
            processor,
            cores: thread::available_parallelism().map_or(1, usize::from),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load_before: loadavg.split(' ').next().unwrap_or_default().to_owned(),
            version: env!("CARGO_PKG_VERSION"),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { processor, cores, kernel, load_before, version } = self;
        write!(
            f,
            "tcp-punch {version} on Linux {kernel}, {processor}, {cores} cores, load {load_before} before"
        )
    }
}
