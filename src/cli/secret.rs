//! `--key` and `--key-env`: the shared secret, from a file or the environment, never from the
//! command line, which every process of the host can read.

use super::Failure;
use crate::punch::Key;
use std::ffi::OsStr;
use std::fmt::Display;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use zeroize::Zeroizing;

/// The largest key file that is read: a passphrase is a line, and anything longer is the wrong
/// file.
pub const LARGEST: u64 = 4096;

/// Separates keys made from passphrases here from every other use of the same words.
const CONTEXT: &str = "tcp-punch 2026-11 passphrase to key";

/// Reads a key file. It may be a pipe, as in `--key <(pass show peer)`.
///
/// # Errors
/// As [`read`], and a usage failure if the file holds no secret.
pub fn from_file(path: &Path) -> Result<Key, Failure> {
    let bytes = read("key file", path, "64 hex digits or a passphrase on its first line")?;
    let name = path.display();
    key(&bytes).ok_or_else(|| {
        Failure::usage(
            format!("key file {name} holds no secret on its first line"),
            format!(
                "make one: (umask 077; openssl rand -hex 32 > {name}), and copy it to the peer"
            ),
        )
    })
}

/// Reads a file that nobody else may read. `what` it is and what it `holds` is for people.
///
/// # Errors
/// A usage failure if the file cannot be read, is a directory, is larger than [`LARGEST`], or is
/// accessible to group or others.
pub fn read(what: &str, path: &Path, holds: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let name = path.display();
    let wrong = |how: &dyn Display| {
        Failure::usage(format!("{what} {name} {how}"), format!("give a file that holds {holds}"))
    };
    let unreadable = |error| wrong(&format_args!("cannot be read: {error}"));
    let file = File::open(path).map_err(unreadable)?;
    // The open file is judged, not the path, which could change in between.
    let metadata = file.metadata().map_err(unreadable)?;
    if metadata.is_dir() {
        return Err(wrong(&"is a directory"));
    }
    if metadata.mode() & 0o077 != 0 {
        return Err(Failure::usage(
            format!("{what} {name} is open to others (mode {:03o})", metadata.mode() & 0o777),
            format!("close it: chmod 600 {name}"),
        ));
    }
    // Room for all of it: no copy is left behind by growing.
    let mut bytes = Zeroizing::new(Vec::with_capacity(LARGEST as usize + 64));
    file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > LARGEST {
        return Err(wrong(&format_args!("is larger than {LARGEST} bytes")));
    }
    Ok(bytes)
}

/// Reads the environment variable `name`.
///
/// # Errors
/// A usage failure if it is not set or empty.
pub fn from_env(name: &OsStr) -> Result<Key, Failure> {
    let shown = name.to_string_lossy();
    let todo = "set it to 64 hex digits or a passphrase; sudo needs --preserve-env=NAME to pass it";
    let value = std::env::var_os(name)
        .ok_or_else(|| Failure::usage(format!("environment variable {shown} is not set"), todo))?;
    key(&value.into_vec())
        .ok_or_else(|| Failure::usage(format!("environment variable {shown} is empty"), todo))
}

/// The key in `bytes`: 64 hex digits are the key itself; any other first line is a passphrase,
/// every byte of which counts except the line's end. `None` if the first line is empty.
///
/// The derivation is fast, not a password hash, since both ends must come to the same key at any
/// time: whoever records a handshake can try guesses, so that a passphrase has to be a long one.
fn key(bytes: &[u8]) -> Option<Key> {
    let line = bytes.split(|b| *b == b'\n').next()?;
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.is_empty() {
        return None;
    }
    Some(Key::from_bytes(hex(line).unwrap_or_else(|| blake3::derive_key(CONTEXT, line))))
}

fn hex(line: &[u8]) -> Option<[u8; 32]> {
    let digits: [u8; 64] = line.try_into().ok()?;
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = u8::try_from(high << 4 | low).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    fn file(content: &[u8], mode: u32) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, content).unwrap();
        std::fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
        file
    }

    #[test]
    fn hex_is_the_key_itself_in_either_case() {
        let lower = "00ff".repeat(16);
        let expected = Key::from_bytes([[0x00, 0xff]; 16].as_flattened().try_into().unwrap());
        assert_eq!(key(lower.as_bytes()), Some(expected.clone()));
        assert_eq!(key(format!("{}\n", lower.to_uppercase()).as_bytes()), Some(expected));
    }

    #[test]
    fn a_passphrase_is_the_first_line_to_the_byte() {
        let plain = key(b"correct horse");
        assert_eq!(key(b"correct horse\n"), plain);
        assert_eq!(key(b"correct horse\r\nsecond line"), plain);
        assert_ne!(key(b"correct horse "), plain);
        assert_ne!(key(b"Correct horse"), plain);
        for empty in [&b""[..], b"\n", b"\r\n", b"\nsecond line"] {
            assert_eq!(key(empty), None);
        }
    }

    #[test]
    fn files_that_are_refused_say_why() {
        let open = file(b"secret", 0o640);
        let failure = from_file(open.path()).unwrap_err();
        assert!(failure.happened.ends_with("is open to others (mode 640)"), "{failure}");
        assert_eq!(failure.todo, format!("close it: chmod 600 {}", open.path().display()));

        let large = file(&[b'x'; 4097], 0o600);
        assert!(from_file(large.path()).unwrap_err().happened.ends_with("larger than 4096 bytes"));
        let empty = file(b"\n", 0o600);
        assert!(from_file(empty.path()).unwrap_err().happened.contains("holds no secret"));
        let directory = tempfile::tempdir().unwrap();
        assert!(from_file(directory.path()).unwrap_err().happened.ends_with("is a directory"));
        assert!(
            from_file(Path::new("/nonexistent/k")).unwrap_err().happened.contains("cannot be read")
        );
        assert!(from_file(file(&[b'x'; 4096], 0o600).path()).is_ok());
    }

    #[test]
    fn the_environment_serves_too() {
        let failure = from_env(OsStr::new("TCP_PUNCH_TEST_NOT_SET")).unwrap_err();
        assert_eq!(failure.happened, "environment variable TCP_PUNCH_TEST_NOT_SET is not set");
        assert!(from_env(OsStr::new("PATH")).is_ok());
    }

    proptest! {
        #[test]
        fn every_32_bytes_survive_hex(bytes in any::<[u8; 32]>()) {
            let digits: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
            prop_assert_eq!(key(digits.as_bytes()), Some(Key::from_bytes(bytes)));
        }
    }
}
