//! `--strategy` and `--spread`: what is raced.

use super::Failure;
use crate::engine::Punch;
use crate::punch::{Strategies, StrategyError};

/// Reads a list of strategies for an end that has a key or has none.
///
/// # Errors
/// A usage failure for an unknown name, or one that needs the key that is missing.
pub fn strategies(text: &str, key: bool) -> Result<Strategies, Failure> {
    let parsed = text.parse::<Strategies>();
    parsed.and_then(|strategies| strategies.check(key).map(|()| strategies)).map_err(|error| {
        let todo = match &error {
            StrategyError::Unknown(_) => "write auto, or any of syn, syn-ack, mid-stream",
            StrategyError::NeedsKey(_) => "give both sides the same secret with --key",
        };
        Failure::usage(format!("--strategy: {error}"), todo)
    })
}

/// Reads how many ports are punched at once.
///
/// # Errors
/// A usage failure for what is no number from 1 to [`Punch::WIDEST_SPREAD`].
pub fn spread(text: &str) -> Result<u16, Failure> {
    match text.parse() {
        Ok(ports @ 1..=Punch::WIDEST_SPREAD) => Ok(ports),
        _ => Err(Failure::usage(
            format!("--spread \"{text}\" is no number of ports"),
            format!("write a number from 1 to {}", Punch::WIDEST_SPREAD),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_a_key_says_so() {
        assert!(strategies("auto", false).is_ok());
        assert!(strategies("syn,mid-stream", true).is_ok());
        let failure = strategies("mid-stream", false).unwrap_err();
        assert!(failure.happened.starts_with("--strategy: strategy mid-stream needs a key"));
        assert!(strategies("", true).is_err());
    }

    #[test]
    fn a_spread_is_a_small_number() {
        assert_eq!(spread("64"), Ok(64));
        for wrong in ["0", "65", "-1", "", "x"] {
            assert!(spread(wrong).is_err(), "{wrong}");
        }
    }
}
