//! How a router numbers its mappings: what of it both ends have to know to meet.

mod text;

pub use text::ModelError;

use super::pool::PortPool;
use crate::wire::WallTime;

/// How a router chooses external ports, in the words of RFC 4787 section 4.
///
/// As text, for options and files (units: ports, mappings a second):
///
/// | text | model |
/// |---|---|
/// | `preserving` | the external port is the internal one, for every destination |
/// | `stable` | one external port for every destination (endpoint-independent); which, is said by the address that the peer is given |
/// | `sequential:next=40001,step=1,rate=50,at=1795258800.5` | each mapping gets the port of the one before plus `step`; others take `rate` a second; `next` was next at Unix time `at` (absent: at the instant) |
/// | `sequential:next=40001,rate=50,counted=0.2` | likewise, the rate being what was counted in 0.2 s (absent: it is known) |
/// | `sequential:next=1024,pool=1024-2047+4096-5119` | the counter goes round in a pool, whose ranges are parted by `+` |
/// | `parity:1024-65535` | random, even for even internal ports and odd for odd ones |
/// | `random:1024-65535` | random over a pool for each destination; a port block or a MAP-E port set is a small pool |
/// | `stable-random:1024-65535` | random over a pool, but one for every destination |
/// | `linux-random` | netfilter's `--random` and `--random-fully`: the pool follows from the internal port |
///
/// Left out, `step` is 1, `rate` 0 and a pool 1024-65535.
#[derive(Clone, Debug, PartialEq)]
pub enum PortModel {
    /// The external port is the internal one.
    Preserving,
    /// One known external port per internal endpoint, whatever the destination.
    Stable,
    /// Each new mapping gets the next port.
    Sequential(Sequence),
    /// Random, of the internal port's parity, for each destination anew.
    Parity(PortPool),
    /// Random over a pool, for each destination anew.
    Random(PortPool),
    /// One unknown port of a pool per internal endpoint, whatever the destination.
    StableRandom(PortPool),
    /// netfilter's random allocation: source ports below 512 map into 1–511, those from 512 to
    /// 1023 into 600–1023, all others into 1024–65535 (nf_nat_core.c).
    LinuxRandom,
}

/// A counter that hands out ports.
#[derive(Clone, Debug, PartialEq)]
pub struct Sequence {
    /// The port of the next mapping…
    pub next: u16,
    /// …at this time; `None`: at the instant of the punch.
    pub at: Option<WallTime>,
    /// From one mapping to the next, in places of the pool; never 0.
    pub step: i16,
    /// Mappings that others make, a second: a Poisson process.
    pub rate: f64,
    /// The rate was counted for so many seconds, so that it is an estimate: gamma-distributed with
    /// shape `rate * counted_s`. `None`: it is known.
    pub counted_s: Option<f64>,
    /// The counter goes round in it.
    pub pool: PortPool,
}
