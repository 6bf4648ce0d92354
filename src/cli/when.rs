//! `--at`: the instant at which the SYN leaves.

use super::{Failure, span};
use crate::wire::WallTime;
use std::time::Duration;

/// The least time between start-up and an instant: below it, opening the sockets and raising the
/// guard would make the SYN late.
pub const TOO_NEAR: Duration = Duration::from_millis(100);

/// The furthest instant that is waited for.
pub const TOO_FAR: Duration = Duration::from_secs(24 * 3600);

/// How far ahead `every:` looks, at least: one second covers start-up and path probing. It is a
/// constant, independent of every option, so that both ends leave out the same multiples.
pub const EVERY_AHEAD: Duration = Duration::from_secs(1);

/// The periods that `every:` takes. Shorter than 2 s, two people can hardly meet; longer than
/// 12 h, the next multiple could be [`TOO_FAR`].
pub const PERIODS: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(2)..=Duration::from_secs(12 * 3600);

/// An instant as typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// RFC 3339 or Unix seconds.
    Instant(WallTime),
    /// This long after start-up.
    In(Duration),
    /// The first whole multiple of this period since the Unix epoch that is at least
    /// [`EVERY_AHEAD`] away. Two ends agree unless such a boundary lies between their starts,
    /// which happens in (difference of starts / period) of all cases: take a period several times
    /// longer than people need to press the key.
    Every(Duration),
}

/// Reads an instant: `2026-11-21T12:00:00.250Z`, `1795262400.25`, `+2s`, `every:10s`.
///
/// # Errors
/// A usage failure for any other text, a period outside [`PERIODS`], or an instant that does not
/// fit in nanoseconds since the epoch (the years 1970 to 2262).
pub fn parse(text: &str) -> Result<When, Failure> {
    if let Some(ahead) = text.strip_prefix('+') {
        return Ok(When::In(span::parse("--at", ahead)?));
    }
    if let Some(period) = text.strip_prefix("every:") {
        let period = span::parse("--at every:", period)?;
        if !PERIODS.contains(&period) {
            return Err(Failure::usage(
                format!("a period of {} is out of range", span::say(period)),
                "choose between every:2s and every:12h",
            ));
        }
        return Ok(When::Every(period));
    }
    let ns = if text.starts_with(|c: char| c.is_ascii_digit())
        && text.bytes().all(|b| b.is_ascii_digit() || b == b'.')
    {
        unix_seconds(text)?
    } else {
        let stamp: jiff::Timestamp = text.parse().map_err(|_| not_an_instant(text))?;
        i64::try_from(stamp.as_nanosecond()).map_err(|_| out_of_range(text))?
    };
    Ok(When::Instant(WallTime::from_unix_ns(ns)))
}

/// The instant that `when` means for a program that started at `now`.
///
/// # Errors
/// As [`check`].
pub fn resolve(when: When, now: WallTime) -> Result<WallTime, Failure> {
    let at = match when {
        When::Instant(at) => at,
        When::In(ahead) => now.after(ahead),
        When::Every(period) => next_multiple(period, now.after(EVERY_AHEAD)),
    };
    check(at, now)?;
    Ok(at)
}

/// Whether `at` can still be met at `now`.
///
/// # Errors
/// A usage failure if it has passed (saying how late it is), is nearer than [`TOO_NEAR`], or
/// further than [`TOO_FAR`].
pub fn check(at: WallTime, now: WallTime) -> Result<(), Failure> {
    let ahead = now.until(at);
    let give = "give an instant to come on both ends, for example --at every:10s";
    if at < now {
        let late = span::say(at.until(now));
        Err(Failure::usage(format!("the instant passed {late} ago"), give))
    } else if ahead < TOO_NEAR {
        let (ahead, least) = (span::say(ahead), span::say(TOO_NEAR));
        Err(Failure::usage(
            format!("the instant is only {ahead} ahead; starting up takes {least}"),
            give,
        ))
    } else if ahead > TOO_FAR {
        let ahead = span::say(ahead);
        Err(Failure::usage(
            format!("the instant is {ahead} ahead; the limit is 24 h"),
            "check date, time zone and unit (Unix time is in seconds)",
        ))
    } else {
        Ok(())
    }
}

/// Says an instant as RFC 3339 in UTC, to the millisecond.
pub fn say(at: WallTime) -> String {
    match jiff::Timestamp::from_nanosecond(i128::from(at.unix_ns())) {
        Ok(stamp) => format!("{stamp:.3}"),
        Err(_) => at.to_string(),
    }
}

/// The first multiple of `period` since the epoch that is not before `earliest`.
fn next_multiple(period: Duration, earliest: WallTime) -> WallTime {
    let period = i64::try_from(period.as_nanos()).unwrap_or(i64::MAX).max(1);
    let earliest = earliest.unix_ns();
    let short_of_one = earliest.rem_euclid(period);
    let wait = if short_of_one == 0 { 0 } else { period - short_of_one };
    WallTime::from_unix_ns(earliest.saturating_add(wait))
}

/// Decimal seconds as nanoseconds, in integers: an f64 would be off by 100 ns today.
fn unix_seconds(text: &str) -> Result<i64, Failure> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if fraction.is_empty() || fraction.contains('.') {
        return Err(not_an_instant(text));
    }
    if fraction.len() > 9 {
        return Err(Failure::usage(
            format!("\"{text}\" is finer than a nanosecond"),
            "give at most nine digits after the point",
        ));
    }
    let seconds: i64 = whole.parse().map_err(|_| out_of_range(text))?;
    let nanos: i64 = format!("{fraction:0<9}").parse().map_err(|_| not_an_instant(text))?;
    seconds
        .checked_mul(1_000_000_000)
        .and_then(|ns| ns.checked_add(nanos))
        .ok_or_else(|| out_of_range(text))
}

