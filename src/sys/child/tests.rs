use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;

use super::*;

fn shell(script: &str, passing: Passing) -> Program {
    Program {
        path: c"/bin/sh".into(),
        argv: vec![c"sh".into(), c"-c".into(), CString::new(script).unwrap()],
        environment: std::env::vars_os().collect(),
        passing,
    }
}

/// Runs `script` and returns its status and all that it wrote to the connection.
fn run(script: &str, passing: Passing) -> (u8, String) {
    let (mut peer, ours) = UnixStream::pair().unwrap();
    let child = Child::spawn(&shell(script, passing), ours.into()).unwrap();
    let mut heard = String::new();
    peer.read_to_string(&mut heard).unwrap();
    (child.wait().unwrap(), heard)
}

/// Runs `body` in a forked process, which has one thread, unlike the test harness.
fn in_own_process(body: impl FnOnce() -> u8) -> Pid {
    // SAFETY: the C library makes its allocator usable after fork, and no lock of the harness is
    // taken in `body`.
    match unsafe { fork() }.unwrap() {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            // A shell that puts the tests in its background has them ignore SIGINT, and what is
            // ignored stays so in the command.
            for signal in FORWARDED {
                // SAFETY: the default disposition runs no handler.
                unsafe { nix::sys::signal::signal(signal, SigHandler::SigDfl) }.unwrap();
            }
            let status = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
            // SAFETY: ends the process without running the harness's exit.
            unsafe { libc::_exit(status.unwrap_or(101).into()) }
        }
    }
}

#[test]
fn inetd_style_reads_and_writes_the_connection() {
    let (mut peer, ours) = UnixStream::pair().unwrap();
    let child = Child::spawn(&shell("tr a-z A-Z", Passing::Inetd), ours.into()).unwrap();
    peer.write_all(b"hello").unwrap();
    peer.shutdown(std::net::Shutdown::Write).unwrap();
    let mut heard = String::new();
    peer.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "HELLO");
    assert_eq!(child.wait(), Ok(0));
}

#[test]
fn descriptor_3_follows_the_listen_protocol() {
    let script = r#"[ "$LISTEN_PID" = "$$" ] && echo "$LISTEN_FDS $LISTEN_FDNAMES" >&3"#;
    assert_eq!(run(script, Passing::Descriptor3), (0, "1 connection\n".into()));
}

#[test]
fn another_services_listen_variables_do_not_reach_the_command() {
    let (mut peer, ours) = UnixStream::pair().unwrap();
    let mut program = shell("env | grep ^LISTEN_", Passing::Inetd);
    program.environment.push(("LISTEN_FDS".into(), "7".into()));
    program.environment.push(("LISTEN_PID".into(), "1".into()));
    let child = Child::spawn(&program, ours.into()).unwrap();
    let mut heard = String::new();
    peer.read_to_string(&mut heard).unwrap();
    assert_eq!((child.wait(), heard.as_str()), (Ok(1), ""));
}

#[test]
fn the_commands_status_is_returned() {
    assert_eq!(run("exit 0", Passing::Inetd).0, 0);
    assert_eq!(run("exit 42", Passing::Inetd).0, 42);
    assert_eq!(run("exit 255", Passing::Descriptor3).0, 255);
    assert_eq!(run("kill -TERM $$", Passing::Inetd).0, 128 + 15);
    assert_eq!(run("kill -KILL $$", Passing::Inetd).0, 128 + 9);
    let real_time = format!("kill -{} $$", libc::SIGRTMIN());
    assert_eq!(run(&real_time, Passing::Inetd).0, 128 + libc::SIGRTMIN() as u8);
}

#[test]
fn a_failing_exec_is_reported_by_name() {
    let (mut peer, ours) = UnixStream::pair().unwrap();
    let mut program = shell("", Passing::Inetd);
    program.path = c"/no/such/program".into();
    let error = Child::spawn(&program, ours.into()).unwrap_err();
    assert_eq!(error.to_string(), "execve: ENOENT: No such file or directory");
    let mut heard = String::new();
    peer.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "", "the peer sees the end, and nothing before it");
}

#[test]
fn a_script_without_an_interpreter_line_runs_as_the_shell_runs_it() {
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("script");
    // Another process writes it: a copy of our own descriptor, in a child that another test has
    // forked meanwhile, would keep it from being run (ETXTBSY).
    let write = "echo 'echo \"$1\"' > \"$0\" && chmod 755 \"$0\"";
    let written = std::process::Command::new("sh").args(["-c", write]).arg(&script).status();
    assert!(written.unwrap().success());
    let (mut peer, ours) = UnixStream::pair().unwrap();
    let mut program = shell("", Passing::Inetd);
    program.path = CString::new(script.to_str().unwrap()).unwrap();
    program.argv = vec![c"script".into(), c"an argument".into()];
    let child = Child::spawn(&program, ours.into()).unwrap();
    let mut heard = String::new();
    peer.read_to_string(&mut heard).unwrap();
    assert_eq!((child.wait(), heard.as_str()), (Ok(0), "an argument\n"));
}

