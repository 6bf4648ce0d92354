//! A command found before the punch and run after it.

use std::ffi::{CString, OsStr, OsString};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

use super::{DestinationError, Passing};
use crate::sys::account::Account;
use crate::sys::child::{Child, Program};
use crate::sys::privilege;

/// Where a command is looked for when there is no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// A command that exists and may be executed, and the user who will.
///
/// It has no capability and, run by root, gains none: the bounding set is emptied. With a user
/// named explicitly it is run as that user would run it, root with all of root's capabilities.
#[derive(Debug)]
pub(super) struct Command {
    program: Program,
    account: Option<Account>,
    user_is_explicit: bool,
}

impl Command {
    pub(super) fn prepare(
        argv: Vec<OsString>,
        passing: Passing,
        user: Option<String>,
    ) -> Result<Self, DestinationError> {
        let user_is_explicit = user.is_some();
        let account = match user {
            Some(name) => Some(Account::named(&name)?),
            None => Account::who_called_sudo()?,
        };
        if let Some(account) = account.as_ref().filter(|it| !it.is_current()) {
            if !privilege::may_change_user() {
                return Err(DestinationError::MayNotChangeUser { name: account.name.clone() });
            }
            privilege::raise_for_hand_over()?;
        }
        let name = argv.first().ok_or(DestinationError::NoCommand)?;
        let path = find(name, account.as_ref())?;
        if let Some(interpreter) =
            missing_interpreter(Path::new(OsStr::from_bytes(path.as_bytes())))
        {
            return Err(DestinationError::NoInterpreter { command: name.clone(), interpreter });
        }
        let argv = argv
            .into_iter()
            .map(|argument| CString::new(argument.into_vec()))
            .collect::<Result<_, _>>()
            .map_err(|_| DestinationError::NulInArgument)?;
        let mut environment: Vec<_> = std::env::vars_os().collect();
        for (name, value) in account.iter().flat_map(Account::environment) {
            environment.retain(|(present, _)| present != name);
            environment.push((name.into(), value));
        }
        Ok(Self {
            program: Program { path, argv, environment, passing },
            account,
            user_is_explicit,
        })
    }

    pub(super) fn forget_variable(&mut self, name: &OsStr) {
        self.program.environment.retain(|(present, _)| present != name);
    }

    pub(super) fn run(self, connection: OwnedFd) -> Result<u8, DestinationError> {
        privilege::raise_for_hand_over()?;
        // While there still is the capability that it takes.
        if !self.user_is_explicit {
            privilege::forbid_gaining()?;
        }
        // We become that user too: without capabilities we could not pass signals on to another.
        if let Some(account) = self.account.as_ref().filter(|it| !it.is_current()) {
            account.assume()?;
            tracing::debug!(user = account.name, "user changed");
        }
        // Root asked for by name executes with all its capabilities. They stay until the fork,
        // because gaining them at exec would clear the signal that the command gets at our death.
        let is_root_by_name =
            self.user_is_explicit && self.account.as_ref().is_some_and(|it| it.uid.is_root());
        if !is_root_by_name {
            privilege::drop_all()?;
        }
        let command = self.program.argv.first().cloned().unwrap_or_default();
        let child = Child::spawn(&self.program, connection).map_err(|source| {
            DestinationError::Spawn { command: OsString::from_vec(command.into_bytes()), source }
        })?;
        privilege::drop_all()?;
        tracing::debug!("command runs, capabilities dropped");
        child.wait().map_err(|source| DestinationError::Wait { source })
    }
}

/// The file that a command's name stands for, as a shell would find it, executable by the user.
fn find(name: &OsStr, account: Option<&Account>) -> Result<CString, DestinationError> {
    let candidates: Vec<PathBuf> = if name.as_bytes().contains(&b'/') {
        vec![name.into()]
    } else if name.is_empty() {
        Vec::new()
    } else {
        let path = std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
        std::env::split_paths(&path).map(|directory| directory.join(name)).collect()
    };
    let mut unusable = None;
    for candidate in candidates {
        if !candidate.is_file() {
            continue;
        }
        let path = CString::new(candidate.into_os_string().into_vec())
            .map_err(|_| DestinationError::NulInArgument)?;
        let executable = match account {
            Some(account) => account.may_execute(&path)?,
            None => access(path.as_c_str(), AccessFlags::X_OK).is_ok(),
        };
        if executable {
            return Ok(path);
        }
        unusable.get_or_insert(path);
    }
    Err(match unusable {
        Some(path) => DestinationError::NotExecutable {
            path: OsString::from_vec(path.into_bytes()).into(),
            user: account.map(|it| it.name.clone()),
        },
        None => DestinationError::CommandNotFound { command: name.to_owned() },
    })
}

/// The interpreter that a script names on its first line, when there is no such file: `execve`
/// would say only that the script itself is missing, and say it after the punch.
fn missing_interpreter(script: &Path) -> Option<PathBuf> {
    // The kernel reads 256 bytes.
    let mut start = Vec::new();
    std::fs::File::open(script).and_then(|file| file.take(256).read_to_end(&mut start)).ok()?;
    let line = start.strip_prefix(b"#!")?.split(|&byte| byte == b'\n').next()?;
    let interpreter =
        line.split(|byte| byte.is_ascii_whitespace()).find(|word| !word.is_empty())?;
    let interpreter = PathBuf::from(OsStr::from_bytes(interpreter));
    (!interpreter.exists()).then_some(interpreter)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn prepare(argv: &[&str]) -> Result<Command, DestinationError> {
        let argv = argv.iter().map(Into::into).collect();
        Command::prepare(argv, Passing::Inetd, None)
    }

    #[test]
    fn a_command_is_found_in_path_or_by_its_path() {
        assert!(prepare(&["sh"]).unwrap().program.path.to_bytes().ends_with(b"/sh"));
        assert_eq!(prepare(&["/bin/sh", "-c", ""]).unwrap().program.path.as_c_str(), c"/bin/sh");
    }

    #[test]
    fn what_cannot_run_is_said_before() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let script = directory.path().join("script");
        let name = script.to_str().unwrap();
        std::fs::write(&script, "#! /no/such/interpreter -x\n").unwrap();

        let refused = |argv: &[&str]| {
            let error = prepare(argv).unwrap_err();
            assert_eq!(error.exit_status(), 2, "{error}");
            error
        };
        assert!(matches!(refused(&[]), DestinationError::NoCommand));
        for missing in ["no-such-command", "", "/no/such/file", "./no-such", "/bin"] {
            let error = refused(&[missing]);
            assert!(matches!(error, DestinationError::CommandNotFound { .. }), "{error}");
        }
        let error = refused(&[name]);
        assert!(matches!(error, DestinationError::NotExecutable { .. }), "{error}");
        std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
        let error = refused(&[name]);
        assert!(error.to_string().contains("/no/such/interpreter"), "{error}");
    }

    #[test]
    fn an_unknown_user_is_said_before() {
        let error =
            Command::prepare(vec!["sh".into()], Passing::Inetd, Some("no-such-user".into()))
                .unwrap_err();
        assert_eq!(error.to_string(), "there is no user no-such-user");
        assert_eq!(error.exit_status(), 2);
    }
}
