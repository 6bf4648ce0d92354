//! Files of lines that people write: `#` begins a comment, empty lines do not count.

use super::Failure;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Thousands of lines; anything longer is the wrong file.
const LARGEST: u64 = 1 << 20;

/// A file, read.
#[derive(Debug)]
pub struct Listing {
    path: PathBuf,
    text: String,
}

impl Listing {
    /// Reads it. `None` if there is no such file.
    ///
    /// # Errors
    /// A usage failure for a file that cannot be read, or that anybody might have written.
    pub fn read(path: &Path) -> Result<Option<Self>, Failure> {
        let name = path.display();
        let failed =
            |error| Failure::usage(format!("{name} cannot be read: {error}"), "give a text file");
        let file = match File::open(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(failed)?,
        };
        let metadata = file.metadata().map_err(failed)?;
        if metadata.mode() & 0o022 != 0 && !metadata.is_dir() {
            return Err(Failure::usage(
                format!("{name} can be changed by others (mode {:03o})", metadata.mode() & 0o777),
                format!("look at what it says, then close it: chmod go-w {name}"),
            ));
        }
        let mut text = String::new();
        file.take(LARGEST + 1).read_to_string(&mut text).map_err(failed)?;
        if text.len() as u64 > LARGEST {
            return Err(Failure::usage(
                format!("{name} is larger than {LARGEST} bytes"),
                "give a text file of some lines",
            ));
        }
        Ok(Some(Self { path: path.to_owned(), text }))
    }

    /// Its lines by number, without comments and spaces around them.
    pub fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        (1..)
            .zip(self.text.lines())
            .map(|(number, line)| (number, line.split('#').next().unwrap_or_default().trim()))
            .filter(|(_, line)| !line.is_empty())
    }

    /// What is wrong with a line.
    pub fn wrong(&self, number: usize, what: impl std::fmt::Display, todo: &str) -> Failure {
        Failure::usage(format!("{} line {number}: {what}", self.path.display()), todo)
    }
}
