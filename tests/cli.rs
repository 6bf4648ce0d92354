//! The real binary on bad input: its exit status, and exactly two lines on standard error. No
//! packet is sent and no privilege needed.

#![allow(clippy::unwrap_used, reason = "a test that fails to set up has failed")]

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

const PEER: [&str; 2] = ["--peer", "203.0.113.7:40000"];

fn command(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tcp-punch"));
    command.args(words).stdin(Stdio::null()).env_remove("TCP_PUNCH_TEST_KEY");
    command
}

fn run(words: &[&str]) -> Output {
    command(words).output().unwrap()
}

/// The first line of a failure, without the program's name; the form of both is checked.
fn happened(output: &Output, status: i32) -> String {
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(status), "{stderr}");
    assert!(output.stdout.is_empty());
    let lines: Vec<&str> = stderr.lines().collect();
    let [happened, todo] = lines[..] else { panic!("not two lines: {stderr}") };
    assert!(todo.starts_with("  ") && todo.len() > 4, "{todo}");
    happened.strip_prefix("tcp-punch: ").unwrap().to_owned()
}

fn file(directory: &TempDir, name: &str, content: &[u8], mode: u32) -> String {
    let path = directory.path().join(name);
    std::fs::write(&path, content).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn codes_that_are_none() {
    for (code, says) in [
        ("", "the code is empty; a code looks like 7-guitar-umbrella"),
        ("guitar", "a code begins with its number, as in 7-guitar-umbrella, and not with `guitar`"),
        ("7-guitar", "a code has two words after its number, as in 7-guitar-umbrella, and not 1"),
        ("7-guitar-umbrela", "no code has the word `umbrela`; is it `umbrella`?"),
        (
            "99999999999-guitar-umbrella",
            "a code begins with its number, as in 7-guitar-umbrella, and not with `99999999999`",
        ),
        ("7-\x1b[2J-umbrella", "no code has the word `\\u{1b}[2j`; is it `acid`?"),
        (&"a".repeat(300), "300 bytes are no code; a code looks like 7-guitar-umbrella"),
    ] {
        let words = ["meet", "--server", "192.0.2.1", code];
        assert_eq!(happened(&run(&words), 2), says);
    }
}

#[test]
fn words_that_clap_refuses() {
    for (words, says) in [
        (&["--pear", "x"][..], "there is no option --pear"),
        (&["cat"], "argument \"cat\" is not understood"),
        (&["--peer"], "--peer lacks its value"),
        (&["--peer", "a:1", "--peer", "b:1"], "--peer is given twice"),
        (&["-q", "-v"], "--quiet and --verbose exclude each other"),
        (&["--exec-fd", "4"], "--exec-fd \"4\" is not possible"),
        (&["completions"], "<SHELL> is missing"),
        (&["completions", "korn"], "<SHELL> \"korn\" is not possible"),
        (
            &["ladder", "/nonexistent/a.json"],
            "/nonexistent/a.json cannot be read: No such file or directory (os error 2)",
        ),
    ] {
        assert_eq!(happened(&run(words), 2), says);
    }
}

#[test]
fn what_is_missing() {
    assert_eq!(happened(&run(&[]), 2), "--peer is missing");
    assert_eq!(happened(&run(&PEER), 2), "--at is missing");
}

#[test]
fn peers_and_locals_that_cannot_be() {
    for (peer, says) in [
        ("", "--peer \"\" has no port"),
        ("203.0.113.7", "--peer \"203.0.113.7\" has no port"),
        ("203.0.113.7:x", "--peer port \"x\" is not a number"),
        ("203.0.113.7:0", "--peer port 0 stands for no port"),
        ("203.0.113.7:65536", "--peer port 65536 is above 65535"),
        ("300.0.0.1:5", "--peer \"300.0.0.1:5\" is not an address and a port"),
        ("2001:db8::1:5", "--peer \"2001:db8::1:5\" needs brackets around the IPv6 address"),
        ("0.0.0.0:5", "--peer 0.0.0.0 is no single address"),
        ("255.255.255.255:5", "--peer 255.255.255.255 is the broadcast address"),
        ("239.1.2.3:5", "--peer 239.1.2.3 is a multicast address"),
        ("[ff02::1]:5", "--peer ff02::1 is a multicast address"),
        ("127.0.0.1:5", "--peer 127.0.0.1 is this host itself"),
        ("[::1]:5", "--peer ::1 is this host itself"),
        ("[::ffff:127.0.0.1]:5", "--peer 127.0.0.1 is this host itself"),
        ("[fe80::1]:5", "--peer fe80::1 is link-local and names no interface"),
        ("a\nb:5", "--peer \"a\\nb:5\" is not an address and a port"),
    ] {
        assert_eq!(happened(&run(&["--at", "+5s", "--peer", peer]), 2), says);
    }
    for (local, says) in [
        ("0", "--local port 0 stands for no port"),
        ("70000", "--local port 70000 is above 65535"),
        ("10.0.0.2", "--local \"10.0.0.2\" has no port"),
        ("0.0.0.0:5", "--local 0.0.0.0 is no single address; give the port alone"),
        ("203.0.113.7:5", "--peer 203.0.113.7 is this host itself"),
        ("[2001:db8::2]:5", "--peer 203.0.113.7 is IPv4, --local 2001:db8::2 is IPv6"),
    ] {
        let words = [&PEER[..], &["--at", "+5s", "--local", local]].concat();
        assert_eq!(happened(&run(&words), 2), says);
    }
}

#[test]
fn servers_that_nat_cannot_ask() {
    for (words, says) in [
        (&["nat"][..], "there is no server to ask"),
        (&["nat", "--server", "a b"], "--server \"a b:3478\" is not an address and a port"),
        (&["nat", "--stun", "0.0.0.0"], "--stun 0.0.0.0 is no address of a host"),
        (&["nat", "--server", "192.0.2.1", "--local", "x"], "--local \"x\" has no port"),
        (&["nat", "--server", "1.2.3.4:0"], "--server port 0 stands for no port"),
        (&["nat", "-q", "-v"], "--quiet and --verbose exclude each other"),
    ] {
        let output = command(words).env_remove("TCP_PUNCH_SERVER").output().unwrap();
        assert_eq!(happened(&output, 2), says);
    }
    let output = command(&["nat"]).env("TCP_PUNCH_SERVER", "x:y").output().unwrap();
    assert_eq!(happened(&output, 2), "TCP_PUNCH_SERVER port \"y\" is not a number");
    let output = run(&["nat", "--server", "127.0.0.1:1"]);
    assert_eq!(happened(&output, 2), "127.0.0.1 is this host itself");
}

#[test]
fn instants_that_cannot_be_met() {
    for (at, says) in [
        ("noon", "--at \"noon\" is not an instant"),
        ("2026-11-21T12:00:00", "--at \"2026-11-21T12:00:00\" is not an instant"),
        ("-5", "--at \"-5\" is not an instant"),
        ("1795262400000", "--at \"1795262400000\" is out of range"),
        ("every:1s", "a period of 1 s is out of range"),
        ("+25h", "--at \"25h\" is longer than a day"),
        ("+5", "--at \"5\" has no unit"),
    ] {
        let words = [&PEER[..], &["--at", at]].concat();
        assert_eq!(happened(&run(&words), 2), says);
    }
    for (at, starts, ends) in [
        ("2001-01-01T00:00:00Z", "the instant passed ", " days ago"),
        ("9000000000", "the instant is ", " days ahead; the limit is 24 h"),
        ("+20ms", "the instant is only 20 ms ahead", "starting up takes 100 ms"),
    ] {
        let said = happened(&run(&[&PEER[..], &["--at", at]].concat()), 2);
        assert!(said.starts_with(starts) && said.ends_with(ends), "{said}");
    }
}

#[test]
fn the_past_says_how_late_it_is() {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let at = format!("{}.5", since.as_secs() - 3);
    let said = happened(&run(&[&PEER[..], &["--at", &at]].concat()), 2);
    let late = said.strip_prefix("the instant passed ").unwrap().strip_suffix(" s ago").unwrap();
    assert!((2.5..6.0).contains(&late.parse().unwrap()), "{said}");
}

#[test]
fn values_and_destinations_that_cannot_be() {
    for (words, says) in [
        (&["--timeout", "10"][..], "--timeout \"10\" has no unit"),
        (&["--timeout", "-1s"], "--timeout \"-1s\" is negative"),
        (&["--timeout", "0s"], "--timeout is zero"),
        (&["--opener", "0"], "--opener \"0\" is no hop limit"),
        (&["--opener", "256"], "--opener \"256\" is no hop limit"),
        (&["--opener-lead", "2m"], "--opener-lead 2 min is too long"),
        (&["--fdpass", "--", "cat"], "a command and --fdpass exclude each other"),
        (&["--pass-fd", "/s", "--listen", "x"], "--pass-fd and --listen exclude each other"),
        (&["--exec"], "--exec lacks the command that it is about"),
        (&["--user", "x"], "--user lacks the command that it is about"),
        (&["--", "/nonexistent/command"], "command not found: /nonexistent/command"),
        (
            &["--pass-fd", "/nonexistent/socket"],
            "cannot connect to /nonexistent/socket: No such file or directory (os error 2)",
        ),
        (&["--fdpass"], "standard output is not a connected Unix stream socket"),
        (&["--pcap", "f", "--report", "f"], "--pcap and --report name the same file"),
        (&["--ladder", "-"], "--ladder does not write to standard error"),
    ] {
        let words = [&PEER[..], &["--at", "+5s"], words].concat();
        assert_eq!(happened(&run(&words), 2), says);
    }
}

#[test]
fn secrets_that_are_none_or_no_secret() {
    let directory = TempDir::new().unwrap();
    let open = file(&directory, "open", b"words", 0o604);
    let large = file(&directory, "large", &[b'x'; 5000], 0o600);
    let empty = file(&directory, "empty", b"\n", 0o600);
    let folder = directory.path().to_str().unwrap();
    for (path, says) in [
        (open.as_str(), format!("key file {open} is open to others (mode 604)")),
        (&large, format!("key file {large} is larger than 4096 bytes")),
        (&empty, format!("key file {empty} holds no secret on its first line")),
        (folder, format!("key file {folder} is a directory")),
        (
            "/nonexistent/k",
            "key file /nonexistent/k cannot be read: No such file or directory (os error 2)"
                .to_owned(),
        ),
    ] {
        let words = [&PEER[..], &["--at", "+5s", "--key", path]].concat();
        assert_eq!(happened(&run(&words), 2), says);
    }
    let words = [&PEER[..], &["--at", "+5s", "--key-env", "TCP_PUNCH_TEST_KEY"]].concat();
    assert_eq!(happened(&run(&words), 2), "environment variable TCP_PUNCH_TEST_KEY is not set");
    let output = command(&words).env("TCP_PUNCH_TEST_KEY", "").output().unwrap();
    assert_eq!(happened(&output, 2), "environment variable TCP_PUNCH_TEST_KEY is empty");
}

/// Run by an ordinary user: as root, the test becomes one.
#[test]
fn a_missing_capability_is_named_with_the_line_that_gives_it() {
    // A copy, since another user may not reach the build directory.
    let directory = TempDir::new().unwrap();
    std::fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    let copy = directory.path().join("tcp-punch");
    std::fs::copy(env!("CARGO_BIN_EXE_tcp-punch"), &copy).unwrap();
    std::fs::set_permissions(&copy, Permissions::from_mode(0o755)).unwrap();
    let as_user = |words: &[&str]| {
        let mut command = Command::new(&copy);
        command.args(words).current_dir("/").stdin(Stdio::null());
        if nix::unistd::geteuid().is_root() {
            command.uid(65_534).gid(65_534);
        }
        command.output().unwrap()
    };
    let report = directory.path().join("r.json");
    let words = [&PEER[..], &["--at", "+5s", "--report", report.to_str().unwrap()]].concat();
    let output = as_user(&words);
    assert_eq!(happened(&output, 3), "CAP_NET_RAW and CAP_NET_ADMIN are missing");
    assert!(!report.exists(), "nothing is left behind");
    let line = format!(
        "sudo setcap cap_net_raw,cap_net_admin,cap_sys_nice,cap_ipc_lock,cap_bpf=ep {}\n",
        copy.display()
    );
    assert!(String::from_utf8_lossy(&output.stderr).ends_with(&line));
    let doctor = as_user(&["doctor"]);
    assert_eq!(doctor.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&doctor.stdout).contains(&line));
}

