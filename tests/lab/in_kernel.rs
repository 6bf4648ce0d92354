//! What only the eBPF datapath does: it answers in the kernel, holds resets back, and leaves nothing.
//! These tests need more than a user namespace; testbed.sh runs them with `LAB_DATAPATH=ebpf` only.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use aya::maps::loaded_maps;
use aya::programs::{SchedClassifier, TcAttachType, loaded_links, loaded_programs};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::Value;
use tcp_punch::engine::report::{Direction, Event};
use tcp_punch::engine::{Datapath, Report};
use tcp_punch::nat::PortModel;
use tcp_punch::punch::Key;
use tcp_punch::sys::Dial;
use tcp_punch::sys::ebpf::Counts;
use tcp_punch::wire::Segment;
use tcp_punch::{Connection, Punch};

use crate::capture::Capture;
use crate::network::Host;
use crate::pair::{Pair, both, eventually, exchange_lines, in_ms, stream};
use crate::program::{Program, START_UP_MS, binary};
use crate::trace::{is_full_syn_from, segments};

const PORT: u16 = 40000;

fn by_ebpf(punch: Punch) -> Punch {
    punch.datapath(Datapath::Ebpf)
}

/// Both ends by eBPF, suited otherwise.
fn punch(pair: &Pair, port: u16, suit: impl Fn(Punch) -> Punch) -> [Connection; 2] {
    // A search's openers leave up to half a second before the instant.
    let at = in_ms(900);
    let of = |punch| suit(by_ebpf(punch));
    pair.connect(of(pair.punch_of_a(port, at)), of(pair.punch_of_b(port, at))).into()
}

fn counts(report: &Report) -> Counts {
    let datapath = report.datapath.as_ref().expect("it was punched");
    assert_eq!(datapath.name, "ebpf");
    datapath.counts.expect("eBPF counts")
}

fn answered_by_kernel(report: &Report) -> bool {
    report.timeline.iter().any(|event| event.what == "SYN-ACK, by the kernel")
}

/// The first SYN or SYN-ACK of the peer's, as tcpdump writes its flags.
fn first_heard(report: &Report) -> &str {
    let came = |event: &&Event| event.direction == Direction::Received;
    let first = report.timeline.iter().filter(came).find(|event| event.flags.starts_with('S'));
    &first.expect("it heard the peer").flags
}

