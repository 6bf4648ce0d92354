//! Sequence number arithmetic, RFC 9293 section 3.4: comparisons are modulo 2^32.

use std::fmt;
use std::ops::{Add, Sub};

/// A TCP sequence or acknowledgment number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Seq(pub u32);

impl Seq {
    /// Whether `self` comes before `other`: less than half the number space lies between them.
    pub const fn precedes(self, other: Self) -> bool {
        (self.0.wrapping_sub(other.0) as i32) < 0
    }

    /// Whether `self` comes after `other`.
    pub const fn follows(self, other: Self) -> bool {
        other.precedes(self)
    }
}

impl Add<u32> for Seq {
    type Output = Self;
    fn add(self, by: u32) -> Self {
        Self(self.0.wrapping_add(by))
    }
}

impl Sub for Seq {
    type Output = u32;
    /// How many numbers lie from `earlier` to `self`, modulo 2^32.
    fn sub(self, earlier: Self) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_wrap_past_the_top() {
        let top = Seq(u32::MAX);
        assert_eq!(top + 1, Seq(0));
        assert!(top.precedes(top + 1));
        assert_eq!((top + 5) - top, 5);
    }

    proptest! {
        #[test]
        fn a_number_precedes_what_is_up_to_half_the_space_ahead(start: u32, ahead in 1u32..0x8000_0000) {
            prop_assert!(Seq(start).precedes(Seq(start) + ahead));
            prop_assert!(!(Seq(start) + ahead).precedes(Seq(start)));
            prop_assert_eq!((Seq(start) + ahead) - Seq(start), ahead);
        }
    }
}
