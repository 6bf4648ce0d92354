//! `--report` and `--ladder`: files opened before the punch and written after it.

use super::Failure;
use super::ladder::Ladder;
use crate::engine::Report;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Where the attempt is written down. The files are open before the punch, while what may open
/// them is still held, and so that a wrong path costs no connection.
#[derive(Debug, Default)]
pub struct Records {
    report: Option<Sink>,
    ladder: Option<Sink>,
}

#[derive(Debug)]
enum Sink {
    StandardError,
    File(PathBuf, File),
}

impl Records {
    /// Opens the files, emptying what is there.
    ///
    /// # Errors
    /// A usage failure if one cannot be created.
    pub fn open(report: Option<&Path>, ladder: Option<&Path>) -> Result<Self, Failure> {
        let sink = |option: &str, path: Option<&Path>| match path {
            None => Ok(None),
            Some(path) if path == Path::new("-") => Ok(Some(Sink::StandardError)),
            Some(path) => Ok(Some(Sink::File(path.to_owned(), create(option, path)?))),
        };
        Ok(Self { report: sink("--report", report)?, ladder: sink("--ladder", ladder)? })
    }

    /// Writes both. A disk that is full by now is warned of and no more: the connection stands.
    pub fn write(&mut self, report: &Report) {
        if let Some(sink) = &mut self.report {
            match serde_json::to_string_pretty(report) {
                Ok(json) => sink.put(&(json + "\n")),
                Err(error) => tracing::warn!("the report was not written: {error}"),
            }
        }
        if let Some(sink) = &mut self.ladder {
            sink.put(&Ladder::of_one(report).svg());
        }
    }
}

impl Sink {
    fn put(&mut self, text: &str) {
        let (result, name) = match self {
            Sink::StandardError => {
                (io::stderr().write_all(text.as_bytes()), "standard error".into())
            }
            Sink::File(path, file) => (file.write_all(text.as_bytes()), path.display().to_string()),
        };
        if let Err(error) = result {
            tracing::warn!("{name} was not written: {error}");
        }
    }
}

/// Creates the file that `option` names.
///
/// # Errors
/// A usage failure if that is not possible.
pub fn create(option: &str, path: &Path) -> Result<File, Failure> {
    File::create(path).map_err(|error| {
        Failure::usage(
            format!("{option} {} cannot be written: {error}", path.display()),
            "name a file in a directory that exists and is writable",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_files_are_written() {
        let directory = tempfile::tempdir().unwrap();
        let (json, svg) = (directory.path().join("r.json"), directory.path().join("l.svg"));
        let report: Report =
            serde_json::from_str(include_str!("../../docs/report.example.json")).unwrap();
        Records::open(Some(&json), Some(&svg)).unwrap().write(&report);
        assert_eq!(
            std::fs::read_to_string(json).unwrap(),
            include_str!("../../docs/report.example.json")
        );
        assert!(std::fs::read_to_string(svg).unwrap().starts_with("<svg"));
    }

    #[test]
    fn a_wrong_path_is_found_before_the_punch() {
        let failure = Records::open(Some(Path::new("/nonexistent/r.json")), None).unwrap_err();
        assert!(failure.happened.starts_with("--report /nonexistent/r.json cannot be written"));
    }
}
