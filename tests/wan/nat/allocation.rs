//! Which external port a new mapping gets.

use std::time::{Duration, Instant};

use tcp_punch::nat::PortPool;

use super::spec::Ports;
use crate::dice::Dice;

/// Random draws before the pool is searched in order: a pool nine tenths full fails one time in
/// a thousand billion.
const DRAWS: u32 = 256;

/// Hands out ports of a pool.
pub(crate) struct Allocation {
    ports: Ports,
    pool: PortPool,
    dice: Dice,
    /// The place in the pool that a sequential NAT uses next.
    place: i64,
    /// When somebody else makes the next mapping.
    competitor: Option<Instant>,
}

impl Allocation {
    pub(crate) fn new(ports: Ports, pool: PortPool, seed: u64, now: Instant) -> Self {
        let mut dice = Dice::new(seed);
        let (mut place, mut competitor) = (0, None);
        if let Ports::Sequential { rate, first, .. } = ports {
            let chance = dice.below(pool.size());
            place = first.and_then(|first| pool.place(first)).unwrap_or(chance).into();
            competitor = pause(&mut dice, rate).map(|pause| now + pause);
        }
        Self { ports, pool, dice, place, competitor }
    }

    /// A port that is not taken, unless all are.
    pub(crate) fn allocate(
        &mut self,
        internal: u16,
        now: Instant,
        taken: impl Fn(u16) -> bool,
    ) -> Option<u16> {
        match self.ports {
            Ports::Preserving if self.pool.contains(internal) && !taken(internal) => Some(internal),
            Ports::Preserving | Ports::Random => self.draw(taken),
            Ports::Parity => {
                // RFC 4787 section 4.2.2.
                self.draw(|port| (port ^ internal) & 1 == 1 || taken(port))
            }
            Ports::Sequential { step, rate, .. } => {
                self.let_others_pass(step, rate, now);
                let free = (0..self.pool.size()).find_map(|_| {
                    let port = self.pool.nth(self.place as u32);
                    self.advance(step);
                    (!taken(port)).then_some(port)
                });
                // A step that shares a factor with the pool's size goes round without some ports.
                free.or_else(|| self.search(&taken))
            }
        }
    }

    fn draw(&mut self, taken: impl Fn(u16) -> bool) -> Option<u16> {
        let size = self.pool.size();
        (0..DRAWS)
            .map(|_| self.pool.nth(self.dice.below(size)))
            .find(|port| !taken(*port))
            .or_else(|| self.search(&taken))
    }

    fn search(&self, taken: &impl Fn(u16) -> bool) -> Option<u16> {
        self.pool.iter().find(|port| !taken(*port))
    }

    fn advance(&mut self, step: i16) {
        self.place = (self.place + i64::from(step)).rem_euclid(self.pool.size().into());
    }

    /// Mappings of others, a Poisson process.
    fn let_others_pass(&mut self, step: i16, rate: f64, now: Instant) {
        while let Some(came) = self.competitor.filter(|came| *came <= now) {
            self.advance(step);
            self.competitor = pause(&mut self.dice, rate).map(|pause| came + pause);
        }
    }
}

/// Until the next event of a Poisson process of so many a second.
fn pause(dice: &mut Dice, rate: f64) -> Option<Duration> {
    let seconds = -(1.0 - dice.fraction()).ln() / rate;
    (rate > 0.0).then(|| Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn allocation(ports: Ports, pool: &str) -> Allocation {
        Allocation::new(ports, pool.parse().unwrap(), 1, Instant::now())
    }

    fn free(_: u16) -> bool {
        false
    }

    #[test]
    fn preserving_gives_the_internal_port_unless_it_is_taken() {
        let now = Instant::now();
        let mut it = allocation(Ports::Preserving, "1-65535");
        assert_eq!(it.allocate(40_000, now, free), Some(40_000));
        assert!(it.allocate(40_000, now, |port| port == 40_000).is_some_and(|it| it != 40_000));
        let mut block = allocation(Ports::Preserving, "1024-1087");
        assert!(block.allocate(40_000, now, free).is_some_and(|it| (1024..1088).contains(&it)));
    }

    #[test]
    fn sequential_counts_places_of_the_pool_and_goes_round() {
        let now = Instant::now();
        let ports = Ports::Sequential { step: 2, rate: 0.0, first: Some(14) };
        let mut it = allocation(ports, "10-15,30-33");
        let got: Vec<_> = (0..6).map(|_| it.allocate(1, now, free).unwrap()).collect();
        assert_eq!(got, [14, 30, 32, 10, 12, 14]);
        let ports = Ports::Sequential { step: -1, rate: 0.0, first: Some(10) };
        let mut it = allocation(ports, "10-12");
        assert_eq!(it.allocate(1, now, free), Some(10));
        assert_eq!(it.allocate(1, now, |port| port == 12), Some(11));
    }

    #[test]
    fn competitors_take_ports_at_their_rate() {
        let start = Instant::now();
        let ports = Ports::Sequential { step: 1, rate: 50.0, first: Some(1024) };
        let mut it = Allocation::new(ports, "1024-65535".parse().unwrap(), 1, start);
        let later = it.allocate(1, start + Duration::from_secs(100), free).unwrap() - 1024;
        // Three standard deviations of a Poisson variable of mean 5,000.
        assert!((4788..=5212).contains(&later), "{later}");
    }

    #[test]
    fn parity_is_kept_and_random_stays_in_its_pool() {
        let now = Instant::now();
        let mut parity = allocation(Ports::Parity, "1024-65535");
        for internal in 40_000..40_100 {
            assert_eq!(parity.allocate(internal, now, free).unwrap() % 2, internal % 2);
        }
        let mut block = allocation(Ports::Random, "4096-4111,8192-8207");
        let got: BTreeSet<_> = (0..1000).map(|_| block.allocate(1, now, free).unwrap()).collect();
        assert_eq!(got, (4096..4112).chain(8192..8208).collect());
    }

    #[test]
    fn the_last_free_port_is_found_and_then_none() {
        let now = Instant::now();
        for ports in [
            Ports::Preserving,
            Ports::Random,
            Ports::Parity,
            Ports::Sequential { step: 2, rate: 0.0, first: None },
        ] {
            let mut it = allocation(ports, "1024-65535");
            assert_eq!(it.allocate(5, now, |port| port != 60_001), Some(60_001));
            assert_eq!(it.allocate(5, now, |_| true), None);
        }
    }
}
