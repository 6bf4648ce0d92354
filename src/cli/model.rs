//! `--nat-model`, `--peer-model` and `--budget`: what a search is planned from.

use super::Failure;
use crate::nat::PortModel;
use crate::punch::Budget;
use std::path::Path;

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

/// Reads a model, or a file that has one.
///
/// # Errors
/// A usage failure for what is none.
pub fn one(option: &str, text: &str) -> Result<PortModel, Failure> {
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
    fn a_model_may_stand_in_a_file() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        write!(file, "# our provider\nrandom:1024-2047\n").unwrap();
        let model = one("--nat-model", file.path().to_str().unwrap());
        assert_eq!(model, Ok("random:1024-2047".parse().unwrap()));
    }

    #[test]
    fn what_is_no_model_says_so_in_one_line() {
        for wrong in ["", "randm", "random:9-1", "/nonexistent", "sequential:step=0,next=1"] {
            let failure = one("--nat-model", wrong).unwrap_err();
            assert!(failure.happened.starts_with("--nat-model: "), "{}", failure.happened);
            assert!(!failure.happened.contains('\n'));
        }
        assert!(budget("packets=0").is_err());
    }
}
