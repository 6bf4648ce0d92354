//! Other users and capabilities.

use nix::unistd::geteuid;

use super::*;

const CAPABILITIES: &str = "grep -E '^Cap' /proc/self/status";
const IDENTITY: &str = "id -u; id -g; id -G; echo $HOME $USER $LOGNAME $SHELL";

/// Whether a test can run; says why when it cannot.
fn is_root() -> bool {
    let root = geteuid().is_root();
    if !root {
        eprintln!("skipped: other users and capabilities need root");
    }
    root
}

fn capability_set(status: &str, name: &str) -> u64 {
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    u64::from_str_radix(line.split('\t').next_back().unwrap(), 16).unwrap()
}

fn hear_command(script: &str, configure: impl FnOnce(&mut Command)) -> String {
    let mut role = start_command("inetd", script, configure);
    let heard = role.hear();
    assert_eq!(role.code(), 0);
    heard
}

#[test]
fn a_command_of_root_has_no_capability_and_gains_none() {
    if !is_root() {
        return;
    }
    let status = hear_command(CAPABILITIES, |_| {});
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(capability_set(&status, set), 0, "{status}");
    }
}

#[test]
fn under_sudo_a_command_is_the_callers() {
    if !is_root() {
        return;
    }
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    let sudo = |command: &mut Command| {
        command
            .env("SUDO_UID", nobody.uid.to_string())
            .env("SUDO_GID", nobody.gid.to_string())
            .env("SUDO_USER", "nobody")
            .env("HOME", "/root");
    };
    let heard = hear_command(IDENTITY, sudo);
    let expected = format!(
        "{}\n{}\n{}\n{} nobody nobody {}\n",
        nobody.uid,
        nobody.gid,
        nobody.gid,
        nobody.dir.display(),
        nobody.shell.display()
    );
    assert_eq!(heard, expected);
    let status = hear_command(CAPABILITIES, sudo);
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(capability_set(&status, set), 0, "{status}");
    }
}

#[test]
fn a_named_user_is_an_ordinary_one() {
    if !is_root() {
        return;
    }
    let ours = std::fs::read_to_string("/proc/self/status").unwrap();
    let bounding = capability_set(&ours, "CapBnd");
    let status = hear_command(CAPABILITIES, |command| {
        command.env("ROLE_USER", "nobody");
    });
    assert_eq!(capability_set(&status, "CapEff"), 0);
    assert_eq!(capability_set(&status, "CapBnd"), bounding);

    let status = hear_command(CAPABILITIES, |command| {
        command.env("ROLE_USER", "root").env("SUDO_UID", "65534");
    });
    assert_eq!(capability_set(&status, "CapEff"), bounding);
    assert_eq!(capability_set(&status, "CapBnd"), bounding);
}

#[test]
fn the_command_of_another_user_ends_with_us() {
    if !is_root() {
        return;
    }
    for user in ["nobody", "root"] {
        let script = "echo ready; exec sleep 1000";
        let mut role = start_command("inetd", script, |command| {
            command.env("ROLE_USER", user);
        });
        let mut ready = [0; 6];
        role.peer.read_exact(&mut ready).unwrap();
        role.process.kill().unwrap();
        assert_eq!(role.hear(), "");
        role.status();
    }
}

#[test]
fn we_keep_no_capability_beside_the_command() {
    if !is_root() {
        return;
    }
    for user in [None, Some("nobody"), Some("root")] {
        let mut role = start_command("inetd", "echo ready; read line", |command| {
            if let Some(user) = user {
                command.env("ROLE_USER", user);
            }
        });
        let mut ready = [0; 6];
        role.peer.read_exact(&mut ready).unwrap();
        // The thread that delivers, not the harness's main one, which waits for it.
        let process = role.process.id();
        let ours = loop {
            let found = std::fs::read_dir(format!("/proc/{process}/task"))
                .unwrap()
                .map(|task| task.unwrap().path())
                .find(|task| !task.ends_with(process.to_string()))
                .unwrap();
            let status = std::fs::read_to_string(found.join("status")).unwrap();
            // With root by name the drop comes just after the fork.
            if capability_set(&status, "CapPrm") == 0 || user != Some("root") {
                break status;
            }
            thread::yield_now();
        };
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(capability_set(&ours, set), 0, "{user:?} {ours}");
        }
        role.peer.write_all(b"end\n").unwrap();
        assert_eq!(role.code(), 0);
    }
}

#[test]
fn a_command_that_its_user_may_not_execute_is_found_out_before() {
    if !is_root() {
        return;
    }
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o700)).unwrap();
    let program = directory.path().join("program");
    std::fs::copy("/bin/true", &program).unwrap();
    let error = Destination::Command {
        argv: vec![program.into()],
        passing: Passing::Inetd,
        user: Some("nobody".into()),
    }
    .prepare()
    .unwrap_err();
    assert!(
        error.to_string().ends_with("is not executable by nobody"),
        "{error}"
    );
    assert_eq!(error.exit_status(), 2);
}
