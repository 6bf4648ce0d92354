//! Probabilities of all ports, added up from parts.

use super::counts::Counts;
use super::pool::PortPool;
use super::prediction::Prediction;

/// Probabilities of all ports, to be added up. Ranges are kept as differences until the end, so
/// that a part costs the same whatever its size.
pub(super) struct Density {
    ports: Vec<f64>,
    /// First differences…
    steps: Vec<f64>,
    /// …and second ones.
    bends: Vec<f64>,
}

impl Density {
    /// One past the last port, and one more where a difference may end.
    const LENGTH: usize = (1 << 16) + 2;

    /// What rounding leaves of differences that cancel.
    const ROUNDING: f64 = 1e-13;

    pub(super) fn new() -> Self {
        let zeros = || vec![0.0; Self::LENGTH];
        Self { ports: zeros(), steps: zeros(), bends: zeros() }
    }

    pub(super) fn add(&mut self, port: u16, weight: f64) {
        self.ports[usize::from(port)] += weight;
    }

    /// Each port of a range alike.
    pub(super) fn add_range(&mut self, first: u16, last: u16, weight: f64) {
        let each = weight / (f64::from(last) - f64::from(first) + 1.0);
        self.steps[usize::from(first)] += each;
        self.steps[usize::from(last) + 1] -= each;
    }

    /// Each port of a pool alike.
    pub(super) fn add_pool(&mut self, pool: &PortPool, weight: f64) {
        let each = weight / f64::from(pool.size());
        for range in pool.ranges() {
            self.steps[usize::from(*range.start())] += each;
            self.steps[usize::from(*range.end()) + 1] -= each;
        }
    }

    /// The mean over all ranges of `size` ports that begin in `starts` and end by 65,535.
    pub(super) fn add_somewhere(&mut self, size: u32, starts: (u32, u32), weight: f64) {
        let each = weight / f64::from(size) / f64::from(starts.1 - starts.0 + 1);
        let (first, last, size) = (starts.0 as usize, starts.1 as usize, size as usize);
        self.bends[first] += each;
        self.bends[last + 1] -= each;
        self.bends[first + size] -= each;
        self.bends[last + size + 1] += each;
    }

    /// A counter that stands at `next` before others take some and we take `nth`.
    pub(super) fn add_sequence(
        &mut self,
        next: u16,
        step: i16,
        pool: &PortPool,
        nth: u32,
        others: &Counts,
        weight: f64,
    ) {
        let size = i64::from(pool.size());
        let step = i64::from(step).rem_euclid(size);
        let before = (others.first % pool.size() as u64) as i64 + i64::from(nth) % size;
        let start = i64::from(pool.place(next).unwrap_or(0));
        let mut place = (start + step * (before % size)) % size;
        for probability in &others.probabilities {
            self.add(pool.nth(u32::try_from(place).unwrap_or(0)), weight * probability);
            place = (place + step) % size;
        }
    }

    /// What `other` says of the ports of the parity of `source`, doubled.
    pub(super) fn add_parity(&mut self, other: &Self, source: u16) {
        let same = other.finish().into_iter().filter(|(port, _)| port % 2 == source % 2);
        for (port, probability) in same {
            self.add(port, 2.0 * probability);
        }
    }

    fn finish(&self) -> Vec<(u16, f64)> {
        let mut ports = Vec::new();
        let (mut slope, mut level) = (0.0, 0.0);
        for port in 0..=u16::MAX {
            let index = usize::from(port);
            slope += self.bends[index];
            level += slope + self.steps[index];
            let mut probability = self.ports[index];
            if level > Self::ROUNDING {
                probability += level;
            }
            if probability > 0.0 && port > 0 {
                ports.push((port, probability));
            }
        }
        ports
    }

    /// As a distribution, whatever the sum of its parts was.
    pub(super) fn prediction(&self) -> Prediction {
        let mut by_port = self.finish();
        let sum: f64 = by_port.iter().map(|(_, probability)| probability).sum();
        by_port.iter_mut().for_each(|(_, probability)| *probability /= sum);
        Prediction::weighed(by_port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_of_unknown_place_is_likeliest_in_its_middle() {
        let mut density = Density::new();
        density.add_somewhere(10, (2000, 2004), 1.0);
        let prediction = density.prediction();
        assert!((prediction.probability(2000) - 0.02).abs() < 1e-12);
        assert!((prediction.probability(2005) - 0.1).abs() < 1e-12);
        assert!((prediction.probability(2013) - 0.02).abs() < 1e-12);
        assert_eq!(prediction.most_likely().count(), 14);
    }

    #[test]
    fn parts_up_to_the_last_port_add_up() {
        let mut density = Density::new();
        density.add_somewhere(64_512, (1024, 1024), 0.5);
        density.add_range(65_535, 65_535, 0.25);
        density.add(65_535, 0.25);
        let prediction = density.prediction();
        assert!((prediction.probability(65_535) - 0.5).abs() < 1e-4);
        assert_eq!(prediction.probability(1023), 0.0);
    }
}
