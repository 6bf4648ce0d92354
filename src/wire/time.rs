//! Wall-clock time as a value. Reading a clock is the business of `sys`.

use std::fmt;
use std::time::Duration;

/// A point on the system's real-time clock: nanoseconds since 1970-01-01T00:00:00Z, leap seconds
/// not counted. Good until the year 2262.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WallTime(i64);

impl WallTime {
    /// From nanoseconds since the Unix epoch.
    pub const fn from_unix_ns(ns: i64) -> Self {
        Self(ns)
    }

    /// Nanoseconds since the Unix epoch.
    pub const fn unix_ns(self) -> i64 {
        self.0
    }

    /// Since the Unix epoch; zero for times before it.
    pub fn since_epoch(self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0).unwrap_or(0))
    }

    /// Nanoseconds from `earlier` to `self`; negative if `self` comes first.
    pub const fn ns_since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    /// How long until `later`; zero if it has passed.
    pub fn until(self, later: Self) -> Duration {
        Duration::from_nanos(u64::try_from(later.ns_since(self)).unwrap_or(0))
    }

    /// Later by `by`.
    pub fn after(self, by: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(by.as_nanos()).unwrap_or(i64::MAX)))
    }

    /// Earlier by `by`.
    pub fn before(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(by.as_nanos()).unwrap_or(i64::MAX)))
    }
}

impl fmt::Display for WallTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09}", self.0.div_euclid(1_000_000_000), self.0.rem_euclid(1_000_000_000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_is_signed_and_until_stops_at_zero() {
        let a = WallTime::from_unix_ns(1_000);
        let b = a.after(Duration::from_nanos(500));
        assert_eq!(b.ns_since(a), 500);
        assert_eq!(a.ns_since(b), -500);
        assert_eq!(a.until(b), Duration::from_nanos(500));
        assert_eq!(b.until(a), Duration::ZERO);
        assert_eq!(b.before(Duration::from_nanos(500)), a);
    }
}
