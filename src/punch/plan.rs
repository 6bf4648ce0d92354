//! What both ends send to meet, decided before a packet is sent.
//!
//! Each end opens all of its tuples towards its own router before the instant, with SYNs that die
//! on the way, and from the instant sends SYNs on the same tuples. Two tuples match if each one's
//! external port is the port that the other one goes to.

mod allocation;
mod budget;
mod chance;
mod counted;
mod course;
mod shape;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

pub use budget::{Budget, BudgetError};

use crate::nat::{PortModel, PortPool};
use crate::wire::WallTime;
use budget::ANSWERS;
use shape::shape;
use std::time::Duration;

/// What one end brings: its router's port model and, where that has one known external port for
/// all destinations, this port.
#[derive(Clone, Debug, PartialEq)]
pub struct End {
    /// How the router numbers its mappings.
    pub model: PortModel,
    /// With [`PortModel::Preserving`] and [`PortModel::Stable`] the external port that the peer
    /// was told; otherwise without meaning.
    pub port: u16,
}

/// The source ports that an end sends from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sources {
    /// The one that our router maps to this external port: the same number with
    /// [`PortModel::Preserving`].
    Exactly(u16),
    /// So many free ports of a pool; which, does not matter to the peer.
    Any {
        /// How many.
        count: u16,
        /// The first free ones of these.
        of: PortPool,
    },
}

impl Sources {
    /// How many they are.
    pub fn count(&self) -> u16 {
        match self {
            Self::Exactly(_) => 1,
            Self::Any { count, .. } => *count,
        }
    }
}

/// What this end sends, and what it is worth. The peer's plan from the same inputs is the other
/// half of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// From these ports, each of them to every target.
    pub sources: Sources,
    /// Ports of the peer, most probable first.
    pub targets: Vec<u16>,
    /// The probability that at least one pair matches, if the models are true and nothing is lost.
    pub chance: f64,
    /// How many pairs match on average.
    pub expected_matches: f64,
    fires: bool,
    peer_len: u32,
    inputs: Inputs,
}

#[derive(Clone, Debug, PartialEq)]
struct Inputs {
    ours: End,
    theirs: End,
    budget: Budget,
    opened_at: WallTime,
}

/// Why there is no plan at all. A plan with a poor chance is one.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PlanError {
    /// Not one tuple.
    #[error(
        "the budget {0} does not pay for one tuple: that takes 4 packets, 1 entry, and a rate above 0"
    )]
    BudgetTooSmall(Budget),
    /// Preserving or stable, but at which port?
    #[error("a router that keeps one external port is planned with this port, which is missing")]
    NoPort,
    /// Nothing sequential about it.
    #[error("a sequential router needs a step other than 0")]
    NoStep,
    /// Not a rate of a Poisson process.
    #[error("others cannot make {0} mappings a second")]
    Rate(f64),
    /// A counter outside of its own pool.
    #[error("a sequential router's next port {0} is not in its pool {1}")]
    Outside(u16, String),
}

/// No advice beyond so many tuples: four times what a router's table usually holds (nf_conntrack's
/// default is 262,144 entries).
const MOST_TUPLES: u32 = 1 << 20;

impl Plan {
    /// The best plan inside the budget for openers of which the last leaves at `opened_at`.
    ///
    /// # Errors
    /// [`PlanError`] for contradictory models and for budgets below a single tuple.
    pub fn new(
        ours: &End,
        theirs: &End,
        budget: &Budget,
        opened_at: WallTime,
    ) -> Result<Self, PlanError> {
        let shape = shape(ours, theirs, budget, opened_at)?;
        let count = u16::try_from(shape.ours.sources).unwrap_or(u16::MAX);
        Ok(Self {
            sources: Sources::of(ours, count)?,
            targets: shape.ours.targets,
            chance: shape.chance,
            expected_matches: shape.expected,
            fires: shape.fires,
            peer_len: shape.theirs.tuples(),
            inputs: Inputs {
                ours: ours.clone(),
                theirs: theirs.clone(),
                budget: *budget,
                opened_at,
            },
        })
    }

    /// Tuples, of which each makes one mapping.
    #[expect(clippy::len_without_is_empty, reason = "it never is")]
    pub fn len(&self) -> u32 {
        let targets = u32::try_from(self.targets.len()).unwrap_or(u32::MAX);
        u32::from(self.sources.count()).saturating_mul(targets)
    }

