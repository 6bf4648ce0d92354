//! The user that a command runs as.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, OsString};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{
    AccessFlags, ForkResult, Gid, Uid, User, access, fork, geteuid, getgrouplist, getuid,
    setgroups, setresgid, setresuid,
};

/// A user of this host, with everything that becoming one takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Login name.
    pub name: String,
    /// User id.
    pub uid: Uid,
    /// Primary group.
    pub gid: Gid,
    home: PathBuf,
    shell: PathBuf,
    groups: Vec<Gid>,
}

/// Why an account cannot be had or assumed.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// Neither a name nor a number that the user database knows.
    #[error("there is no user {0}")]
    Unknown(String),
    /// A system call failed.
    #[error("{call} for user {name}: {source}")]
    Call {
        /// The system or library call.
        call: &'static str,
        /// The user.
        name: String,
        /// What it reported.
        source: Errno,
    },
}

impl Account {
    /// Looks a user up by name or, where there is no such name, by number.
    ///
    /// # Errors
    /// [`AccountError::Unknown`], or the user database could not be read.
    pub fn named(name_or_uid: &str) -> Result<Self, AccountError> {
        let failed =
            |source| AccountError::Call { call: "getpwnam", name: name_or_uid.to_owned(), source };
        let by_name = User::from_name(name_or_uid).map_err(failed)?;
        let user = match (by_name, name_or_uid.parse()) {
            (Some(user), _) => Some(user),
            (None, Ok(uid)) => User::from_uid(Uid::from_raw(uid)).map_err(failed)?,
            (None, Err(_)) => None,
        };
        match user {
            Some(user) => Self::of(user),
            None => Err(AccountError::Unknown(name_or_uid.to_owned())),
        }
    }

    /// The user who called sudo, from `SUDO_UID`; `None` without sudo.
    ///
    /// Only root believes the variable: for any other user it is a leftover of a parent process.
    ///
    /// # Errors
    /// `SUDO_UID` names nobody, or the user database could not be read.
    pub fn who_called_sudo() -> Result<Option<Self>, AccountError> {
        if !geteuid().is_root() {
            return Ok(None);
        }
        let Some(text) = std::env::var_os("SUDO_UID") else {
            return Ok(None);
        };
        let unknown = || AccountError::Unknown(format!("{} (from SUDO_UID)", text.display()));
        let uid = text
            .to_str()
            .and_then(|digits| digits.parse().ok())
            .map(Uid::from_raw)
            .ok_or_else(unknown)?;
        let user = User::from_uid(uid).map_err(|source| AccountError::Call {
            call: "getpwuid",
            name: uid.to_string(),
            source,
        })?;
        user.ok_or_else(unknown).and_then(Self::of).map(Some)
    }

    fn of(user: User) -> Result<Self, AccountError> {
        let failed =
            |source| AccountError::Call { call: "getgrouplist", name: user.name.clone(), source };
        let name = CString::new(user.name.as_str()).map_err(|_| failed(Errno::EINVAL))?;
        let groups = getgrouplist(&name, user.gid).map_err(failed)?;
        Ok(Self {
            name: user.name,
            uid: user.uid,
            gid: user.gid,
            home: user.dir,
            shell: user.shell,
            groups,
        })
    }

    /// The home directory.
    #[must_use]
    pub fn home(&self) -> &std::path::Path {
        &self.home
    }

    /// Whether this process already runs as this user.
    #[must_use]
    pub fn is_current(&self) -> bool {
        getuid() == self.uid && geteuid() == self.uid
    }

