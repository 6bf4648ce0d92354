//! `--identity`: this host's long-lived key pair, made when it is needed first.

use super::folder::Folder;
use super::{Failure, Status, secret};
use crate::rendezvous::Identity;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// A key pair, and where it is kept.
#[derive(Debug)]
pub struct Kept {
    /// The key pair.
    pub identity: Identity,
    /// Its file.
    pub path: PathBuf,
    /// Whether it was made just now.
    pub made: bool,
}

/// Reads the key pair in `file`, by default the one in the usual folder, and makes it if there is
/// none.
///
/// # Errors
/// A usage failure for a file that is no key, or that others may read.
pub fn identity(file: Option<&Path>) -> Result<Kept, Failure> {
    let folder = Folder::find();
    let path = match (file, &folder) {
        (Some(path), _) => path.to_owned(),
        (None, Ok(folder)) => folder.file("identity"),
        (None, Err(failure)) => return Err(failure.clone()),
    };
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let made = make(&path, folder.as_ref().ok()).map_err(|error| {
                Failure::usage(
                    format!("no key pair can be made at {}: {error}", path.display()),
                    "name a file in a directory that exists and is writable: --identity FILE",
                )
            })?;
            match made {
                Some(identity) => Ok(Kept { identity, path, made: true }),
                // Another process was faster.
                None => read(path),
            }
        }
        _ => read(path),
    }
}

fn read(path: PathBuf) -> Result<Kept, Failure> {
    let bytes = secret::read("identity", &path, "a key pair that tcp-punch made")?;
    let name = path.display();
    let broken = |what: &dyn std::fmt::Display| {
        Failure::usage(
            format!("identity {name} is no key pair: {what}"),
            "restore it from a copy; or move it away, and a new one is made, with another name",
        )
    };
    let text = str::from_utf8(&bytes).map_err(|_| broken(&"it is not text"))?;
    let identity = text.parse().map_err(|error| broken(&error))?;
    Ok(Kept { identity, path, made: false })
}

/// Makes a key pair. The file is there with all of it, or not at all; nobody else could ever read
/// it. `None` if somebody else has made it meanwhile.
fn make(path: &Path, folder: Option<&Folder>) -> io::Result<Option<Identity>> {
    let mut random = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *random).map_err(io::Error::other)?;
    let identity = Identity::generate(*random);
    if let Some(folder) = folder {
        folder.make_room_for(path)?;
    }
    let name = path.file_name().ok_or(io::ErrorKind::IsADirectory)?.to_string_lossy();
    let unique = format!(".{name}.{}-{:x}", std::process::id(), getrandom::u32().unwrap_or(0));
    let draft = path.with_file_name(unique);
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        file.write_all(identity.to_text().as_bytes())?;
        file.sync_all()?;
        if let Some(folder) = folder {
            folder.give(&draft)?;
        }
        // Unlike renaming, this overwrites nothing.
        std::fs::hard_link(&draft, path)
    })();
    let _ = std::fs::remove_file(&draft);
    match written {
        Ok(()) => Ok(Some(identity)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(None),
        Err(error) => Err(error),
    }
}

/// `tcp-punch key`: prints the public key, alone, on standard output.
///
/// # Errors
/// As [`identity`].
pub fn show(file: Option<&Path>) -> Result<u8, Failure> {
    let kept = identity(file)?;
    if kept.made {
        eprintln!("tcp-punch: made a key pair in {}", kept.path.display());
    }
    super::print(format!("{}\n", kept.identity.public()).as_bytes())?;
    Ok(Status::Done as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    fn at(path: &Path) -> Result<Kept, Failure> {
        identity(Some(path))
    }

    #[test]
    fn a_key_pair_is_made_once_and_is_nobody_elses() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new/folder/identity");
        let made = at(&path).unwrap();
        assert!(made.made);
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        assert_eq!(path.parent().unwrap().metadata().unwrap().mode() & 0o777, 0o700);
        let again = at(&path).unwrap();
        assert!(!again.made);
        assert_eq!(again.identity.public(), made.identity.public());
        assert_eq!(path.parent().unwrap().read_dir().unwrap().count(), 1, "no draft is left");
    }

    #[test]
    fn of_many_that_make_it_at_once_all_have_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("identity");
        let keys: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| at(&path).unwrap())).collect();
            threads.into_iter().map(|it| it.join().unwrap().identity.public()).collect()
        });
        assert!(keys.iter().all(|key| *key == keys[0]));
    }

    #[test]
    fn files_that_are_refused_say_why() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("identity");
        at(&path).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
        let failure = at(&path).unwrap_err();
        assert!(failure.happened.ends_with("identity is open to others (mode 640)"), "{failure}");
        std::fs::write(&path, "words").unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        assert!(at(&path).unwrap_err().happened.contains("is no key pair: it does not begin with"));
        let failure = at(Path::new("/proc/none/identity")).unwrap_err();
        assert!(
            failure.happened.starts_with("no key pair can be made at /proc/none/"),
            "{failure}"
        );
    }
}
