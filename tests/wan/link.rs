//! When a packet arrives that enters a link now: not at all, once or twice, and how late.

use std::str::FromStr;
use std::time::{Duration, Instant};

use crate::dice::Dice;

/// A packet is held back by at least this much when it is to be overtaken, whatever the delay.
const MIN_HOLD_BACK: Duration = Duration::from_millis(1);

/// A share of all packets, given in percent.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Probability(f64);

impl FromStr for Probability {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim_end_matches('%').parse::<f64>() {
            Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(Self(percent / 100.0)),
            _ => Err(format!("`{text}` is not a percentage from 0 to 100")),
        }
    }
}

/// What one direction does to packets.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Impairments {
    pub(crate) delay: Duration,
    pub(crate) loss: Probability,
    pub(crate) reorder: Probability,
    pub(crate) duplicate: Probability,
}

/// One direction between two routers.
pub(crate) struct Link {
    impairments: Impairments,
    dice: Dice,
}

/// The instants at which copies of a packet arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Arrivals {
    pub(crate) first: Option<Instant>,
    pub(crate) duplicate: Option<Instant>,
}

impl Link {
    pub(crate) fn new(impairments: Impairments, seed: u64) -> Self {
        Self { impairments, dice: Dice::new(seed) }
    }

    /// The delay of a packet that nothing happens to.
    pub(crate) fn delay(&self) -> Duration {
        self.impairments.delay
    }

    /// Decides on a packet that enters the link at `now`.
    pub(crate) fn traverse(&mut self, now: Instant) -> Arrivals {
        if self.shows(self.impairments.loss) {
            return Arrivals { first: None, duplicate: None };
        }
        let due = now + self.impairments.delay;
        let first = if self.shows(self.impairments.reorder) {
            due + MIN_HOLD_BACK.max(self.impairments.delay / 2)
        } else {
            due
        };
        Arrivals {
            first: Some(first),
            duplicate: self.shows(self.impairments.duplicate).then_some(due),
        }
    }

    fn shows(&mut self, probability: Probability) -> bool {
        // No draw for what cannot happen, so that asking for loss alone is the same loss as with
        // other impairments switched off.
        probability.0 > 0.0 && self.dice.fraction() < probability.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Duration = Duration::from_millis(10);

    fn percent(value: f64) -> Probability {
        Probability(value / 100.0)
    }

    fn link(impairments: Impairments) -> Link {
        Link::new(Impairments { delay: DELAY, ..impairments }, 7)
    }

    fn share(count: usize) -> f64 {
        count as f64 / 100_000.0
    }

    #[test]
    fn a_clean_link_only_delays() {
        let now = Instant::now();
        let mut link = link(Impairments::default());
        for _ in 0..1000 {
            let arrivals = link.traverse(now);
            assert_eq!(arrivals.first, Some(now + DELAY));
            assert_eq!(arrivals.duplicate, None);
        }
    }

    #[test]
    fn rates_are_as_configured() {
        let now = Instant::now();
        let mut link = link(Impairments {
            loss: percent(10.0),
            reorder: percent(5.0),
            duplicate: percent(2.0),
            ..Impairments::default()
        });
        let arrivals: Vec<_> = (0..100_000).map(|_| link.traverse(now)).collect();
        let lost = arrivals.iter().filter(|a| a.first.is_none()).count();
        let late = arrivals.iter().filter(|a| a.first > Some(now + DELAY)).count();
        let twice = arrivals.iter().filter(|a| a.duplicate.is_some()).count();
        assert!((share(lost) - 0.10).abs() < 0.005, "{lost}");
        assert!((share(late) - 0.05 * 0.9).abs() < 0.005, "{late}");
        assert!((share(twice) - 0.02 * 0.9).abs() < 0.005, "{twice}");
    }

    #[test]
    fn the_seed_repeats_the_run() {
        let now = Instant::now();
        let lossy = Impairments { loss: percent(50.0), ..Impairments::default() };
        let run = |seed| {
            let mut link = Link::new(lossy, seed);
            (0..64).map(|_| link.traverse(now).first.is_some()).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    #[test]
    fn percentages() {
        assert_eq!("2.5".parse(), Ok(percent(2.5)));
        assert_eq!("100%".parse(), Ok(percent(100.0)));
        assert!("101".parse::<Probability>().is_err());
        assert!("NaN".parse::<Probability>().is_err());
    }
}
