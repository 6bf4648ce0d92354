//! What the program still is and holds once it has handed the connection over.

use std::fs;
use std::net::TcpStream;

use nix::unistd::Pid;

use crate::pair::{Pair, eventually, in_ms, stream};
use crate::program::{Program, START_UP_MS};

/// The program that joins the connection to its standard streams, and the peer's end.
fn joining(pair: &Pair) -> (Program, TcpStream) {
    let at = in_ms(START_UP_MS);
    let a = Program::start(&mut pair.program_a(40000, at));
    let b = stream(pair.b.connect(pair.punch_of_b(40000, at)));
    a.await_stderr("tcp-punch: connected to ");
    (a, b)
}

/// A field of `status` of every thread.
fn of_threads(pid: Pid, field: &str) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    tasks
        // A thread may end meanwhile.
        .filter_map(|task| fs::read_to_string(task.expect("read").path().join("status")).ok())
        .filter_map(|status| {
            let line = status.lines().find(|line| line.starts_with(field))?;
            Some(line.split_whitespace().nth(1)?.to_owned())
        })
        .collect()
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn no_thread_has_a_capability_left() {
    let pair = Pair::behind_nats(&[]);
    let (a, _b) = joining(&pair);
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        eventually(&format!("{set} is empty in {:?}", of_threads(a.pid(), set)), || {
            let sets = of_threads(a.pid(), set);
            !sets.is_empty() && sets.iter().all(|caps| caps.trim_matches('0').is_empty())
        });
    }
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn the_connection_is_the_only_socket() {
    let pair = Pair::behind_nats(&[]);
    let (a, _b) = joining(&pair);
    for table in ["packet", "raw", "raw6"] {
        eventually(&format!("no {table} socket"), || pair.a.host.proc_net(table).is_empty());
    }
    eventually("the guard is gone", || pair.a.host.proc_net("tcp").len() == 1);
    let descriptors = fs::read_dir(format!("/proc/{}/fd", a.pid())).expect("it runs");
    let sockets = descriptors
        .filter_map(|it| fs::read_link(it.expect("read").path()).ok())
        .filter(|target| target.to_string_lossy().starts_with("socket:"))
        .count();
    assert_eq!(sockets, 1);
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn the_port_is_another_programs_to_use_again() {
    let pair = Pair::behind_nats(&[]);
    let (mut a, b) = joining(&pair);
    a.end_input();
    drop(b);
    assert_eq!(a.end().status, 0);
    // TIME_WAIT on the same endpoints, at one end or the other.
    let waiting = |host: &crate::network::Host| !host.proc_net("tcp").is_empty();
    assert!(waiting(&pair.a.host) || waiting(&pair.b.host), "nothing to punch over");
    let (a, b) = pair.punch(40000);
    crate::pair::exchange_lines(&stream(a), &stream(b));
}
