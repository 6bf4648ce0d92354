//! The peers file: who may call, and by which names others are called.

use super::Failure;
use super::args::IdentityArgs;
use super::folder::Folder;
use super::listing::Listing;
use crate::rendezvous::PublicKey;
use std::path::{Path, PathBuf};

const WRITE: &str = "write NAME KEY, for example: laptop tp1..., as tcp-punch key prints it there";

/// One line each: a name and a public key.
#[derive(Clone, Debug)]
pub struct Peers {
    path: PathBuf,
    peers: Vec<(String, PublicKey)>,
}

/// The file that `args` name, or the one in the usual folder.
///
/// # Errors
/// As [`Peers::read`].
pub fn of(args: &IdentityArgs) -> Result<Peers, Failure> {
    match &args.peers {
        Some(path) => Peers::read(path),
        None => Peers::read(&Folder::find()?.file("peers")),
    }
}

impl Peers {
    /// Reads the file. One that is not there has nobody in it.
    ///
    /// # Errors
    /// A usage failure that names the file and the line.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let mut peers: Vec<(String, PublicKey)> = Vec::new();
        let mut numbers = Vec::new();
        let listing = Listing::read(path)?;
        for (number, line) in listing.iter().flat_map(Listing::lines) {
            let wrong = |what: String| match &listing {
                Some(listing) => listing.wrong(number, what, WRITE),
                None => Failure::usage(what, WRITE),
            };
            let mut words = line.split_whitespace();
            let name = words.next().unwrap_or_default();
            let key = words.next().ok_or_else(|| wrong(format!("\"{name}\" has no key")))?;
            if let Some(more) = words.next() {
                return Err(wrong(format!("\"{more}\" is too much; a comment begins with #")));
            }
            if !is_name(name) {
                return Err(wrong(format!(
                    "\"{name}\" is no name: use letters, digits, . _ and -"
                )));
            }
            let key = key.parse().map_err(|error| wrong(format!("the key of {name}: {error}")))?;
            if let Some(before) = peers.iter().position(|(other, _)| other == name) {
                let before: usize = numbers[before];
                return Err(wrong(format!("{name} is in line {before} already")));
            }
            peers.push((name.to_owned(), key));
            numbers.push(number);
        }
        Ok(Self { path: path.to_owned(), peers })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Everybody's key.
    pub fn keys(&self) -> Vec<PublicKey> {
        self.peers.iter().map(|(_, key)| *key).collect()
    }

    /// Whose key it is.
    pub fn name_of(&self, key: PublicKey) -> Option<&str> {
        self.peers.iter().find(|(_, it)| *it == key).map(|(name, _)| name.as_str())
    }

    /// The key of somebody, who may also be named by it.
    ///
    /// # Errors
    /// A usage failure for a name that is not in the file, or a key that is mistyped.
    pub fn key_of(&self, name: &str) -> Result<PublicKey, Failure> {
        if let Some((_, key)) = self.peers.iter().find(|(it, _)| it == name) {
            return Ok(*key);
        }
        if name.to_ascii_lowercase().starts_with("tp1") {
            let wrong = |error| Failure::usage(format!("the key \"{name}\": {error}"), WRITE);
            return name.parse().map_err(wrong);
        }
        let path = self.path.display();
        let known: Vec<&str> = self.peers.iter().map(|(name, _)| name.as_str()).collect();
        let known = match known[..] {
            [] => "nobody is there yet".to_owned(),
            _ => format!("there are {}", known.join(", ")),
        };
        Err(Failure::usage(
            format!("\"{name}\" is not in {path}"),
            format!("add a line: {name} KEY, as tcp-punch expose prints it there ({known})"),
        ))
    }
}

/// A name that looks like a key, or like an option, would be taken for one.
fn is_name(name: &str) -> bool {
    let of_name = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    name.bytes().all(of_name)
        && !name.starts_with('-')
        && !name.to_ascii_lowercase().starts_with("tp1")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rendezvous::Identity;

    fn key(byte: u8) -> PublicKey {
        Identity::generate([byte; 32]).public()
    }

    fn read(text: &str) -> Result<Peers, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("peers");
        std::fs::write(&path, text).unwrap();
        let without_path = |failure: Failure| {
            let folder = format!("{}/", directory.path().display());
            failure.happened.replace(&folder, "")
        };
        Peers::read(&path).map_err(without_path)
    }

    #[test]
    fn names_and_keys_are_found_either_way() {
        let (one, two) = (key(1), key(2));
        let peers = read(&format!(
            "# who may call\n\nlaptop {one} # mine\r\n  work.desk-2\t{}  \n",
            two.to_string().to_uppercase()
        ))
        .unwrap();
        assert_eq!(peers.keys(), [one, two]);
        assert_eq!(peers.name_of(two), Some("work.desk-2"));
        assert_eq!(peers.name_of(key(3)), None);
        assert_eq!(peers.key_of("laptop"), Ok(one));
        assert_eq!(peers.key_of(&key(3).to_string()), Ok(key(3)));
    }

    #[test]
    fn a_wrong_line_is_named() {
        let one = key(1);
        for (text, says) in [
            ("laptop\n".to_owned(), "peers line 1: \"laptop\" has no key".to_owned()),
            (
                format!("\n#\nlaptop {one} mine\n"),
                "peers line 3: \"mine\" is too much; a comment begins with #".into(),
            ),
            ("laptop tp1x\n".into(), {
                "peers line 1: the key of laptop: it has 1 letters and digits after tp1, and \
                 should have 56"
                    .into()
            }),
            (format!("a {one}\nb {one}\n\na {one}"), "peers line 4: a is in line 1 already".into()),
            (
                format!("tp1x {one}\n"),
                "peers line 1: \"tp1x\" is no name: use letters, digits, . _ and -".into(),
            ),
        ] {
            assert_eq!(read(&text).map(|peers| peers.peers), Err(says));
        }
    }

    #[test]
    fn an_unknown_name_is_told_those_that_are_known() {
        let peers = read(&format!("home {}\nwork {}\n", key(1), key(2))).unwrap();
        let failure = peers.key_of("hime").unwrap_err();
        assert!(failure.happened.starts_with("\"hime\" is not in /"), "{failure}");
        assert!(failure.todo.ends_with("(there are home, work)"), "{failure}");
        let mistyped = format!("{}a", key(1));
        assert!(peers.key_of(&mistyped).unwrap_err().happened.contains("57 letters"));
    }

    #[test]
    fn a_file_that_is_not_there_has_nobody_in_it() {
        let peers = Peers::read(Path::new("/nonexistent/peers")).unwrap();
        assert!(peers.keys().is_empty());
        assert!(peers.key_of("home").unwrap_err().todo.ends_with("(nobody is there yet)"));
    }

    #[test]
    fn a_file_that_anybody_may_write_decides_nothing() {
        use std::os::unix::fs::PermissionsExt;
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::set_permissions(file.path(), PermissionsExt::from_mode(0o662)).unwrap();
        let failure = Peers::read(file.path()).unwrap_err();
        assert!(failure.happened.ends_with("can be changed by others (mode 662)"), "{failure}");
    }
}