    /// What a login would set in the environment.
    #[must_use]
    pub fn environment(&self) -> [(&'static str, OsString); 4] {
        [
            ("HOME", self.home.clone().into_os_string()),
            ("USER", self.name.clone().into()),
            ("LOGNAME", self.name.clone().into()),
            ("SHELL", self.shell.clone().into_os_string()),
        ]
    }

    /// Makes the whole process, every thread, run as this user, with this user's groups and no way
    /// back.
    ///
    /// # Errors
    /// [`AccountError::Call`]; the process may then have changed in part and should end.
    pub fn assume(&self) -> Result<(), AccountError> {
        self.change_ids().map_err(|(call, source)| AccountError::Call {
            call,
            name: self.name.clone(),
            source,
        })
    }

    /// Groups first: once the user is changed, nothing else can be. Allocates nothing.
    fn change_ids(&self) -> Result<(), (&'static str, Errno)> {
        setgroups(&self.groups).map_err(|error| ("setgroups", error))?;
        setresgid(self.gid, self.gid, self.gid).map_err(|error| ("setresgid", error))?;
        setresuid(self.uid, self.uid, self.uid).map_err(|error| ("setresuid", error))
    }

    /// Whether this user may execute the file at `path`, by modes, access lists and every directory
    /// on the way: asked of the kernel by a short-lived child that is that user.
    ///
    /// # Errors
    /// The child could not be made or could not become the user.
    pub fn may_execute(&self, path: &CStr) -> Result<bool, AccountError> {
        const CANNOT_BECOME: i32 = 2;
        let failed =
            |call| move |source| AccountError::Call { call, name: self.name.clone(), source };
        if self.is_current() {
            return Ok(access(path, AccessFlags::X_OK).is_ok());
        }
        // SAFETY: the child allocates nothing, takes no lock and leaves by _exit.
        match unsafe { fork() }.map_err(failed("fork"))? {
            ForkResult::Child => {
                let answer = match self.change_ids() {
                    Ok(()) => i32::from(access(path, AccessFlags::X_OK).is_err()),
                    Err(_) => CANNOT_BECOME,
                };
                // SAFETY: ends the child without running anything of the parent's.
                unsafe { nix::libc::_exit(answer) }
            }
            ForkResult::Parent { child } => loop {
                match waitpid(child, None) {
                    Ok(WaitStatus::Exited(_, 0)) => return Ok(true),
                    Ok(WaitStatus::Exited(_, 1)) => return Ok(false),
                    Ok(_) => return Err(failed("setresuid")(Errno::EPERM)),
                    Err(Errno::EINTR) => {}
                    Err(error) => return Err(failed("waitpid")(error)),
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_user_is_found_by_name_and_by_number() {
        let root = Account::named("root").unwrap();
        assert_eq!(root.uid, Uid::from_raw(0));
        assert_eq!(Account::named("0").unwrap(), root);
        assert!(root.groups.contains(&root.gid));
        let [home, user, logname, _shell] = root.environment();
        assert_eq!(home, ("HOME", "/root".into()));
        assert_eq!(user, ("USER", "root".into()));
        assert_eq!(logname, ("LOGNAME", "root".into()));
    }

    #[test]
    fn an_unknown_user_is_named() {
        for name in ["no-such-user", "4294967294", "-1", "", "ro\0ot"] {
            assert!(
                matches!(Account::named(name), Err(AccountError::Unknown(unknown)) if unknown == name),
                "{name:?}"
            );
        }
    }

    #[test]
    fn the_kernel_says_who_may_execute() {
        let ourselves = Account::named(&getuid().to_string()).unwrap();
        assert!(ourselves.may_execute(c"/bin/sh").unwrap());
        assert!(!ourselves.may_execute(c"/no/such/file").unwrap());
        if !geteuid().is_root() {
            eprintln!("other users not examined: becoming one needs root");
            return;
        }
        let nobody = Account::named("nobody").unwrap();
        assert!(nobody.may_execute(c"/bin/sh").unwrap());
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("program");
        std::fs::write(&program, "#!/bin/sh\n").unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        let path = CString::new(program.to_str().unwrap()).unwrap();
        std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o700)).unwrap();
        // The file would do; the directory above it, mode 0700 and root's, does not.
        assert!(!nobody.may_execute(&path).unwrap());
        std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
        assert!(nobody.may_execute(&path).unwrap());
    }
}