    /// Tuples of the peer's plan.
    pub fn peer_len(&self) -> u32 {
        self.peer_len
    }

    /// The tuple opened as number `nth`, counted from 0: the place of its source port and the
    /// peer's port. All sources to one target come first, then the next target; sequential
    /// routers are planned for in this order.
    pub fn tuple(&self, nth: u32) -> (u16, u16) {
        let sources = u32::from(self.sources.count());
        let target = self.targets[(nth / sources) as usize % self.targets.len()];
        (u16::try_from(nth % sources).unwrap_or(0), target)
    }

    /// Packets that this end sends: an opener for each tuple, a SYN if it fires, and answers.
    pub fn packets(&self) -> u32 {
        self.len() * (1 + u32::from(self.fires)) + ANSWERS
    }

    /// How long the openers take at the budget's rate, and the SYNs again.
    pub fn opening_takes(&self) -> Duration {
        Duration::from_secs_f64(f64::from(self.len()) / f64::from(self.inputs.budget.rate))
    }

    /// When the first opener leaves.
    pub fn opens_at(&self) -> WallTime {
        self.inputs.opened_at.before(self.opening_takes())
    }

    /// Whether this end sends SYNs from the instant on. Both do, except in searches of more than
    /// 10,000 tuples: there the one with fewer tuples does, or with as many the one whose model
    /// comes first; its SYN passes the peer's router where an opener of the peer's has made a
    /// matching mapping. Equal ends cannot be told apart, and both fire.
    pub fn fires(&self) -> bool {
        self.fires
    }

    /// The smallest budget, of the same rate, that would reach this chance.
    pub fn needed(&self, target: f64) -> Option<Budget> {
        let Inputs { ours, theirs, budget, opened_at } = &self.inputs;
        let reaches = |tuples: u32| {
            let budget = Budget::of_tuples(tuples, budget.rate);
            shape(ours, theirs, &budget, *opened_at).is_ok_and(|shape| shape.chance >= target)
        };
        let mut enough = 1;
        while !reaches(enough) {
            enough *= 2;
            if enough > MOST_TUPLES {
                return None;
            }
        }
        let mut short = enough / 2;
        // To one part in a hundred: nobody types more digits.
        while enough - short > (enough / 100).max(1) {
            let middle = short.midpoint(enough);
            if reaches(middle) { enough = middle } else { short = middle }
        }
        // Rounded up to what is easily typed, if the chance is not worse for it.
        let rounded = round_up(enough, 2);
        let tuples = if reaches(rounded) { rounded } else { enough };
        let budget = Budget::of_tuples(tuples, budget.rate);
        Some(Budget { packets: round_up(budget.packets, 3), ..budget })
    }

    /// In words: `1,696 tuples from 4 source ports to 424 ports of the peer; 16.0 pairs expected
    /// to match, chance 99.99 %`.
    pub fn words(&self) -> String {
        let many = |count: u32, noun: &str| {
            let plural = if count == 1 { "" } else { "s" };
            format!("{} {noun}{plural}", thousands(count))
        };
        let targets = u32::try_from(self.targets.len()).unwrap_or(u32::MAX);
        format!(
            "{} from {} to {} of the peer; {} expected to match, chance {}",
            many(self.len(), "tuple"),
            many(self.sources.count().into(), "source port"),
            many(targets, "port"),
            pairs(self.expected_matches),
            percent(self.chance)
        )
    }
}

/// To so many digits that are not 0.
fn round_up(number: u32, digits: u32) -> u32 {
    let unit = 10_u32.pow((number.max(1).ilog10() + 1).saturating_sub(digits));
    number.next_multiple_of(unit)
}

fn thousands(count: u32) -> String {
    let digits = count.to_string();
    let mut spoken = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            spoken.push(',');
        }
        spoken.push(digit);
    }
    spoken
}

fn pairs(expected: f64) -> String {
    match expected {
        0.0995.. => format!("{expected:.1} pairs"),
        0.000_995.. => format!("{expected:.3} pairs"),
        _ => "hardly any pair".to_owned(),
    }
}

/// Never rounded up: 99.99 % is not certain.
fn percent(chance: f64) -> String {
    if chance >= 1.0 {
        return "100 %".to_owned();
    }
    let hundredths = (chance * 10_000.0).floor();
    if hundredths < 1.0 {
        return "below 0.01 %".to_owned();
    }
    format!("{:.2} %", hundredths / 100.0)
}
