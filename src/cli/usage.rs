//! clap's many-line errors as the two lines of every other failure.

use super::Failure;
use clap::error::{ContextKind, ContextValue, ErrorKind};

const HELP: &str = "tcp-punch --help lists every option";

/// Says `error` in two lines. Help and version are no errors: print them before.
pub fn condense(error: &clap::Error) -> Failure {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => Some(texts.join(" and ")),
        _ => None,
    };
    // clap says `--peer <IP:PORT>` and `--verbose...`: the option alone is enough.
    let option = |kind| {
        let text = context(kind)?;
        let name = text.split_once(" <").map_or(text.as_str(), |(name, _)| name);
        Some(name.trim_end_matches("...").to_owned())
    };
    let arg = option(ContextKind::InvalidArg).unwrap_or_default();
    let value = context(ContextKind::InvalidValue).unwrap_or_default();
    match error.kind() {
        ErrorKind::UnknownArgument if arg.starts_with('-') => {
            let todo = context(ContextKind::SuggestedArg)
                .map_or_else(|| HELP.to_owned(), |near| format!("did you mean {near}? {HELP}"));
            Failure::usage(format!("there is no option {arg}"), todo)
        }
        ErrorKind::UnknownArgument => Failure::usage(
            format!("argument \"{arg}\" is not understood"),
            format!("a subcommand comes first; a command to run goes after --, as in -- {arg}"),
        ),
        ErrorKind::InvalidSubcommand => {
            let name = context(ContextKind::InvalidSubcommand).unwrap_or_default();
            Failure::usage(
                format!("there is no subcommand \"{name}\""),
                format!("a command to run goes after --, as in -- {name}; {HELP}"),
            )
        }
        ErrorKind::InvalidValue if value.is_empty() => {
            Failure::usage(format!("{arg} lacks its value"), HELP)
        }
        ErrorKind::TooManyValues => {
            Failure::usage(format!("{arg} takes no value"), format!("leave \"{value}\" out"))
        }
        ErrorKind::InvalidValue => Failure::usage(
            format!("{arg} \"{value}\" is not possible"),
            match error.get(ContextKind::ValidValue) {
                Some(ContextValue::Strings(valid)) => format!("possible: {}", valid.join(", ")),
                _ => HELP.to_owned(),
            },
        ),
        ErrorKind::ArgumentConflict => {
            let prior = option(ContextKind::PriorArg).unwrap_or_default();
            if prior == arg {
                Failure::usage(format!("{arg} is given twice"), "give it once")
            } else {
                Failure::usage(
                    format!("{arg} and {prior} exclude each other"),
                    "leave one of them out",
                )
            }
        }
        ErrorKind::MissingRequiredArgument => Failure::usage(format!("{arg} is missing"), HELP),
        ErrorKind::InvalidUtf8 => Failure::usage("an argument is not valid UTF-8", HELP),
        _ => {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default();
            Failure::usage(first.strip_prefix("error: ").unwrap_or(first), HELP)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::Args;
    use clap::Parser;

    fn said(words: &[&str]) -> (String, String) {
        let words = ["tcp-punch"].iter().chain(words);
        let failure = condense(&Args::try_parse_from(words).expect_err("should be refused"));
        (failure.happened, failure.todo)
    }

    #[test]
    fn every_kind_in_two_lines() {
        for (words, happened) in [
            (&["--pear", "x"][..], "there is no option --pear"),
            (&["-x"], "there is no option -x"),
            (&["cat"], "argument \"cat\" is not understood"),
            (&["--peer"], "--peer lacks its value"),
            (&["--exec-fd", "4"], "--exec-fd \"4\" is not possible"),
            (&["--peer", "a", "--peer", "b"], "--peer is given twice"),
            (&["-q", "-v"], "--quiet and --verbose exclude each other"),
            (&["--fdpass=x"], "--fdpass takes no value"),
            (&["--peer", "a", "doctor"], "argument \"doctor\" is not understood"),
            (&["doctor", "more"], "argument \"more\" is not understood"),
            (&["completions"], "<SHELL> is missing"),
            (&["completions", "korn"], "<SHELL> \"korn\" is not possible"),
        ] {
            let (said, todo) = said(words);
            assert_eq!(said, happened, "{words:?}");
            assert!(!todo.is_empty() && !todo.contains('\n'), "{todo}");
        }
        assert!(said(&["--pear", "x"]).1.starts_with("did you mean --peer?"));
        assert_eq!(said(&["--exec-fd", "4"]).1, "possible: 3");
    }
}
