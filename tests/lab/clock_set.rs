//! A clock that is set while two peers meet: one program's alone. The kernel's own time stamps, and
//! all other programs, keep the true time: so no connection can be punched by such a clock, and
//! where one is, the clock is right again by then.

use std::fs::File;
use std::net::IpAddr;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;

use crate::capture::Capture;
use crate::meet::{SERVER, Server, code, meet, network, talk};
use crate::pair::End;
use crate::program::{Program, binary};

const SECOND: i64 = 1_000_000_000;

/// What one program takes for the time: the true one, and what a file says.
struct Clock {
    directory: tempfile::TempDir,
    ahead: File,
}

impl Clock {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let ahead = File::create(directory.path().join("ahead")).expect("a file");
        let clock = Self { directory, ahead };
        clock.set(0);
        let compiled = Command::new("clang")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
            .arg(clock.path("clock.so"))
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/clock_set.c"))
            .output()
            .expect("clang is installed");
        assert!(compiled.status.success(), "{compiled:?}");
        clock
    }

    /// At once, by so many nanoseconds from the true time.
    fn set(&self, ahead: i64) {
        self.ahead.write_all_at(&ahead.to_ne_bytes(), 0).expect("written");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// `tcp-punch meet` with this clock.
    fn meet(&self, end: &End, arguments: &[&str]) -> Program {
        let mut command = end.program(binary());
        command.args(["meet", "--server", SERVER]).args(arguments);
        command.env("LD_PRELOAD", self.path("clock.so")).env("CLOCK_AHEAD", self.path("ahead"));
        Program::start(&mut command)
    }
}

/// The clock is right again before the punch, which compares it with the kernel's time stamps.
#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn while_the_peer_is_awaited_it_is_said_and_does_no_harm() {
    let pair = network(&[]);
    let _server = Server::start(&pair.network.server());
    let clock = Clock::new();
    let a = clock.meet(&pair.a, &[]);
    let code = code(&a);
    for (ahead, by) in [(3, "3.0s"), (-2, "5.0s"), (0, "2.0s")] {
        clock.set(ahead * SECOND);
        a.await_stderr(&format!("this host's clock was set by {by}, or it slept"));
    }
    talk(a, meet(&pair.b, &[&code]));
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn in_the_middle_of_the_punch_it_ends_and_says_why() {
    let pair = network(&[]);
    let _server = Server::start(&pair.network.server());
    // Nothing of the peer's but what goes to the server leaves: the punch takes until its timeout.
    pair.b.host.must(&format!("iptables -A OUTPUT -p tcp ! -d {SERVER} -j DROP"));
    let clock = Clock::new();
    let wire = Capture::start(&pair.a.host, "eth0");
    let a = clock.meet(&pair.a, &[]);
    let b = meet(&pair.b, &[&code(&a), "--timeout", "1s"]);
    let IpAddr::V4(peer) = pair.b.ip else { panic!("an IPv4 network") };
    wire.first(|bytes| bytes[0] == 0x45 && bytes[9] == 6 && bytes[16..20] == peer.octets());
    drop(wire);
    clock.set(3 * SECOND);
    let ended = a.end();
    assert_eq!(ended.status, 1, "{ended:?}");
    let said = "this host's clock was set by 3.0s in the middle of the punch, or it slept";
    assert!(ended.stderr.contains(said), "{ended:?}");
    b.end();
    pair.a.host.assert_quiet();
}