fn not_an_instant(text: &str) -> Failure {
    Failure::usage(
        format!("--at \"{text}\" is not an instant"),
        "write 2026-11-21T12:00:00.250Z (with Z or an offset), Unix seconds, +2s or every:10s",
    )
}

fn out_of_range(text: &str) -> Failure {
    Failure::usage(
        format!("--at \"{text}\" is out of range"),
        "check date, time zone and unit (Unix time is in seconds)",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOON: i64 = 1_795_262_400_000_000_000;

    fn at(text: &str) -> i64 {
        match parse(text) {
            Ok(When::Instant(at)) => at.unix_ns(),
            other => panic!("{text}: {other:?}"),
        }
    }

    fn resolved(text: &str, now: i64) -> Result<i64, String> {
        parse(text)
            .and_then(|when| resolve(when, WallTime::from_unix_ns(now)))
            .map(WallTime::unix_ns)
            .map_err(|failure| failure.happened)
    }

    #[test]
    fn one_instant_in_every_notation() {
        for text in [
            "2026-11-21T12:00:00Z",
            "2026-11-21t12:00:00z",
            "2026-11-21T13:00:00+01:00",
            "2026-11-21T06:30:00-05:30",
            "2026-11-21 12:00:00.000000000Z",
            "1795262400",
            "1795262400.0",
        ] {
            assert_eq!(at(text), NOON, "{text}");
        }
        assert_eq!(at("2026-11-21T12:00:00.250Z"), NOON + 250_000_000);
        assert_eq!(at("1795262400.123456789"), NOON + 123_456_789);
        assert_eq!(say(WallTime::from_unix_ns(at("1795262400.25"))), "2026-11-21T12:00:00.250Z");
    }

    #[test]
    fn every_takes_the_first_multiple_at_least_a_second_away() {
        let s = 1_000_000_000;
        assert_eq!(resolved("every:10s", NOON), Ok(NOON + 10 * s));
        assert_eq!(resolved("every:10s", NOON + 9 * s), Ok(NOON + 10 * s));
        assert_eq!(resolved("every:10s", NOON + 9 * s + 1), Ok(NOON + 20 * s));
        assert_eq!(resolved("+250ms", NOON), Ok(NOON + 250_000_000));
    }

    #[test]
    fn what_cannot_be_met_says_why() {
        let s = 1_000_000_000;
        for (text, now, says) in [
            ("1795262400", NOON + 3_200_000_000, "the instant passed 3.2 s ago"),
            ("2026-11-21T12:00:00Z", NOON + 7_500 * s, "the instant passed 2 h 5 min ago"),
            (
                "1795262400",
                NOON - 20_000_000,
                "the instant is only 20 ms ahead; starting up takes 100 ms",
            ),
            ("+0s", NOON, "the instant is only 0 ns ahead; starting up takes 100 ms"),
            ("1795262400", NOON - 90_001 * s, "the instant is 1 day 1 h ahead; the limit is 24 h"),
            ("1795262400000", NOON, "--at \"1795262400000\" is out of range"),
            ("99999999999999999999", NOON, "--at \"99999999999999999999\" is out of range"),
            ("+25h", NOON, "--at \"25h\" is longer than a day"),
            ("1.2.3", NOON, "--at \"1.2.3\" is not an instant"),
            ("1.", NOON, "--at \"1.\" is not an instant"),
            ("1.0123456789", NOON, "\"1.0123456789\" is finer than a nanosecond"),
            ("2026-11-21T12:00:00", NOON, "--at \"2026-11-21T12:00:00\" is not an instant"),
            ("noon", NOON, "--at \"noon\" is not an instant"),
            ("", NOON, "--at \"\" is not an instant"),
            ("every:1s", NOON, "a period of 1 s is out of range"),
            ("every:13h", NOON, "a period of 13 h is out of range"),
            ("every:", NOON, "--at every: \"\" is not a duration"),
        ] {
            assert_eq!(resolved(text, now), Err(says.to_owned()), "{text}");
        }
    }

    proptest! {
        #[test]
        fn unix_seconds_are_exact(ns in 0..i64::MAX) {
            let text = WallTime::from_unix_ns(ns).to_string();
            prop_assert_eq!(parse(&text), Ok(When::Instant(WallTime::from_unix_ns(ns))));
        }

        #[test]
        fn every_is_the_least_multiple_far_enough(
            now in 0..4_000_000_000_000_000_000i64, secs in 2u64..=43_200,
        ) {
            let period = i64::try_from(secs).unwrap() * 1_000_000_000;
            let at = resolve(When::Every(Duration::from_secs(secs)), WallTime::from_unix_ns(now))
                .unwrap().unix_ns();
            prop_assert_eq!(at % period, 0);
            prop_assert!(at - now >= 1_000_000_000);
            prop_assert!(at - now < 1_000_000_000 + period);
        }

        #[test]
        fn two_starts_agree_unless_a_boundary_lies_between(
            now in 0..4_000_000_000_000_000_000i64, later in 0..10_000_000_000i64,
        ) {
            let every = When::Every(Duration::from_secs(10));
            let a = resolve(every, WallTime::from_unix_ns(now)).unwrap().unix_ns();
            let b = resolve(every, WallTime::from_unix_ns(now + later)).unwrap().unix_ns();
            prop_assert_eq!(a == b, now + later + 1_000_000_000 <= a);
        }

        #[test]
        fn nothing_typed_panics(text in "\\PC{0,40}", now in any::<i64>()) {
            let _ = parse(&text).and_then(|when| resolve(when, WallTime::from_unix_ns(now)));
        }
    }
}