#[test]
fn signals_are_as_a_fresh_program_expects() {
    let (status, heard) = run("grep -E '^Sig(Blk|Ign)' /proc/self/status", Passing::Inetd);
    assert_eq!(status, 0);
    let sets: Vec<u64> = heard
        .lines()
        .map(|line| u64::from_str_radix(line.split('\t').next_back().unwrap(), 16).unwrap())
        .collect();
    let [blocked, ignored] = sets[..] else { panic!("{heard}") };
    assert_eq!(blocked, 0);
    // Rust ignores SIGPIPE; what else is ignored, whoever started this test had ignored.
    assert_eq!(ignored & 1 << (Signal::SIGPIPE as u32 - 1), 0);
}

/// The descriptors that this process was started with and that are meant for its children.
fn inherited() -> Vec<RawFd> {
    let mut descriptors: Vec<RawFd> = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap())
        // SAFETY: two numbers; a descriptor closed meanwhile is an error and left out.
        .filter(|&descriptor| unsafe { libc::fcntl(descriptor, libc::F_GETFD) } == 0)
        .collect();
    descriptors.sort_unstable();
    descriptors
}

#[test]
fn no_descriptor_of_ours_reaches_the_command() {
    let _ours = tempfile::tempfile().unwrap();
    for (script, passing, connection) in [
        ("exec ls /proc/self/fd", Passing::Inetd, None),
        ("exec ls /proc/self/fd >&3", Passing::Descriptor3, Some(LISTEN_FDS_START)),
    ] {
        let mut expected = inherited();
        expected.extend(connection);
        // Whoever started the tests may have left them a descriptor of this number.
        expected.sort_unstable();
        expected.dedup();
        // The listing holds the directory open.
        expected.push((0..).find(|it| !expected.contains(it)).unwrap());
        expected.sort_unstable();
        let (_, heard) = run(script, passing);
        let mut found: Vec<RawFd> = heard.lines().map(|line| line.parse().unwrap()).collect();
        found.sort_unstable();
        assert_eq!(found, expected, "{passing:?}");
    }
}

#[test]
fn a_signal_to_us_is_passed_on() {
    for signal in FORWARDED {
        let (peer, ours) = UnixStream::pair().unwrap();
        let script = format!(
            "trap 'echo got; exit 7' {}; echo ready; while :; do sleep 1; done",
            signal.as_str().trim_start_matches("SIG")
        );
        let us = in_own_process(|| {
            let program = shell(&script, Passing::Inetd);
            Child::spawn(&program, ours.into()).unwrap().wait().unwrap()
        });
        let mut lines = BufReader::new(peer).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "ready");
        kill(us, signal).unwrap();
        assert_eq!(lines.next().unwrap().unwrap(), "got", "{signal}");
        assert_eq!(reap(us), Ok(7), "{signal}");
    }
}

#[test]
fn a_command_without_a_handler_ends_by_the_signal() {
    let (mut peer, ours) = UnixStream::pair().unwrap();
    let us = in_own_process(|| {
        let program = shell("echo ready; exec sleep 1000", Passing::Inetd);
        Child::spawn(&program, ours.into()).unwrap().wait().unwrap()
    });
    let mut ready = [0; 6];
    peer.read_exact(&mut ready).unwrap();
    kill(us, Signal::SIGTERM).unwrap();
    assert_eq!(reap(us), Ok(128 + 15));
}

#[test]
fn the_command_ends_when_we_are_killed() {
    let (mut peer, ours) = UnixStream::pair().unwrap();
    let us = in_own_process(|| {
        let program = shell("echo ready; exec sleep 1000", Passing::Inetd);
        Child::spawn(&program, ours.into()).unwrap().wait().unwrap()
    });
    let mut ready = [0; 6];
    peer.read_exact(&mut ready).unwrap();
    kill(us, Signal::SIGKILL).unwrap();
    assert_eq!(reap(us), Ok(128 + 9));
    // The command holds the last copy of the connection: its end is the end of the stream.
    assert_eq!(peer.read(&mut ready).unwrap(), 0);
}

#[test]
fn numbers_are_written_without_allocating() {
    for number in [0, 7, 10, 4_194_304, u32::MAX] {
        let mut bytes = [0xff; 12];
        write_number(&mut bytes, number);
        let text = std::ffi::CStr::from_bytes_until_nul(&bytes).unwrap();
        assert_eq!(text.to_str().unwrap(), number.to_string());
    }
}