/// Programs at the host's interface.
fn programs(host: &Host) -> usize {
    let at = |hook| host.run(|| SchedClassifier::query_tcx("eth0", hook)).expect("asked").1.len();
    at(TcAttachType::Ingress) + at(TcAttachType::Egress)
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn the_peers_syn_is_answered_in_the_kernel_and_the_report_says_so() {
    let pair = Pair::behind_nats(&[]);
    for (port, key) in [(PORT, None), (PORT + 10, Some(Key::from_bytes([7; 32])))] {
        let wire = [&pair.a, &pair.b].map(|end| Capture::start(&end.host, "eth0"));
        let [a, b] = punch(&pair, port, |punch| match &key {
            Some(key) => punch.key(key.clone()),
            None => punch,
        });
        let (reports, streams) = ([a.report.clone(), b.report.clone()], [stream(a), stream(b)]);
        exchange_lines(&streams[0], &streams[1]);
        let mut answers = 0;
        for (report, wire) in reports.iter().zip(wire) {
            let counts = counts(report);
            assert_eq!(counts.lost, 0, "{counts:?}");
            // An end that is late is answered before it has sent anything, and hears no SYN.
            let asked = first_heard(report) == "S";
            assert_eq!(
                (asked, asked),
                (counts.answered > 0, answered_by_kernel(report)),
                "{counts:?}, {:#?}",
                report.timeline
            );
            answers += counts.answered;
            // It was sent once: what left is what is written down.
            let ours: IpAddr = report.tuple.local.parse::<SocketAddr>().expect("an address").ip();
            let syn_acks = |it: &&Segment| it.tuple.local.ip() == ours && it.flags() == "S.";
            let left = segments(&wire.packets(|_| true));
            let told = report.timeline.iter().filter(|it| it.flags == "S.");
            let told = told.filter(|it| it.direction == Direction::Sent);
            assert_eq!(left.iter().filter(syn_acks).count(), told.count(), "{left:#?}");
        }
        assert!(answers > 0, "no end was asked");
    }
}

/// Resets that this host has sent.
fn resets_from(host: IpAddr, wire: &Capture) -> usize {
    let sent = segments(&wire.packets(|_| true));
    sent.iter().filter(|it| it.rst && it.tuple.local.ip() == host).count()
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn no_reset_of_ours_leaves_during_a_search_or_after_it() {
    let random = "random-fully";
    let pair = Pair::behind_nats(&["--nat-a", random, "--nat-b", random]);
    let model = || -> PortModel { "linux-random".parse().expect("a model") };
    let wires = [&pair.a, &pair.b].map(|end| Capture::start(&end.host, "eth0"));
    let [a, b] = punch(&pair, PORT, |punch| punch.models(model(), model()));
    let reports = [a.report.clone(), b.report.clone()];
    exchange_lines(&stream(a), &stream(b));
    for end in [&pair.a, &pair.b] {
        eventually("the programs are gone", || programs(&end.host) == 0);
    }
    for (report, wire) in reports.iter().zip(&wires) {
        let counts = counts(report);
        assert!(counts.stolen > 0 && counts.lost == 0, "{counts:?}");
        let ours = report.tuple.local.parse::<SocketAddr>().expect("an address").ip();
        assert_eq!(resets_from(ours, wire), 0, "{counts:?}");
    }
}

/// Objects of a process that the kernel keeps elsewhere: their kind and number.
type Objects = BTreeSet<(&'static str, u32)>;

const KINDS: [&str; 3] = ["prog_id", "map_id", "link_id"];

fn objects_of(pid: Pid) -> Objects {
    let entries = fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter().flatten().flatten();
    let texts = entries.filter_map(|entry| fs::read_to_string(entry.path()).ok());
    let objects = texts.flat_map(|text| {
        let lines = text.lines().filter_map(|line| {
            let (kind, number) = line.split_once(":\t")?;
            let kind = KINDS.into_iter().find(|known| *known == kind)?;
            Some((kind, number.parse().ok()?))
        });
        lines.collect::<Vec<_>>()
    });
    objects.collect()
}

/// All that the kernel keeps, whoever made it.
fn objects() -> Objects {
    let programs = loaded_programs().flatten().map(|it| ("prog_id", it.id()));
    let maps = loaded_maps().flatten().map(|it| ("map_id", it.id()));
    let links = loaded_links().flatten().map(|it| ("link_id", it.id()));
    programs.chain(maps).chain(links).collect()
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn after_kill_9_at_any_moment_no_program_link_map_or_qdisc_is_left() {
    let pair = Pair::behind_nats(&[]);
    let mut seen = 0;
    // From before the programs are loaded until after the hand-over: the instant is at 800 ms.
    for _ in 0..10 {
        let moment = u64::from(getrandom::u32().expect("random") % 850);
        let at = in_ms(START_UP_MS);
        let a = Program::start(&mut pair.program_a(PORT, at));
        let b = Program::start(pair.program_b(PORT, at).args(["--timeout", "1s"]));
        thread::sleep(Duration::from_millis(moment));
        let objects_of_a = objects_of(a.pid());
        seen += objects_of_a.len();
        a.signal(Signal::SIGKILL);
        let ended = a.end();
        assert_eq!(ended.status, 137, "after {moment} ms: {ended:?}");
        eventually("the kernel has forgotten them", || objects().is_disjoint(&objects_of_a));
        eventually("no program is left", || programs(&pair.a.host) == 0);
        let qdiscs = pair.a.host.command("tc").args(["qdisc", "show", "dev", "eth0"]).output();
        let qdiscs = String::from_utf8(qdiscs.expect("tc runs").stdout).expect("text");
        assert!(!qdiscs.contains("clsact"), "{qdiscs}");
        pair.a.host.assert_quiet();
        // It hears of the end, or nobody comes.
        b.end();
    }
    assert!(seen > 0, "at no moment was there anything");
}

/// As much as fills windows, so that whoever tracks the connection must have followed it.
const BULK: usize = 1 << 20;

fn bulk_both_ways(a: &TcpStream, b: &TcpStream) {
    let way = |mut from: &TcpStream, mut to: &TcpStream| {
        thread::scope(|scope| {
            scope.spawn(move || from.write_all(&vec![b'.'; BULK]).expect("sent"));
            to.read_exact(&mut vec![0; BULK]).expect("received");
        });
    };
    way(a, b);
    way(b, a);
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_host_that_tracks_connections_and_drops_what_it_does_not_know_is_punched_through() {
    let pair = Pair::behind_nats(&[]);
    for end in [&pair.a, &pair.b] {
        for chain in ["INPUT", "OUTPUT"] {
            end.host.must(&format!(
                "iptables -A {chain} -p tcp -m conntrack --ctstate INVALID -j DROP"
            ));
        }
        end.host.must("iptables -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT");
        end.host.must("iptables -A INPUT -j DROP");
    }
    for round in 0..5 {
        let [a, b] = punch(&pair, PORT + round, |punch| punch);
        for report in [&a.report, &b.report] {
            // Its tracking would have missed the answer.
            assert_eq!(counts(report).answered, 0);
        }
        let (a, b) = (stream(a), stream(b));
        exchange_lines(&a, &b);
        bulk_both_ways(&a, &b);
    }
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn doctor_shows_the_counters_of_a_punch_under_way_to_root_alone() {
    let pair = Pair::on_one_lan();
    // Nobody punches there: host-b answers every SYN with a reset.
    let a = Program::start(pair.program_a(PORT, in_ms(START_UP_MS)).args(["--timeout", "30s"]));
    let pid = a.pid().as_raw();
    let doctor = |options: &[&str]| {
        let output = pair.a.program(binary()).arg("doctor").args(options).output();
        String::from_utf8(output.expect("it runs").stdout).expect("text")
    };
    let datapath = || {
        let said: Value = serde_json::from_str(&doctor(&["--json"])).expect("JSON");
        let all = said["datapaths"].as_array().expect("root sees them");
        // Other punches of this machine are seen as well.
        all.iter().find(|it| it["process"]["pid"] == pid).cloned()
    };
    let mut shown = Value::Null;
    eventually("doctor shows a reset that the programs have counted", || {
        shown = datapath().unwrap_or_default();
        shown["counts"]["resets"].as_u64() > Some(0)
    });
    assert_eq!(shown["process"]["name"], "tcp-punch");
    assert_eq!(shown["interface"]["name"], "eth0");
    let text = doctor(&[]);
    let line = text.lines().find(|line| line.contains(&format!("process {pid} (tcp-punch)")));
    let line = line.unwrap_or_else(|| panic!("no line about it: {text}"));
    assert!(line.starts_with("ok    eBPF counters ") && line.contains(" at eth0: "), "{line}");
    assert!(line.contains("resets "), "{line}");
    let mut unprivileged = pair.a.program("setpriv");
    let output = unprivileged.args(["--bounding-set", "-sys_admin", &binary(), "doctor"]).output();
    let text = String::from_utf8(output.expect("it runs").stdout).expect("text");
    let lines: Vec<&str> = text.lines().filter(|line| line.contains("eBPF counters")).collect();
    assert!(matches!(lines[..], [line] if line.contains("CAP_SYS_ADMIN")), "{text}");
    a.signal(Signal::SIGTERM);
    a.end();
    eventually("doctor shows it no more", || datapath().is_none());
}

/// A server may live at the peer's address, and the connection to it has the punch's own port.
#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn another_connection_between_the_two_hosts_goes_on_during_the_punch() {
    let pair = Pair::on_one_lan();
    let patience = Duration::from_secs(3);
    let listener = pair.b.host.run(|| TcpListener::bind(pair.b.at(3478))).expect("a free port");
    let mut near = pair.a.host.run(|| Dial::new(pair.a.at(PORT), pair.b.at(3478))).expect("made");
    eventually("it is connected", || near.is_connected().expect("it is listened on"));
    let (far, _) = listener.accept().expect("it came");
    far.set_read_timeout(Some(patience)).expect("a valid timeout");
    let wire = Capture::start(&pair.a.host, "eth0");
    let punch = by_ebpf(pair.punch_of_a(PORT, in_ms(300))).timeout(patience);
    let (punched, took) = both(
        || pair.a.run(punch),
        || {
            wire.first(is_full_syn_from(pair.a.ip));
            let began = Instant::now();
            (&far).write_all(b"from afar").expect("sent");
            let mut heard = Vec::new();
            eventually("what was sent from afar", || {
                let mut piece = [0; 64];
                let length = near.read(&mut piece).unwrap_or(0);
                heard.extend_from_slice(&piece[..length]);
                heard == b"from afar"
            });
            near.write_all(b"and back").expect("sent");
            (&far).read_exact(&mut [0; 8]).expect("received");
            began.elapsed()
        },
    );
    assert!(punched.is_err(), "nobody is there");
    assert!(took < patience / 3, "{took:?}: it came by repetition");
}
