//! `--opener`: the hop limit of the low-TTL opener.

use super::Failure;
use crate::engine::Opener;

/// Reads `auto`, `off`, or a hop limit from 1 to 255.
///
/// # Errors
/// A usage failure for anything else.
pub fn parse(text: &str) -> Result<Opener, Failure> {
    match text {
        "auto" => Ok(Opener::Auto),
        "off" => Ok(Opener::Off),
        _ => match text.parse() {
            Ok(limit @ 1..) => Ok(Opener::HopLimit(limit)),
            _ => Err(Failure::usage(
                format!("--opener \"{text}\" is no hop limit"),
                "write auto, off, or a number from 1 to 255",
            )),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        assert_eq!(parse("auto"), Ok(Opener::Auto));
        assert_eq!(parse("off"), Ok(Opener::Off));
        assert_eq!(parse("3"), Ok(Opener::HopLimit(3)));
        for wrong in ["0", "256", "-1", "", "AUTO", "3 "] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
