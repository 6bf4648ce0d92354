//! A port model between two clocks.

use super::clock::{ClockEstimate, ServerTime};
use super::report::shortened;
use crate::nat::{PortModel, PortPool, Sequence};
use crate::wire::WallTime;
use std::fmt;

/// A port model whose times are the server's: for a peer, which has another clock.
#[derive(Clone, Debug, PartialEq)]
pub struct SharedModel(PortModel);

/// In bytes. The port sets of a MAP-E domain (RFC 7597) take a few hundred.
const LONGEST: usize = 2_000;
/// As much of a complaint as a person reads.
const LONGEST_COMPLAINT: usize = 200;

impl ClockEstimate {
    /// A model for a peer: its times become the server's. A pool of so many pieces that its text
    /// would not travel becomes the range around them.
    pub fn shared(&self, model: &PortModel) -> SharedModel {
        // A model's text has no times before 1970.
        let server = |at| WallTime::from_unix_ns(self.to_server(at).unix_ns().max(0));
        let model = timed(model.clone(), server);
        let fits = model.to_string().len() <= LONGEST;
        SharedModel(if fits { model } else { coarse(model) })
    }

    /// A shared model for ourselves: its times become ours.
    pub fn local(&self, model: &SharedModel) -> PortModel {
        timed(model.0.clone(), |at| self.to_local(ServerTime::from_unix_ns(at.unix_ns())))
    }
}

impl SharedModel {
    /// As the peer wrote it; otherwise what is wrong with it.
    pub(super) fn from_text(text: &str) -> Result<Self, String> {
        // It is quoted in what is said of it: nothing there may steer a terminal.
        let plain = text.bytes().all(|byte| byte.is_ascii_graphic());
        if text.len() > LONGEST || !plain {
            return Err("not the text of one".to_owned());
        }
        let model = text.parse::<PortModel>();
        model.map(Self).map_err(|why| shortened(&why.to_string(), LONGEST_COMPLAINT))
    }

    /// Whether the router keeps one known port: nothing has to be predicted.
    pub fn is_certain(&self) -> bool {
        matches!(self.0, PortModel::Preserving | PortModel::Stable)
    }
}

/// As [`PortModel`] is written, with times of the server.
impl fmt::Display for SharedModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

fn timed(mut model: PortModel, to: impl FnOnce(WallTime) -> WallTime) -> PortModel {
    if let PortModel::Sequential(Sequence { at, .. }) = &mut model {
        *at = at.map(to);
    }
    model
}

fn coarse(model: PortModel) -> PortModel {
    let around = |pool: &PortPool| {
        PortPool::range(pool.nth(0), pool.nth(pool.size() - 1)).unwrap_or_default()
    };
    match model {
        PortModel::Sequential(sequence) => {
            let pool = around(&sequence.pool);
            // A step by whole rounds of the wider pool would stand still.
            if u32::from(sequence.step.unsigned_abs()) % pool.size() == 0 {
                return PortModel::Random(pool);
            }
            PortModel::Sequential(Sequence { pool, ..sequence })
        }
        PortModel::Parity(pool) => PortModel::Parity(around(&pool)),
        PortModel::Random(pool) => PortModel::Random(around(&pool)),
        PortModel::StableRandom(pool) => PortModel::StableRandom(around(&pool)),
        PortModel::Preserving | PortModel::Stable | PortModel::LinuxRandom => model,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn clock(offset_ns: i64) -> ClockEstimate {
        ClockEstimate {
            offset_ns,
            bound: Duration::ZERO,
            likely: Duration::ZERO,
            round_trip: Duration::ZERO,
            at: WallTime::from_unix_ns(0),
        }
    }

    #[test]
    fn a_model_travels_in_the_servers_time() {
        let (ours, theirs) = (clock(300_000_000), clock(-500_000_000));
        let model: PortModel =
            "sequential:next=40001,step=1,rate=0.3,at=1795258800.123456789".parse().unwrap();
        let shared = ours.shared(&model);
        assert!(shared.to_string().ends_with("at=1795258800.423456789"), "{shared}");
        assert_eq!(ours.local(&shared), model);
        let PortModel::Sequential(there) = theirs.local(&shared) else { panic!() };
        assert_eq!(there.at, Some(WallTime::from_unix_ns(1_795_258_800_923_456_789)));
        assert_eq!(theirs.local(&ours.shared(&PortModel::LinuxRandom)), PortModel::LinuxRandom);
    }

    #[test]
    fn a_pool_in_too_many_pieces_becomes_one_piece() {
        let odd = PortPool::new((0..1000).map(|n| 2001 + 2 * n..=2001 + 2 * n)).unwrap();
        for (model, travels) in [
            (PortModel::Random(odd.clone()), "random:2001-3999"),
            (PortModel::StableRandom(odd.clone()), "stable-random:2001-3999"),
            (
                PortModel::Sequential(Sequence {
                    next: 2003,
                    at: None,
                    step: 1,
                    rate: 0.0,
                    counted_s: None,
                    pool: odd.clone(),
                }),
                "sequential:next=2003,step=1,rate=0,pool=2001-3999",
            ),
            (
                PortModel::Sequential(Sequence {
                    next: 2003,
                    at: None,
                    step: 1999,
                    rate: 0.0,
                    counted_s: None,
                    pool: odd,
                }),
                "random:2001-3999",
            ),
        ] {
            let shared = clock(0).shared(&model);
            assert_eq!(shared.to_string(), travels);
            assert_eq!(SharedModel::from_text(travels), Ok(shared));
        }
    }

    #[test]
    fn what_is_no_model_is_said_without_harm() {
        let error = |text: &str| SharedModel::from_text(text).unwrap_err();
        assert!(error("symmetric").contains("'symmetric' is no port model"));
        assert_eq!(error("\u{1b}[2Jrandom"), "not the text of one");
        assert_eq!(error(&"x".repeat(LONGEST + 1)), "not the text of one");
        assert!(error(&"x".repeat(LONGEST)).len() <= LONGEST_COMPLAINT);
    }
}
