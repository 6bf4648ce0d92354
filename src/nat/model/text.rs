//! Port models as text, for options, files and messages.

use std::fmt;
use std::str::FromStr;

use super::{PortModel, Sequence};
use crate::nat::pool::{PoolError, PortPool};
use crate::wire::WallTime;

/// Why a text is no port model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// No model of this name.
    #[error(
        "'{0}' is no port model; known are preserving, stable, sequential, parity, random, \
         stable-random and linux-random"
    )]
    UnknownKind(String),
    /// A kind that is complete as it is was given more.
    #[error("'{kind}' takes nothing after it, but got '{rest}'")]
    TakesNothing {
        /// The kind.
        kind: &'static str,
        /// What came after the colon.
        rest: String,
    },
    /// Not `key=value`.
    #[error("'{0}' is not of the form key=value")]
    NotKeyValue(String),
    /// A key that a sequence does not have.
    #[error("a sequential model has no '{0}'; it has next, step, rate, counted, at and pool")]
    UnknownKey(String),
    /// A key came twice.
    #[error("'{0}' is given twice")]
    DuplicateKey(String),
    /// A sequence without its `next`.
    #[error("a sequential model needs next=PORT")]
    NextMissing,
    /// A value that is no number, or out of its range.
    #[error("{key}={value}: it has to be {wanted}")]
    Value {
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What it should have been.
        wanted: &'static str,
    },
    /// The next port can never be handed out.
    #[error("next={next} is not in the pool {pool}")]
    NextOutsidePool {
        /// The port.
        next: u16,
        /// The pool.
        pool: PortPool,
    },
    /// A step by whole rounds of the pool.
    #[error("step={step} goes round a pool of {size} and never leaves its port")]
    StandsStill {
        /// The step.
        step: i16,
        /// Ports in the pool.
        size: u32,
    },
    /// A pool with even or odd ports only.
    #[error("parity needs even and odd ports, but the pool {0} has one kind only")]
    OneParity(PortPool),
    /// The pool is none.
    #[error("the pool '{text}': {reason}")]
    Pool {
        /// What was given.
        text: String,
        /// What is wrong with it.
        reason: PoolError,
    },
    /// Nothing but comments.
    #[error("the file has no port model")]
    EmptyFile,
    /// More than one line.
    #[error("line {0}: the file has a port model already")]
    SecondModel(usize),
}

impl PortModel {
    /// The model in a file: one line as in the table above; `#` begins a comment.
    ///
    /// # Errors
    /// [`ModelError`].
    pub fn from_file_text(text: &str) -> Result<Self, ModelError> {
        let mut model = None;
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.split('#').next().unwrap_or("").trim();
            if line.is_empty() {
                continue;
            }
            if model.is_some() {
                return Err(ModelError::SecondModel(number));
            }
            model = Some(line.parse()?);
        }
        model.ok_or(ModelError::EmptyFile)
    }
}

impl FromStr for PortModel {
    type Err = ModelError;

    fn from_str(text: &str) -> Result<Self, ModelError> {
        let text = text.trim();
        let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
        let rest = rest.trim();
        let alone = |kind, model| match rest {
            "" => Ok(model),
            _ => Err(ModelError::TakesNothing { kind, rest: rest.to_owned() }),
        };
        match kind.trim() {
            "preserving" => alone("preserving", Self::Preserving),
            "stable" => alone("stable", Self::Stable),
            "linux-random" => alone("linux-random", Self::LinuxRandom),
            "sequential" => rest.parse().map(Self::Sequential),
            "parity" => {
                let pool = pool_after_colon(rest)?;
                let odd = pool.iter().filter(|port| port % 2 == 1).count();
                if odd == 0 || odd == pool.size() as usize {
                    return Err(ModelError::OneParity(pool));
                }
                Ok(Self::Parity(pool))
            }
            "random" => pool_after_colon(rest).map(Self::Random),
            "stable-random" => pool_after_colon(rest).map(Self::StableRandom),
            other => Err(ModelError::UnknownKind(other.to_owned())),
        }
    }
}

impl FromStr for Sequence {
    type Err = ModelError;

