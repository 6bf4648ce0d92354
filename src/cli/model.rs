//! `--nat-model`, `--peer-model` and `--budget`: what a search is planned from.

use super::Failure;
use crate::nat::PortModel;
use crate::punch::Budget;
use std::path::Path;

/// Both models, this side's and the peer's, if any was given; the other router then keeps ports.
///
/// # Errors
/// A usage failure for what is neither a model nor a file with one.
pub fn both(
    ours: Option<&str>,
    theirs: Option<&str>,
) -> Result<Option<(PortModel, PortModel)>, Failure> {
    if ours.is_none() && theirs.is_none() {
        return Ok(None);
    }
    let model = |option, text: Option<&str>| {
        text.map_or(Ok(PortModel::Preserving), |text| one(option, text))
    };
    Ok(Some((model("--nat-model", ours)?, model("--peer-model", theirs)?)))
}

/// Reads a budget.
///
/// # Errors
/// A usage failure for what is none.
pub fn budget(text: &str) -> Result<Budget, Failure> {
    text.parse().map_err(|error| {
        Failure::usage(
            format!("--budget: {error}"),
            "write it as packets=4000,entries=2000,rate=10000, or some of it",
        )
    })
}

fn one(option: &str, text: &str) -> Result<PortModel, Failure> {
    let error = match text.parse() {
        Ok(model) => return Ok(model),
        Err(error) => error,
    };
    let todo = "write a kind as in sequential:next=40001,rate=50; tcp-punch --help lists them";
    if !Path::new(text).is_file() {
        return Err(Failure::usage(format!("{option}: {error}"), todo));
    }
    let file = std::fs::read_to_string(text).map_err(|error| {
        Failure::usage(format!("{option}: {text} cannot be read: {error}"), "check the file")
    })?;
    PortModel::from_file_text(&file)
        .map_err(|error| Failure::usage(format!("{option}: {text}: {error}"), todo))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn one_model_makes_the_other_router_keep_ports() {
        assert_eq!(both(None, None), Ok(None));
        let models = both(None, Some("linux-random"));
        assert_eq!(models, Ok(Some((PortModel::Preserving, PortModel::LinuxRandom))));
    }

    #[test]
    fn a_model_may_stand_in_a_file() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        write!(file, "# our provider\nrandom:1024-2047\n").unwrap();
        let model = one("--nat-model", file.path().to_str().unwrap());
        assert_eq!(model, Ok("random:1024-2047".parse().unwrap()));
    }

    #[test]
    fn what_is_no_model_says_so_in_one_line() {
        for wrong in ["", "randm", "random:9-1", "/nonexistent", "sequential:step=0,next=1"] {
            let failure = both(Some(wrong), None).unwrap_err();
            assert!(failure.happened.starts_with("--nat-model: "), "{}", failure.happened);
            assert!(!failure.happened.contains('\n'));
        }
        assert!(budget("packets=0").is_err());
    }
}
