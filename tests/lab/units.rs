//! The units of docs/systemd under systemd itself.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::program::binary;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/units.sh");
const UNITS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/systemd");

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn server_and_service_start_hardened_and_stop_in_order() {
    let map = std::fs::read_to_string("/proc/self/uid_map").expect("Linux has it");
    if !Path::new("/lib/systemd/systemd").exists() || map.split_whitespace().nth(2) == Some("1") {
        eprintln!("skipped: there is no systemd, or no other user than root");
        return;
    }
    let mut command = Command::new("bash");
    command.arg(SCRIPT).arg(binary()).arg(UNITS).stdin(Stdio::null());
    let output = command.output().expect("bash runs");
    let said = String::from_utf8_lossy(&output.stdout);
    let all = format!("{said}\n{}", String::from_utf8_lossy(&output.stderr));
    // The first line: the server passes on calls to the service.
    for line in [
        "tcp_punch_listening 1",
        "tcp-punch-serve ActiveState=active",
        "tcp-punch-serve NRestarts=0",
        "tcp-punch-serve CapPrm:\t0000000000000000",
        "tcp-punch-serve CapBnd:\t0000000000000000",
        "tcp-punch-serve NoNewPrivs:\t1",
        "tcp-punch-serve Seccomp:\t2",
        "tcp-punch-expose ActiveState=active",
        "tcp-punch-expose NRestarts=0",
        // CAP_NET_BIND_SERVICE, CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_NICE, CAP_BPF.
        "tcp-punch-expose CapPrm:\t0000008000803400",
        "tcp-punch-expose CapBnd:\t0000008000803400",
        "tcp-punch-expose NoNewPrivs:\t1",
        "tcp-punch-expose Seccomp:\t2",
        "tcp-punch-expose stopped ExecMainStatus=0",
        "tcp-punch-expose stopped Result=success",
        "tcp-punch-serve stopped ExecMainStatus=0",
        "tcp-punch-serve stopped Result=success",
    ] {
        assert!(said.lines().any(|it| it == line), "no \"{line}\" in:\n{all}");
    }
    for unit in ["tcp-punch-serve", "tcp-punch-expose"] {
        let uid = said.lines().find_map(|it| it.strip_prefix(unit)?.strip_prefix(" Uid:\t"));
        assert!(uid.is_some_and(|uid| !uid.starts_with("0\t")), "{unit} runs as root:\n{all}");
    }
}
