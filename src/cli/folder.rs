//! Where tcp-punch keeps its key, the peers that it knows and its configuration.

use super::Failure;
use crate::sys::account::Account;
use nix::unistd::{Gid, Uid, geteuid};
use std::ffi::OsString;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::{Path, PathBuf};

/// The folder. It need not be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder {
    path: PathBuf,
    /// Whose it is, where that is not who we are.
    owner: Option<(Uid, Gid)>,
}

/// The service's folder, and root's.
const SYSTEM: &str = "/etc/tcp-punch";

impl Folder {
    /// The folder of whoever runs this.
    ///
    /// It is what systemd names in `CONFIGURATION_DIRECTORY`; else `tcp-punch` in
    /// `XDG_CONFIG_HOME`; else, under sudo, that of who called sudo, so that a key is the same with
    /// sudo and without; for root without sudo `/etc/tcp-punch`; for everybody else
    /// `~/.config/tcp-punch`.
    ///
    /// # Errors
    /// A usage failure where there is no such place.
    pub fn find() -> Result<Self, Failure> {
        let caller = Account::who_called_sudo().map_err(|error| {
            Failure::usage(error, "call sudo as a user of this host, or give --identity FILE")
        })?;
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        Self::of(variable, caller.as_ref(), geteuid().is_root()).ok_or_else(|| {
            Failure::usage("HOME is not set", "set it, or XDG_CONFIG_HOME, to an absolute path")
        })
    }

    fn of(
        variable: impl Fn(&str) -> Option<OsString>,
        caller: Option<&Account>,
        root: bool,
    ) -> Option<Self> {
        let owner = caller.map(|caller| (caller.uid, caller.gid));
        let absolute = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
        if let Some(path) = absolute("CONFIGURATION_DIRECTORY") {
            return Some(Self { path, owner: None });
        }
        let path = match (absolute("XDG_CONFIG_HOME"), caller) {
            (Some(home), _) => home.join("tcp-punch"),
            (None, Some(caller)) => caller.home().join(".config/tcp-punch"),
            (None, None) if root => SYSTEM.into(),
            (None, None) => absolute("HOME")?.join(".config/tcp-punch"),
        };
        Some(Self { path, owner })
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Makes the folder of `file` if it is missing, and what is missing above it.
    ///
    /// # Errors
    /// The system's.
    pub fn make_room_for(&self, file: &Path) -> io::Result<()> {
        let Some(folder) = file.parent() else { return Ok(()) };
        let missing: Vec<&Path> = folder
            .ancestors()
            .take_while(|it| !it.as_os_str().is_empty() && !it.exists())
            .collect();
        for folder in missing.into_iter().rev() {
            // The system's folder holds what a service of another user reads.
            let mode = if folder.starts_with(SYSTEM) { 0o755 } else { 0o700 };
            DirBuilder::new().mode(mode).create(folder)?;
            self.give(folder)?;
        }
        Ok(())
    }

    /// Gives what was made in it to its owner.
    ///
    /// # Errors
    /// The system's.
    pub fn give(&self, path: &Path) -> io::Result<()> {
        match self.owner {
            Some((uid, gid)) => chown(path, Some(uid.as_raw()), Some(gid.as_raw())),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)], caller: Option<&Account>, root: bool) -> Option<PathBuf> {
        let value = |name: &str| {
            let found = variables.iter().find(|(it, _)| *it == name);
            found.map(|(_, value)| OsString::from(value))
        };
        Folder::of(value, caller, root).map(|folder| folder.path)
    }

    #[test]
    fn each_user_has_a_folder() {
        let home = ("HOME", "/home/ann");
        assert_eq!(of(&[home], None, false), Some("/home/ann/.config/tcp-punch".into()));
        assert_eq!(of(&[("HOME", "/root")], None, true), Some(SYSTEM.into()));
        let xdg = ("XDG_CONFIG_HOME", "/x");
        assert_eq!(of(&[home, xdg], None, false), Some("/x/tcp-punch".into()));
        assert_eq!(of(&[home, ("XDG_CONFIG_HOME", "x")], None, true), Some(SYSTEM.into()));
        let systemd = ("CONFIGURATION_DIRECTORY", "/etc/tcp-punch");
        assert_eq!(of(&[xdg, systemd], None, false), Some("/etc/tcp-punch".into()));
        assert_eq!(of(&[], None, false), None);
    }

    #[test]
    fn sudo_uses_the_folder_of_who_called_it() {
        let caller = Account::named("root").unwrap();
        let folder = of(&[("HOME", "/elsewhere")], Some(&caller), true);
        assert_eq!(folder, Some("/root/.config/tcp-punch".into()));
    }
}