    fn from_str(text: &str) -> Result<Self, ModelError> {
        let (mut next, mut step, mut rate, mut at, mut pool) = (None, None, None, None, None);
        let mut counted_s = None;
        for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
            let (key, value) =
                pair.split_once('=').ok_or_else(|| ModelError::NotKeyValue(pair.to_owned()))?;
            let (key, value) = (key.trim(), value.trim());
            let fresh = match key {
                "next" => next.replace(port(value)?).is_none(),
                "step" => step.replace(step_of(value)?).is_none(),
                "rate" => rate.replace(rate_of(value)?).is_none(),
                "counted" => counted_s.replace(counted(value)?).is_none(),
                "at" => at.replace(time(value)?).is_none(),
                "pool" => pool.replace(parse_pool(&value.replace('+', ","))?).is_none(),
                _ => return Err(ModelError::UnknownKey(key.to_owned())),
            };
            if !fresh {
                return Err(ModelError::DuplicateKey(key.to_owned()));
            }
        }
        let next = next.ok_or(ModelError::NextMissing)?;
        let (step, rate) = (step.unwrap_or(1), rate.unwrap_or(0.0));
        let pool = pool.unwrap_or_default();
        if !pool.contains(next) {
            return Err(ModelError::NextOutsidePool { next, pool });
        }
        if u32::from(step.unsigned_abs()) % pool.size() == 0 {
            return Err(ModelError::StandsStill { step, size: pool.size() });
        }
        Ok(Self { next, at, step, rate, counted_s, pool })
    }
}

fn pool_after_colon(text: &str) -> Result<PortPool, ModelError> {
    if text.is_empty() { Ok(PortPool::default()) } else { parse_pool(text) }
}

fn parse_pool(text: &str) -> Result<PortPool, ModelError> {
    text.parse().map_err(|reason| ModelError::Pool { text: text.to_owned(), reason })
}

fn wrong(key: &'static str, value: &str, wanted: &'static str) -> ModelError {
    ModelError::Value { key, value: value.to_owned(), wanted }
}

fn port(value: &str) -> Result<u16, ModelError> {
    match value.parse() {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(wrong("next", value, "a port from 1 to 65535")),
    }
}

fn step_of(value: &str) -> Result<i16, ModelError> {
    match value.parse() {
        Ok(step) if step != 0 => Ok(step),
        _ => Err(wrong("step", value, "a whole number from -32768 to 32767, but not 0")),
    }
}

fn rate_of(value: &str) -> Result<f64, ModelError> {
    match value.parse::<f64>() {
        Ok(rate) if rate >= 0.0 && rate.is_finite() => Ok(rate.abs()),
        _ => Err(wrong("rate", value, "mappings a second, 0 or more")),
    }
}

fn counted(value: &str) -> Result<f64, ModelError> {
    match value.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds.is_finite() => Ok(seconds),
        _ => Err(wrong("counted", value, "seconds, more than 0")),
    }
}

