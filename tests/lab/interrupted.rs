//! Signals at every moment: the program goes, and nothing of it stays.

use std::net::{IpAddr, Ipv4Addr};

use nix::sys::signal::Signal;

use crate::capture::Capture;
use crate::datapath;
use crate::pair::{Pair, eventually, in_ms};
use crate::program::{Ended, Program, START_UP_MS, binary};
use crate::trace::{is_full_syn_from, is_probe};

const HOST_A: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 1, 2));

/// When a signal comes.
#[derive(Clone, Copy, Debug)]
enum Moment {
    Waiting,
    Probing,
    Fired,
}

/// host-a punches to nobody and gets this signal.
fn interrupt(pair: &Pair, moment: Moment, signal: Signal) -> Ended {
    let wire = Capture::start(&pair.a.host, "eth0");
    let ahead = if let Moment::Waiting = moment { 60_000 } else { START_UP_MS };
    let a = Program::start(&mut pair.program_a(40000, in_ms(ahead)));
    match moment {
        Moment::Waiting => {
            wire.first(is_probe);
            eventually("answers have come in and it sleeps", || {
                let path = format!("/proc/{}/status", a.pid());
                let status = std::fs::read_to_string(path).expect("it runs");
                status.contains("State:\tS")
            });
        }
        Moment::Probing => drop(wire.first(is_probe)),
        Moment::Fired => drop(wire.first(is_full_syn_from(HOST_A))),
    }
    a.signal(signal);
    a.end()
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_signal_at_any_moment_ends_it_in_order() {
    let pair = Pair::behind_nats(&[]);
    for moment in [Moment::Waiting, Moment::Probing, Moment::Fired] {
        for (signal, status) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
            let ended = interrupt(&pair, moment, signal);
            assert_eq!(ended.status, status, "{moment:?}: {ended:?}");
            let said = format!("tcp-punch: interrupted by signal {}", signal as i32);
            let lines: Vec<_> =
                ended.stderr.lines().filter(|line| !line.contains(" WARN ")).collect();
            assert_eq!(lines, [said], "{moment:?}");
            pair.a.host.assert_bare();
        }
    }
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn the_kernel_clears_up_after_a_program_that_was_killed() {
    let pair = Pair::behind_nats(&[]);
    for moment in [Moment::Waiting, Moment::Probing, Moment::Fired] {
        let ended = interrupt(&pair, moment, Signal::SIGKILL);
        assert_eq!(ended.status, 137, "{moment:?}: {ended:?}");
        pair.a.host.assert_bare();
    }
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn an_interrupted_attempt_still_writes_its_report() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("report.json");
    let pair = Pair::behind_nats(&[]);
    let wire = Capture::start(&pair.a.host, "eth0");
    let mut command = pair.program_a(40000, in_ms(START_UP_MS));
    let a = Program::start(command.arg("--report").arg(&path));
    wire.first(is_full_syn_from(HOST_A));
    a.signal(Signal::SIGINT);
    assert_eq!(a.end().status, 130);
    let report = crate::records::valid_report(&path);
    assert_eq!(report["outcome"], "interrupted");
    assert!(report["fired"]["sent_ns"].is_i64(), "{report}");
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn under_nohup_a_hangup_changes_nothing() {
    let pair = Pair::behind_nats(&[]);
    let wire = Capture::start(&pair.a.host, "eth0");
    let mut nohup = pair.a.program("nohup");
    nohup.arg(binary()).args(["--peer", "203.0.113.1:40000", "--at", &in_ms(60_000).to_string()]);
    let a = Program::start(nohup.args(datapath::options()));
    wire.first(is_probe);
    // Both are pending before it wakes: had the first one counted, it would be the one named.
    a.signal(Signal::SIGHUP);
    a.signal(Signal::SIGTERM);
    let ended = a.end();
    assert_eq!(ended.status, 143, "{ended:?}");
}