/// `tcp-punch` whose folder of files is `tcp-punch` in this directory.
fn at_home(directory: &TempDir, words: &[&str]) -> Command {
    let mut command = command(words);
    command.env("XDG_CONFIG_HOME", directory.path());
    for name in ["CONFIGURATION_DIRECTORY", "TCP_PUNCH_SERVER", "SUDO_UID"] {
        command.env_remove(name);
    }
    command
}

#[test]
fn a_key_pair_is_made_once_and_its_public_key_printed_alone() {
    let home = TempDir::new().unwrap();
    let first = at_home(&home, &["key"]).output().unwrap();
    let made = format!("made a key pair in {}/tcp-punch/identity\n", home.path().display());
    assert!(String::from_utf8_lossy(&first.stderr).ends_with(&made));
    assert!(first.stdout.starts_with(b"tp1") && first.stdout.len() == 3 + 56 + 1);
    let again = at_home(&home, &["key"]).output().unwrap();
    assert_eq!((again.stdout, again.stderr), (first.stdout, Vec::new()));
    let path = home.path().join("tcp-punch/identity");
    std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    assert_eq!(
        happened(&at_home(&home, &["key"]).output().unwrap(), 2),
        format!("identity {} is open to others (mode 644)", path.display())
    );
}

#[test]
fn services_and_peers_that_cannot_be() {
    let home = TempDir::new().unwrap();
    let folder = home.path().join("tcp-punch");
    let shown = folder.display();
    std::fs::create_dir(&folder).unwrap();
    let says = |words: &[&str]| happened(&at_home(&home, words).output().unwrap(), 2);
    assert_eq!(says(&["expose"]), "--to is missing");
    assert_eq!(says(&["reach"]), "<NAME> is missing");
    assert!(says(&["expose", "--to", "ssh"]).starts_with("\"ssh\" is not an address to use"));
    let expose = ["expose", "--to", "127.0.0.1:22"];
    assert_eq!(says(&expose), "no server is named");
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
    write("config", "# ours\nsever = x\n");
    assert_eq!(says(&expose), format!("{shown}/config line 2: there is no setting \"sever\""));
    write("config", "server = 203.0.113.7:0\n");
    assert_eq!(says(&expose), format!("{shown}/config: server port 0 stands for no port"));
    write("config", "server = 203.0.113.7\n");
    assert_eq!(says(&expose), format!("nobody may call: {shown}/peers names no peer"));
    assert_eq!(says(&["reach", "home"]), format!("\"home\" is not in {shown}/peers"));
    write("peers", "\nhome tp1abc\n");
    for words in [&expose[..], &["reach", "home"]] {
        let line = format!("{shown}/peers line 2: the key of home: it has 3 letters and digits");
        assert!(says(words).starts_with(&line), "{}", says(words));
    }
    assert!(!folder.join("identity").exists(), "nothing is left behind");
}

