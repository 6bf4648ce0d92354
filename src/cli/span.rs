//! Lengths of time as people type and read them.

use super::Failure;
use std::time::Duration;

/// The longest duration that any option takes. Anything longer is a slip of the keyboard.
pub const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// Reads `10s`, `250ms`, `1m30s`, `1.5s`, for the option called `option`.
///
/// # Errors
/// A usage failure for text that is no duration, has no unit, is negative or above [`LONGEST`].
pub fn parse(option: &str, text: &str) -> Result<Duration, Failure> {
    let example = "write a number and its unit, for example 10s, 250ms or 1m30s";
    let spoken = format!("{option} \"{text}\"");
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Err(Failure::usage(format!("{spoken} has no unit"), example));
    }
    let signed: jiff::SignedDuration =
        text.parse().map_err(|_| Failure::usage(format!("{spoken} is not a duration"), example))?;
    let span = Duration::try_from(signed)
        .map_err(|_| Failure::usage(format!("{spoken} is negative"), example))?;
    if span > LONGEST {
        return Err(Failure::usage(format!("{spoken} is longer than a day"), example));
    }
    Ok(span)
}

/// Says a length of time with the precision that matters to a reader: `17 µs`, `250 ms`, `3.2 s`,
/// `4 min 10 s`, `2 h 5 min`, `3 days`.
pub fn say(span: Duration) -> String {
    let secs = span.as_secs();
    match secs {
        0 if span < Duration::from_micros(1) => format!("{} ns", span.as_nanos()),
        0 if span < Duration::from_millis(1) => format!("{} µs", span.as_micros()),
        0 if span < Duration::from_millis(10) => {
            let tenths = span.as_micros() / 100;
            format!("{}.{} ms", tenths / 10, tenths % 10)
        }
        0 => format!("{} ms", span.as_millis()),
        1..60 => {
            let tenths = span.as_millis() / 100;
            match tenths % 10 {
                0 => format!("{} s", tenths / 10),
                rest => format!("{}.{rest} s", tenths / 10),
            }
        }
        60..3600 => two(secs / 60, "min", secs % 60, "s"),
        3600..86_400 => two(secs / 3600, "h", secs % 3600 / 60, "min"),
        86_400..172_800 => two(1, "day", secs % 86_400 / 3600, "h"),
        _ => format!("{} days", secs / 86_400),
    }
}

fn two(large: u64, large_unit: &str, small: u64, small_unit: &str) -> String {
    match small {
        0 => format!("{large} {large_unit}"),
        small => format!("{large} {large_unit} {small} {small_unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_forms_that_people_type() {
        for (text, ms) in [
            ("10s", 10_000),
            ("250ms", 250),
            ("1m30s", 90_000),
            ("1.5s", 1_500),
            ("0s", 0),
            ("24h", 86_400_000),
        ] {
            assert_eq!(parse("--x", text), Ok(Duration::from_millis(ms)), "{text}");
        }
    }

    #[test]
    fn the_slips_are_named() {
        for (text, says) in [
            ("10", "--x \"10\" has no unit"),
            ("", "--x \"\" is not a duration"),
            ("soon", "--x \"soon\" is not a duration"),
            ("-1s", "--x \"-1s\" is negative"),
            ("25h", "--x \"25h\" is longer than a day"),
            ("1y", "--x \"1y\" is not a duration"),
        ] {
            assert_eq!(parse("--x", text).map_err(|f| f.happened), Err(says.to_owned()));
        }
    }

    #[test]
    fn spoken_as_a_person_would() {
        for (span, says) in [
            (Duration::from_nanos(40), "40 ns"),
            (Duration::from_micros(17), "17 µs"),
            (Duration::from_micros(2_340), "2.3 ms"),
            (Duration::from_millis(250), "250 ms"),
            (Duration::from_millis(3_249), "3.2 s"),
            (Duration::from_secs(59), "59 s"),
            (Duration::from_secs(250), "4 min 10 s"),
            (Duration::from_secs(7_500), "2 h 5 min"),
            (Duration::from_secs(90_000), "1 day 1 h"),
            (Duration::from_secs(300_000), "3 days"),
        ] {
            assert_eq!(say(span), says);
        }
    }

    proptest! {
        #[test]
        fn milliseconds_are_read_exactly(ms in 0u64..=86_400_000) {
            prop_assert_eq!(parse("--x", &format!("{ms}ms")), Ok(Duration::from_millis(ms)));
        }

        #[test]
        fn nothing_typed_panics(text in "\\PC{0,24}") {
            let _ = parse("--x", &text);
        }
    }
}
