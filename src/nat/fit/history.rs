//! Which observations were new mappings, if the mapping behaviour were known.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use super::{MappingBehaviour, Observation};
use crate::wire::WallTime;

/// A port that the router allocated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Allocation {
    pub(super) at: WallTime,
    pub(super) source: u16,
    pub(super) port: u16,
}

/// What a router of some mapping behaviour must have done to give these observations.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct History {
    /// New mappings in order of time.
    pub(super) allocations: Vec<Allocation>,
    /// The latest port of each internal port.
    pub(super) latest: HashMap<u16, u16>,
    /// How often a mapping was met again…
    pub(super) reused: u32,
    /// …and how often its port had changed, as when it has timed out.
    pub(super) replaced: u32,
}

/// What an internal endpoint shares a mapping over, beside its own port.
#[derive(PartialEq, Eq, Hash)]
enum Towards {
    Anybody,
    Address(IpAddr),
    Endpoint(SocketAddr),
}

impl History {
    /// Beta prior on a mapping's being replaced between two observations: one in a hundred, but
    /// surely not far from never or always (a small total weight).
    const REPLACED: f64 = 0.1;
    const REUSED: f64 = 10.0;

    pub(super) fn new(behaviour: MappingBehaviour, observations: &[Observation]) -> Self {
        let mut history =
            Self { allocations: Vec::new(), latest: HashMap::new(), reused: 0, replaced: 0 };
        let mut mappings = HashMap::new();
        for &Observation { at, local, destination, external } in observations {
            let source = local.port();
            let towards = match behaviour {
                MappingBehaviour::EndpointIndependent => Towards::Anybody,
                MappingBehaviour::AddressDependent => Towards::Address(destination.ip()),
                MappingBehaviour::AddressAndPortDependent => Towards::Endpoint(destination),
            };
            let port = external.port();
            history.latest.insert(source, port);
            match mappings.insert((source, towards), port) {
                Some(before) if before == port => {
                    history.reused += 1;
                    continue;
                }
                Some(_) => history.replaced += 1,
                None => {}
            }
            history.allocations.push(Allocation { at, source, port });
        }
        history
    }

    /// The probability (its logarithm) that mappings lasted and were replaced as they were.
    pub(super) fn ln_evidence(&self) -> f64 {
        ln_beta_binomial(self.replaced, Self::REPLACED, self.reused, Self::REUSED)
    }

    /// The probability that a mapping met again will still have its port.
    pub(super) fn lasts(&self) -> f64 {
        let kept = Self::REUSED + f64::from(self.reused);
        kept / (kept + Self::REPLACED + f64::from(self.replaced))
    }
}

/// The probability of one sequence of `a` events of one kind and `b` of another, the chance of
/// which is Beta(`prior_a`, `prior_b`)-distributed.
pub(super) fn ln_beta_binomial(a: u32, prior_a: f64, b: u32, prior_b: f64) -> f64 {
    let rising = |from: f64, times: u32| -> f64 {
        (0..times).map(|index| (from + f64::from(index)).ln()).sum()
    };
    rising(prior_a, a) + rising(prior_b, b) - rising(prior_a + prior_b, a + b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_two_kinds_have_the_probability_of_an_urn() {
        let urn: f64 = (1.0 / 4.0) * (3.0 / 5.0) * (4.0 / 6.0);
        assert!((ln_beta_binomial(1, 1.0, 2, 3.0) - urn.ln()).abs() < 1e-12);
    }

    #[test]
    fn the_mapping_behaviour_says_what_is_a_new_mapping() {
        let seen = |source, destination: &str, port| Observation {
            at: WallTime::from_unix_ns(0),
            local: ([192, 168, 1, 2], source).into(),
            destination: destination.parse().unwrap(),
            external: SocketAddr::from(([192, 0, 2, 1], port)),
        };
        let observations = [
            seen(1, "198.51.100.1:1", 5000),
            seen(1, "198.51.100.1:2", 5000),
            seen(1, "198.51.100.2:1", 5001),
            seen(2, "198.51.100.2:1", 5002),
        ];
        let count = |behaviour| {
            let history = History::new(behaviour, &observations);
            (history.allocations.len(), history.reused, history.replaced)
        };
        assert_eq!(count(MappingBehaviour::EndpointIndependent), (3, 1, 1));
        assert_eq!(count(MappingBehaviour::AddressDependent), (3, 1, 0));
        assert_eq!(count(MappingBehaviour::AddressAndPortDependent), (4, 0, 0));
    }
}
