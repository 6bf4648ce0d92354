//! Who may punch, and as whom a command runs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::User;
use tcp_punch::engine::Report;

use crate::datapath;
use crate::pair::{End, Pair, both, in_ms};
use crate::program::{Program, START_UP_MS, binary};

/// Whether there are other users: a user namespace made without privilege has root alone. Says why
/// a test is skipped.
fn are_other_users() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").expect("Linux has it");
    let count = map.split_whitespace().nth(2).and_then(|count| count.parse::<u64>().ok());
    let others = count.is_some_and(|count| count > 1);
    if !others {
        eprintln!("skipped: this user namespace has root alone; run with sudo");
    }
    others
}

/// A copy of the program that every user may run.
fn copy_for_all(directory: &Path) -> PathBuf {
    let copy = directory.join("tcp-punch");
    fs::copy(binary(), &copy).expect("copied");
    for path in [directory, &copy] {
        fs::set_permissions(path, PermissionsExt::from_mode(0o755)).expect("open to all");
    }
    copy
}

/// A program on this host as user nobody, without capabilities.
fn as_nobody(end: &End, program: &Path) -> Command {
    let mut command = end.program("setpriv");
    let nobody = User::from_name("nobody").expect("a user database").expect("nobody is there");
    let (uid, gid) = (nobody.uid.to_string(), nobody.gid.to_string());
    command.args(["--reuid", &uid, "--regid", &gid, "--clear-groups"]).arg(program);
    command
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn without_capabilities_the_missing_ones_and_their_remedy_are_named() {
    if !are_other_users() {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let copy = copy_for_all(directory.path());
    let pair = Pair::on_one_lan();
    let mut command = as_nobody(&pair.a, &copy);
    command.args(["--peer", "192.168.1.3:40000", "--at", &in_ms(START_UP_MS).to_string()]);
    Program::start(&mut command).end().assert_complaint(
        3,
        "CAP_NET_RAW and CAP_NET_ADMIN are missing",
        &format!(
            "run it with sudo, or once: sudo setcap \
             cap_net_raw,cap_net_admin,cap_sys_nice,cap_ipc_lock,cap_bpf=ep {}",
            copy.display()
        ),
    );
    pair.a.host.assert_bare();
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn with_file_capabilities_any_user_punches() {
    if !are_other_users() {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let copy = copy_for_all(directory.path());
    let status = Command::new("setcap")
        .arg("cap_net_raw,cap_net_admin,cap_sys_nice,cap_ipc_lock,cap_bpf=ep")
        .arg(&copy)
        .status();
    assert!(status.expect("setcap runs").success());
    let pair = Pair::behind_nats(&[]);
    let at = in_ms(START_UP_MS).to_string();
    let end = |end: &End, peer: &End, line: &str| {
        let mut command = as_nobody(end, &copy);
        command.args(["--peer", &peer.at(40000).to_string(), "--at", &at]);
        command.args(datapath::options());
        let mut program = Program::start(&mut command);
        program.type_line(line);
        program.end_input();
        program.end()
    };
    let (a, b) =
        both(|| end(&pair.a, &pair.b, "from host-a"), || end(&pair.b, &pair.a, "from host-b"));
    assert_eq!((a.status, a.stdout.as_str()), (0, "from host-b\n"), "{a:?}");
    assert_eq!((b.status, b.stdout.as_str()), (0, "from host-a\n"), "{b:?}");
}

/// What a command of host-a says through the connection, with these variables set.
fn hear_command(script: &str, environment: &[(&str, &str)]) -> String {
    let pair = Pair::behind_nats(&[]);
    let at = in_ms(START_UP_MS);
    let mut command = pair.program_a(40000, at);
    let a =
        Program::start(command.args(["--", "sh", "-c", script]).envs(environment.iter().copied()));
    let mut b = Program::start(&mut pair.program_b(40000, at));
    b.end_input();
    let ended = a.end();
    assert_eq!(ended.status, 0, "{ended:?}");
    b.end().stdout
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn under_sudo_a_command_is_the_callers_and_has_no_capability() {
    if !are_other_users() {
        return;
    }
    let nobody = User::from_name("nobody").expect("a user database").expect("nobody is there");
    let (uid, gid) = (nobody.uid.to_string(), nobody.gid.to_string());
    let heard = hear_command(
        "id -u; id -g; grep -E '^Cap(Inh|Prm|Eff|Bnd|Amb)' /proc/self/status",
        &[("SUDO_UID", &uid), ("SUDO_GID", &gid), ("SUDO_USER", "nobody")],
    );
    let none = "0000000000000000";
    let sets = ["Inh", "Prm", "Eff", "Bnd", "Amb"].map(|set| format!("Cap{set}:\t{none}\n"));
    assert_eq!(heard, format!("{uid}\n{gid}\n{}", sets.concat()));
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_command_of_root_stays_roots_and_has_no_capability() {
    let heard = hear_command("id -u; grep -E '^Cap(Prm|Eff|Bnd)' /proc/self/status", &[]);
    let none = "0000000000000000";
    let sets = ["Prm", "Eff", "Bnd"].map(|set| format!("Cap{set}:\t{none}\n"));
    assert_eq!(heard, format!("0\n{}", sets.concat()));
}

/// `tcp-punch` on this host without the capability for eBPF, nor the one that implies it.
fn without_bpf(end: &End, options: &[&str]) -> Command {
    let mut command = end.program("setpriv");
    command.args(["--inh-caps=-all", "--bounding-set=-bpf,-sys_admin", &binary()]).args(options);
    command
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn without_the_capability_for_ebpf_it_is_refused_by_name_and_auto_does_without() {
    let pair = Pair::behind_nats(&[]);
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("report.json");
    let (peer, report) = (pair.b.at(40000).to_string(), path.display().to_string());
    let at = in_ms(START_UP_MS).to_string();
    let words = ["--peer", &peer, "--at", &at, "--report", &report];
    let mut asked = without_bpf(&pair.a, &words);
    let ended = Program::start(asked.args(["--datapath", "ebpf"])).end();
    ended.assert_complaint(
        3,
        "--datapath ebpf: CAP_BPF is missing",
        &format!(
            "run it with sudo, or once: sudo setcap \
             cap_net_raw,cap_net_admin,cap_sys_nice,cap_ipc_lock,cap_bpf=ep {}",
            binary()
        ),
    );
    assert!(!path.exists(), "nothing is left behind");
    pair.a.host.assert_bare();

    let at = in_ms(START_UP_MS);
    let words = ["--peer", &peer, "--at", &at.to_string(), "--report", &report, "-v"];
    let mut a = Program::start(&mut without_bpf(&pair.a, &words));
    let mut b = Program::start(&mut pair.program_b(40000, at));
    a.end_input();
    b.end_input();
    let (a, b) = (a.end(), b.end());
    assert_eq!((a.status, b.status), (0, 0), "{a:?}\n{b:?}");
    let told = "INFO packet sockets, no eBPF: CAP_BPF is missing";
    assert!(a.stderr.contains(told), "{}", a.stderr);
    let report: Report = serde_json::from_slice(&fs::read(path).expect("written")).expect("JSON");
    let datapath = report.datapath.expect("it was punched");
    assert_eq!((datapath.name.as_ref(), datapath.why.as_str()), ("packet", "CAP_BPF is missing"));
}