/// Seconds since 1970 in decimal, exact: a binary fraction would lose the nanoseconds.
fn time(value: &str) -> Result<WallTime, ModelError> {
    let wanted = "Unix time in seconds, with at most nine places after the point";
    let (seconds, fraction) = value.split_once('.').unwrap_or((value, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(seconds) || !digits(fraction) || fraction.len() > 9 {
        return Err(wrong("at", value, wanted));
    }
    let ns = || {
        let seconds: i64 = seconds.parse().ok()?;
        let fraction: i64 = format!("{fraction:0<9}").parse().ok()?;
        seconds.checked_mul(1_000_000_000)?.checked_add(fraction)
    };
    ns().map(WallTime::from_unix_ns).ok_or_else(|| wrong("at", value, wanted))
}

impl fmt::Display for PortModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Preserving => f.write_str("preserving"),
            Self::Stable => f.write_str("stable"),
            Self::Sequential(sequence) => write!(f, "sequential:{sequence}"),
            Self::Parity(pool) => write!(f, "parity:{pool}"),
            Self::Random(pool) => write!(f, "random:{pool}"),
            Self::StableRandom(pool) => write!(f, "stable-random:{pool}"),
            Self::LinuxRandom => f.write_str("linux-random"),
        }
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "next={},step={},rate={}", self.next, self.step, self.rate)?;
        if let Some(seconds) = self.counted_s {
            write!(f, ",counted={seconds}")?;
        }
        if let Some(at) = self.at {
            write!(f, ",at={}", at.to_string().trim_end_matches('0').trim_end_matches('.'))?;
        }
        if self.pool != PortPool::default() {
            write!(f, ",pool={}", self.pool.to_string().replace(',', "+"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn error(text: &str) -> ModelError {
        text.parse::<PortModel>().unwrap_err()
    }

    #[test]
    fn what_is_written_as_in_the_table_comes_back_as_it_was() {
        for text in [
            "preserving",
            "stable",
            "linux-random",
            "sequential:next=40001,step=1,rate=50,at=1795258800.5",
            "sequential:next=4096,step=-2,rate=0.25,pool=1024-2047+4096-5119",
            "parity:1024-65535",
            "random:4096-4111,8192-8207",
            "stable-random:40000",
        ] {
            assert_eq!(text.parse::<PortModel>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_left_out_has_a_default() {
        for (short, long) in [
            ("sequential:next=2000", "sequential:next=2000,step=1,rate=0,pool=1024-65535"),
            ("random", "random:1024-65535"),
            ("parity:", "parity:1024-65535"),
            (" stable-random ", "stable-random:1024-65535"),
            ("stable:", "stable"),
        ] {
            assert_eq!(short.parse::<PortModel>(), long.parse(), "{short}");
        }
    }

    #[test]
    fn a_contradiction_says_what_it_is() {
        for (text, said) in [
            ("", "'' is no port model"),
            ("symmetric", "'symmetric' is no port model"),
            ("preserving:1024-65535", "takes nothing after it, but got '1024-65535'"),
            ("sequential", "needs next=PORT"),
            ("sequential:step=1", "needs next=PORT"),
            ("sequential:next=0", "next=0: it has to be a port"),
            ("sequential:next=65536", "next=65536"),
            ("sequential:next=80", "next=80 is not in the pool 1024-65535"),
            (
                "sequential:next=3000,pool=1024-2047+4096-5119",
                "not in the pool 1024-2047,4096-5119",
            ),
            ("sequential:next=2000,step=0", "step=0: it has to be"),
            ("sequential:next=2000,step=1.5", "step=1.5"),
            ("sequential:next=2000,step=10,pool=2000-2004", "step=10 goes round a pool of 5"),
            ("sequential:next=2000,rate=-1", "rate=-1: it has to be"),
            ("sequential:next=2000,rate=9,counted=0", "counted=0: it has to be"),
            ("sequential:next=2000,rate=NaN", "rate=NaN"),
            ("sequential:next=2000,rate=inf", "rate=inf"),
            ("sequential:next=2000,at=now", "at=now: it has to be Unix time"),
            ("sequential:next=2000,at=-1", "at=-1"),
            ("sequential:next=2000,at=1.0000000001", "at most nine places"),
            ("sequential:next=2000,at=9999999999999", "at=9999999999999"),
            ("sequential:next=2000,next=2001", "'next' is given twice"),
            ("sequential:next=2000,skip=1", "has no 'skip'"),
            ("sequential:next=2000,fast", "'fast' is not of the form key=value"),
            ("sequential:next=2000,pool=", "the pool '': a pool needs at least one port"),
            ("random:,", "the pool ',': a pool needs at least one port"),
            ("random:9-1", "ends before it begins"),
            ("random:next=1", "'next=1' is not a port"),
            ("parity:2000,2002", "the pool 2000,2002 has one kind only"),
        ] {
            let message = error(text).to_string();
            assert!(message.contains(said), "{text}: {message}");
        }
    }

    #[test]
    fn a_file_holds_one_model_and_comments() {
        let file = "# measured on Sunday\n\n  random:1024-2047 # one block\n";
        assert_eq!(PortModel::from_file_text(file), "random:1024-2047".parse());
        assert_eq!(PortModel::from_file_text("# nothing\n"), Err(ModelError::EmptyFile));
        assert_eq!(
            PortModel::from_file_text("stable\n\npreserving\n"),
            Err(ModelError::SecondModel(3))
        );
    }

    fn models() -> impl Strategy<Value = PortModel> {
        let pool = prop::collection::vec((1..=u16::MAX, 1..500_u16), 1..5).prop_map(|ranges| {
            PortPool::new(ranges.into_iter().map(|(lo, n)| lo..=lo.saturating_add(n))).unwrap()
        });
        let sequence = (
            pool.clone(),
            any::<u32>(),
            prop::option::of(0..i64::MAX),
            prop_oneof![Just(1_i16), any::<i16>()],
            0.0..1e6,
            prop::option::of(1e-3..1e6),
        );
        let sequence = sequence.prop_map(|(pool, place, at, step, rate, counted_s)| Sequence {
            next: pool.nth(place),
            at: at.map(WallTime::from_unix_ns),
            step: if u32::from(step.unsigned_abs()) % pool.size() == 0 { 1 } else { step },
            rate,
            counted_s,
            pool,
        });
        prop_oneof![
            Just(PortModel::Preserving),
            Just(PortModel::Stable),
            Just(PortModel::LinuxRandom),
            sequence
                .prop_filter("stands still", |sequence| sequence.pool.size() > 1)
                .prop_map(PortModel::Sequential),
            pool.clone()
                .prop_filter("one parity", |pool| pool.size() > 1)
                .prop_map(PortModel::Parity),
            pool.clone().prop_map(PortModel::Random),
            pool.prop_map(PortModel::StableRandom),
        ]
    }

    proptest! {
        #[test]
        fn every_model_survives_being_written(model in models()) {
            prop_assert_eq!(model.to_string().parse(), Ok(model));
        }

        #[test]
        fn no_text_panics(text in "(sequential:|random:|parity:)?[a-z0-9=,+.:#-]{0,40}") {
            let _ = text.parse::<PortModel>();
            let _ = PortModel::from_file_text(&text);
        }
    }
}
