//! The configuration file: one `NAME = VALUE` a line.

use super::Failure;
use super::listing::Listing;
use std::path::Path;

const WRITE: &str = "write: server = HOST or HOST:PORT";

/// What it says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configuration {
    /// The rendezvous server.
    pub server: Option<String>,
}

impl Configuration {
    /// Reads the file. One that is not there says nothing.
    ///
    /// # Errors
    /// A usage failure that names the file and the line.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let mut configuration = Self::default();
        let Some(listing) = Listing::read(path)? else { return Ok(configuration) };
        for (number, line) in listing.lines() {
            let wrong = |what: &str| listing.wrong(number, what, WRITE);
            let (name, value) = line.split_once('=').ok_or_else(|| wrong("there is no ="))?;
            let (name, value) = (name.trim(), value.trim());
            match name {
                _ if value.is_empty() => return Err(wrong(&format!("{name} has no value"))),
                "server" if configuration.server.is_some() => {
                    return Err(wrong("server is given twice"));
                }
                "server" => configuration.server = Some(value.to_owned()),
                _ => return Err(wrong(&format!("there is no setting \"{name}\""))),
            }
        }
        Ok(configuration)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<String>, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, text).unwrap();
        let name = format!("{} ", file.path().display());
        Configuration::read(file.path())
            .map(|it| it.server)
            .map_err(|failure| failure.happened.replace(&name, ""))
    }

    #[test]
    fn it_names_the_server() {
        assert_eq!(read("# mine\n server = punch.example.org:3478 # here\n"), {
            Ok(Some("punch.example.org:3478".into()))
        });
        assert_eq!(read(""), Ok(None));
        assert_eq!(Configuration::read(Path::new("/nonexistent/c")), Ok(Configuration::default()));
    }

    #[test]
    fn a_wrong_line_is_named() {
        for (text, says) in [
            ("\nserver punch\n", "line 2: there is no ="),
            ("server =\n", "line 1: server has no value"),
            ("sever = x\n", "line 1: there is no setting \"sever\""),
            ("server = a\nserver = b\n", "line 2: server is given twice"),
        ] {
            assert_eq!(read(text), Err(says.to_owned()));
        }
    }
}
