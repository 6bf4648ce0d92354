//! What a search may cost the routers that carry it.

use std::fmt;
use std::str::FromStr;

/// What each end may spend; both must plan with the same.
///
/// As text: any of `packets=4000,entries=2000,rate=10000`; what is left out keeps its default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Packets in all: openers, SYNs and what completes the connection.
    pub packets: u32,
    /// Entries in the table of this end's router, each of which lives two minutes there.
    pub entries: u32,
    /// Packets a second.
    pub rate: u32,
}

impl Default for Budget {
    /// What a home router bears beside its other users: small ones hold 4,000 entries.
    fn default() -> Self {
        Self { packets: 4_000, entries: 2_000, rate: 10_000 }
    }
}

/// What completes a connection after its SYN: a SYN-ACK and an ACK.
pub(super) const ANSWERS: u32 = 2;

impl Budget {
    /// The tuples that it pays for: each costs an entry, an opener and a SYN.
    pub(super) fn tuples(&self) -> u32 {
        self.entries.min(self.packets.saturating_sub(ANSWERS) / 2)
    }

    /// The smallest budget of this rate that pays for so many tuples.
    pub(super) fn of_tuples(tuples: u32, rate: u32) -> Self {
        Self { packets: tuples.saturating_mul(2).saturating_add(ANSWERS), entries: tuples, rate }
    }
}

/// Why a text is no budget.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BudgetError {
    /// A part without a name or a value.
    #[error(
        "'{0}' is no part of a budget: write packets=4000,entries=2000,rate=10000 or some of it"
    )]
    NoValue(String),
    /// A name that a budget does not have.
    #[error("a budget has no '{0}', only packets, entries and rate")]
    Unknown(String),
    /// A value that is no number, or too large.
    #[error("'{value}' is no number of {name}")]
    NotNumber {
        /// Of what.
        name: &'static str,
        /// The text.
        value: String,
    },
    /// Nothing can be done with none of it.
    #[error("{0} must be at least 1")]
    Zero(&'static str),
    /// Which of the two is meant?
    #[error("{0} stands twice in the budget")]
    Twice(&'static str),
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "packets={},entries={},rate={}", self.packets, self.entries, self.rate)
    }
}

impl FromStr for Budget {
    type Err = BudgetError;

    fn from_str(text: &str) -> Result<Self, BudgetError> {
        let mut budget = Self::default();
        let mut parts = [("packets", None), ("entries", None), ("rate", None)];
        for part in text.split(',') {
            let (name, value) =
                part.split_once('=').ok_or_else(|| BudgetError::NoValue(part.trim().to_owned()))?;
            let (name, value) = (name.trim(), value.trim());
            let (name, number) = parts
                .iter_mut()
                .find(|(known, _)| *known == name)
                .ok_or_else(|| BudgetError::Unknown(name.to_owned()))?;
            let read: u32 = value
                .parse()
                .map_err(|_| BudgetError::NotNumber { name, value: value.to_owned() })?;
            if read == 0 {
                return Err(BudgetError::Zero(name));
            }
            if number.replace(read).is_some() {
                return Err(BudgetError::Twice(name));
            }
        }
        let [packets, entries, rate] = parts.map(|(_, number)| number);
        budget.packets = packets.unwrap_or(budget.packets);
        budget.entries = entries.unwrap_or(budget.entries);
        budget.rate = rate.unwrap_or(budget.rate);
        Ok(budget)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_part_may_be_left_out() {
        let default = Budget::default();
        for (text, budget) in [
            (
                "packets=9000,entries=4500,rate=500",
                Budget { packets: 9000, entries: 4500, rate: 500 },
            ),
            (" rate = 7 ", Budget { rate: 7, ..default }),
            ("entries=1,packets=4", Budget { packets: 4, entries: 1, ..default }),
        ] {
            assert_eq!(text.parse(), Ok(budget));
            assert_eq!(budget.to_string().parse(), Ok(budget));
        }
    }

    #[test]
    fn slips_are_named() {
        for (text, says) in [
            (
                "",
                "'' is no part of a budget: write packets=4000,entries=2000,rate=10000 or some of it",
            ),
            (
                "packets",
                "'packets' is no part of a budget: write packets=4000,entries=2000,rate=10000 or some of it",
            ),
            ("ports=3", "a budget has no 'ports', only packets, entries and rate"),
            ("packets=-1", "'-1' is no number of packets"),
            ("packets=5000000000", "'5000000000' is no number of packets"),
            ("rate=0", "rate must be at least 1"),
            ("rate=1,rate=2", "rate stands twice in the budget"),
        ] {
            assert_eq!(text.parse::<Budget>().map_err(|error| error.to_string()), Err(says.into()));
        }
    }

    #[test]
    fn what_pays_for_tuples_pays_for_no_more() {
        for tuples in [1, 7, 1999, 130_000] {
            assert_eq!(Budget::of_tuples(tuples, 9).tuples(), tuples);
        }
        assert_eq!(Budget { packets: 3, ..Budget::default() }.tuples(), 0);
        assert_eq!(Budget { packets: 4, ..Budget::default() }.tuples(), 1);
    }
}
