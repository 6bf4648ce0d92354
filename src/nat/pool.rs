//! A set of external ports that a router allocates from.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// External ports in ascending order, without repetition; never empty. Port 0 is never in it.
///
/// As text: ranges and single ports, as in `1024-65535` or `4096-4111,8192-8207`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PortPool {
    ranges: Vec<RangeInclusive<u16>>,
    /// How many ports come before each range: a place is found by halving, since the pool of a
    /// parity has 32,256 ranges.
    before: Vec<u32>,
}

/// Why a text or a list of ranges is no pool.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// It has no port.
    #[error("a pool needs at least one port")]
    Empty,
    /// A range ends before it begins.
    #[error("the range {0}-{1} ends before it begins")]
    Reversed(u16, u16),
    /// Port 0 cannot be sent from.
    #[error("port 0 is no port")]
    Zero,
    /// Not a number, or too large a one.
    #[error("'{0}' is not a port or a range of ports")]
    NotPorts(String),
}

impl Default for PortPool {
    /// 1024-65535: the ports that are not well known (RFC 4787 section 4.2.2), from which most
    /// routers allocate.
    fn default() -> Self {
        Self { ranges: vec![1024..=65535], before: vec![0] }
    }
}

impl PortPool {
    /// All ports from `first` to `last`.
    ///
    /// # Errors
    /// [`PoolError`].
    pub fn range(first: u16, last: u16) -> Result<Self, PoolError> {
        Self::new([first..=last])
    }

    /// The union of ranges, which may come in any order and overlap.
    ///
    /// # Errors
    /// [`PoolError`].
    pub fn new(ranges: impl IntoIterator<Item = RangeInclusive<u16>>) -> Result<Self, PoolError> {
        let mut ranges: Vec<_> = ranges.into_iter().collect();
        for range in &ranges {
            if range.is_empty() {
                return Err(PoolError::Reversed(*range.start(), *range.end()));
            }
            if *range.start() == 0 {
                return Err(PoolError::Zero);
            }
        }
        ranges.sort_by_key(|range| *range.start());
        let mut merged: Vec<RangeInclusive<u16>> = Vec::new();
        for range in ranges {
            match merged.last_mut() {
                Some(last) if u32::from(*range.start()) <= u32::from(*last.end()) + 1 => {
                    *last = *last.start()..=(*last.end()).max(*range.end());
                }
                _ => merged.push(range),
            }
        }
        if merged.is_empty() {
            return Err(PoolError::Empty);
        }
        let before = merged.iter().scan(0, |sum, range| {
            let before = *sum;
            *sum += length(range);
            Some(before)
        });
        Ok(Self { before: before.collect(), ranges: merged })
    }

    /// How many ports it has: 1 to 65,535.
    pub fn size(&self) -> u32 {
        let last = self.ranges.len() - 1;
        self.before[last] + length(&self.ranges[last])
    }

    /// Whether `port` is one of them.
    pub fn contains(&self, port: u16) -> bool {
        self.place(port).is_some()
    }

    /// The ports in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        self.ranges.iter().flat_map(Clone::clone)
    }

    /// Its ranges in ascending order, never adjacent.
    pub fn ranges(&self) -> &[RangeInclusive<u16>] {
        &self.ranges
    }

    /// The port at this place in ascending order, counted from 0 and around.
    pub fn nth(&self, place: u32) -> u16 {
        let place = place % self.size();
        let index = self.before.partition_point(|before| *before <= place) - 1;
        self.ranges[index].start() + u16::try_from(place - self.before[index]).unwrap_or(0)
    }

    /// The place of `port` in ascending order, counted from 0.
    pub fn place(&self, port: u16) -> Option<u32> {
        let index = self.ranges.partition_point(|range| *range.start() <= port).checked_sub(1)?;
        let range = &self.ranges[index];
        range.contains(&port).then(|| self.before[index] + u32::from(port - range.start()))
    }

    /// Its even or its odd ports: those of the parity of `port`.
    pub fn of_parity(&self, port: u16) -> Option<Self> {
        let ports = self.iter().filter(|other| other % 2 == port % 2);
        Self::new(ports.map(|port| port..=port)).ok()
    }
}

fn length(range: &RangeInclusive<u16>) -> u32 {
    u32::from(range.end() - range.start()) + 1
}

impl fmt::Display for PortPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, range) in self.ranges.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            if range.start() == range.end() {
                write!(f, "{comma}{}", range.start())?;
            } else {
                write!(f, "{comma}{}-{}", range.start(), range.end())?;
            }
        }
        Ok(())
    }
}

impl FromStr for PortPool {
    type Err = PoolError;

    fn from_str(text: &str) -> Result<Self, PoolError> {
        let port = |text: &str| {
            text.trim().parse::<u16>().map_err(|_| PoolError::NotPorts(text.trim().to_owned()))
        };
        let ranges = text.split(',').filter(|part| !part.trim().is_empty()).map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (port(first)?, port(last)?);
            if first > last {
                return Err(PoolError::Reversed(first, last));
            }
            Ok(first..=last)
        });
        Self::new(ranges.collect::<Result<Vec<_>, _>>()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(text: &str) -> PortPool {
        text.parse().unwrap()
    }

    #[test]
    fn ranges_are_sorted_and_joined() {
        assert_eq!(pool("30-40, 1-9,10,35-50").to_string(), "1-10,30-50");
        assert_eq!(pool("1-65535").size(), 65_535);
    }

    #[test]
    fn places_go_round() {
        let map_e = pool("4096-4111,8192-8207");
        assert_eq!(map_e.size(), 32);
        assert_eq!((map_e.nth(15), map_e.nth(16), map_e.nth(32)), (4111, 8192, 4096));
        for (place, port) in (0..).zip(map_e.iter()) {
            assert_eq!((map_e.nth(place), map_e.place(port)), (port, Some(place)));
        }
        assert_eq!(map_e.place(4112), None);
    }

    #[test]
    fn half_of_the_ports_have_each_parity() {
        let odd = PortPool::default().of_parity(4001).unwrap();
        assert_eq!((odd.size(), odd.nth(0), odd.place(65_535)), (32_256, 1025, Some(32_255)));
        assert_eq!(odd.place(4000), None);
        assert_eq!(pool("4000,4002").of_parity(1), None);
    }

    #[test]
    fn what_is_no_pool_says_why() {
        for (text, error) in [
            ("", PoolError::Empty),
            ("9-1", PoolError::Reversed(9, 1)),
            ("0-1", PoolError::Zero),
            ("1-65536", PoolError::NotPorts("65536".into())),
            ("a", PoolError::NotPorts("a".into())),
        ] {
            assert_eq!(text.parse::<PortPool>(), Err(error));
        }
    }
}