#[test]
fn what_is_asked_for_goes_to_standard_output() {
    for (words, contains) in [
        (&["--help"][..], "--connect 127.0.0.1:22\n"),
        (&["--version"], concat!("tcp-punch ", env!("CARGO_PKG_VERSION"), "\n")),
        (&["completions", "bash"], "_tcp__punch"),
        (&["completions", "zsh"], "#compdef tcp-punch"),
        (&["completions", "fish"], "complete -c tcp-punch"),
        (&["man"], ".TH tcp-punch 1"),
    ] {
        let output = run(words);
        assert_eq!(output.status.code(), Some(0), "{words:?}");
        assert!(output.stderr.is_empty());
        assert!(String::from_utf8_lossy(&output.stdout).contains(contains), "{words:?}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let mut child = command(&["man"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn two_reports_make_one_ladder() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let a = root.join("docs/report.example.json");
    let b = root.join("tests/data/report.peer.json");
    let (a, b) = (a.to_str().unwrap(), b.to_str().unwrap());
    let text = String::from_utf8(run(&["ladder", a, b]).stdout).unwrap();
    assert!(text.contains("◀──────── SYN-ACK seq 0 ack 1 ┤   10.088"), "{text}");
    assert!(run(&["ladder", a, "--svg"]).stdout.starts_with(b"<svg"));
    let schema = root.join("docs/report.schema.json");
    let said = happened(&run(&["ladder", schema.to_str().unwrap()]), 2);
    assert!(said.contains("is no report: missing field"), "{said}");
}

#[test]
fn doctor_speaks_json() {
    let output = run(&["doctor", "--json"]);
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["usable"].as_bool().unwrap(), output.status.success());
    assert_eq!(document["findings"][0]["name"], "kernel");
    // What runs now, if root asks.
    let running = &document["datapaths"];
    assert!(running.is_array() || running.is_null(), "{running}");
}
