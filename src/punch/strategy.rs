//! The ways to meet, as data.

use std::fmt;
use std::str::FromStr;

/// One way to meet through two routers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Strategy {
    /// SYNs cross, after openers.
    Syn,
    /// And if no SYN comes in: each end sends the SYN-ACK for the SYN that it never saw. Passes
    /// routers that let no SYN in but have noticed it.
    SynAck,
    /// No SYN at all: ACKs of an agreed connection cross, and the routers pick it up mid-stream.
    MidStream,
}

/// What sets one strategy apart from the other.
#[derive(Clone, Copy, Debug)]
pub struct Traits {
    /// As on the command line.
    pub name: &'static str,
    /// Whether both ends have to know both initial sequence numbers beforehand.
    pub needs_key: bool,
    /// What leaves at the instant, and dies on the way as opener.
    pub first: First,
    /// Whether the SYN-ACK follows unasked when no SYN comes in.
    pub speculates: bool,
    /// Whether it needs a tuple of its own: netfilter takes an ACK that follows a SYN for invalid.
    pub own_tuple: bool,
}

/// The first segment of a strategy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum First {
    /// A SYN.
    Syn,
    /// An ACK one below the window, as a keepalive probe is.
    Probe,
}

impl Strategy {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Syn, Self::SynAck, Self::MidStream];

    /// Its row of the table.
    pub const fn traits(self) -> Traits {
        let (syn, probe) = (First::Syn, First::Probe);
        let (name, needs_key, first, speculates, own_tuple) = match self {
            Self::Syn => ("syn", false, syn, false, false),
            Self::SynAck => ("syn-ack", true, syn, true, false),
            Self::MidStream => ("mid-stream", true, probe, false, true),
        };
        Traits { name, needs_key, first, speculates, own_tuple }
    }
}

/// Which strategies an attempt races.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Strategies {
    /// All that can be: every one with a key, `syn` without.
    #[default]
    Auto,
    /// These.
    Only {
        /// [`Strategy::Syn`].
        syn: bool,
        /// [`Strategy::SynAck`].
        syn_ack: bool,
        /// [`Strategy::MidStream`].
        mid_stream: bool,
    },
}

/// Why a list of strategies cannot be raced.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StrategyError {
    /// No such strategy.
    #[error("there is no strategy '{0}'")]
    Unknown(String),
    /// It works by numbers that only a key tells both ends.
    #[error("strategy {} needs a key: both ends have to know both sequence numbers beforehand", .0)]
    NeedsKey(Strategy),
}

impl Strategies {
    /// Whether `strategy` is raced by an end that has a key or has none.
    pub fn includes(self, strategy: Strategy, key: bool) -> bool {
        match self {
            Self::Auto => key || !strategy.traits().needs_key,
            Self::Only { syn, syn_ack, mid_stream } => match strategy {
                Strategy::Syn => syn,
                Strategy::SynAck => syn_ack,
                Strategy::MidStream => mid_stream,
            },
        }
    }

    /// Checks that an end without a key can do what was asked of it.
    ///
    /// # Errors
    /// [`StrategyError::NeedsKey`].
    pub fn check(self, key: bool) -> Result<(), StrategyError> {
        let asked = |strategy: &Strategy| self.includes(*strategy, key);
        match Strategy::ALL.into_iter().filter(asked).find(|one| one.traits().needs_key && !key) {
            Some(strategy) => Err(StrategyError::NeedsKey(strategy)),
            None => Ok(()),
        }
    }
}

impl FromStr for Strategies {
    type Err = StrategyError;

    /// `auto`, or names with commas between them.
    fn from_str(text: &str) -> Result<Self, StrategyError> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let mut named = [false; Strategy::ALL.len()];
        for name in text.split(',').map(str::trim) {
            let place = Strategy::ALL.iter().position(|strategy| strategy.traits().name == name);
            let place = place.ok_or_else(|| StrategyError::Unknown(name.to_owned()))?;
            named[place] = true;
        }
        let [syn, syn_ack, mid_stream] = named;
        Ok(Self::Only { syn, syn_ack, mid_stream })
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.traits().name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_races_what_the_ends_can_do() {
        let auto: Strategies = "auto".parse().unwrap();
        assert!(Strategy::ALL.into_iter().all(|strategy| auto.includes(strategy, true)));
        assert!(auto.includes(Strategy::Syn, false));
        assert!(!auto.includes(Strategy::MidStream, false));
        assert_eq!(auto.check(false), Ok(()));
    }

    #[test]
    fn a_list_is_taken_at_its_word() {
        let list: Strategies = "syn, mid-stream".parse().unwrap();
        assert!(!list.includes(Strategy::SynAck, true));
        assert_eq!(list.check(true), Ok(()));
        assert_eq!(list.check(false), Err(StrategyError::NeedsKey(Strategy::MidStream)));
        assert_eq!("sym".parse::<Strategies>(), Err(StrategyError::Unknown("sym".into())));
    }
}
