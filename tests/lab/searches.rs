//! Searches for ports: through kernel routers that change them, within the budget, and ended early.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tcp_punch::engine::Failure;
use tcp_punch::nat::PortModel;
use tcp_punch::punch::Budget;
use tcp_punch::wire::Segment;
use tcp_punch::{Connection, Punch};

use crate::capture::Capture;
use crate::network::{Host, PATIENCE};
use crate::pair::{Pair, both, exchange_lines, in_ms, stream};
use crate::program::{Ended, Program, START_UP_MS};
use crate::trace::is_full_syn_from;

const PORT: u16 = 40000;
const HOST_A: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 1, 2));
/// A search's openers leave up to half a second before the instant.
const AHEAD_MS: u64 = 900;

fn behind(a: &str, b: &str) -> Pair {
    Pair::behind_nats(&["--nat-a", a, "--nat-b", b])
}

fn model(text: &str) -> PortModel {
    text.parse().expect("a model")
}

/// Both ends search by the models of their routers.
fn search(
    pair: &Pair,
    a: &str,
    b: &str,
    suit: impl Fn(Punch) -> Punch,
) -> [Result<Connection, Failure>; 2] {
    let at = in_ms(AHEAD_MS);
    let patience = Duration::from_secs(3);
    let of_a = suit(pair.punch_of_a(PORT, at).models(model(a), model(b)).timeout(patience));
    let of_b = suit(pair.punch_of_b(PORT, at).models(model(b), model(a)).timeout(patience));
    both(|| pair.a.run(of_a), || pair.b.run(of_b)).into()
}

/// Entries in the router's table.
fn entries(router: &Host) -> u32 {
    let count = router.run(|| fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count"));
    count.expect("it tracks connections").trim().parse().expect("a number")
}

/// Both ends connect, at most once in a thousand not at the first attempt, and agree.
fn must_meet(routers: [&str; 2], models: [&str; 2], most_packets: u64) {
    let pair = behind(routers[0], routers[1]);
    let budget = Budget::default();
    let (a, b) = match search(&pair, models[0], models[1], |punch| punch) {
        [Ok(a), Ok(b)] => (a, b),
        [a, b] => panic!("host-a: {:?}\nhost-b: {:?}", a.err(), b.err()),
    };
    for connection in [&a, &b] {
        let sent = connection.report.packets.sent;
        println!("{routers:?}: {sent} packets, {:?} ns", connection.report.fd_ns);
        assert!(sent <= most_packets, "{sent} packets");
    }
    for router in [pair.network.router_a(), pair.network.router_b()] {
        let entries = entries(&router);
        println!("{routers:?}: {entries} entries");
        // Its own, the probes' and what the peer's openers and SYNs hit besides.
        assert!(entries <= budget.entries + 50, "{entries} entries");
    }
    exchange_lines(&stream(a), &stream(b));
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn two_random_routers_meet_within_the_budget() {
    must_meet(["random-fully"; 2], ["linux-random"; 2], 4_000);
    must_meet(["random", "random-fully"], ["linux-random"; 2], 4_000);
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_random_router_meets_one_that_keeps_ports_with_few_packets() {
    must_meet(["random-fully", "masquerade"], ["linux-random", "preserving"], 1_500);
    must_meet(["masquerade", "random-fully"], ["preserving", "linux-random"], 1_500);
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn blocks_of_sixty_four_ports_meet() {
    must_meet(
        ["to-ports=50000-50063", "to-ports=51000-51063"],
        ["stable-random:50000-50063", "stable-random:51000-51063"],
        4_000,
    );
}

/// A block's own ports are kept, so both ends need no search: only source ports out of it.
#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn ports_inside_of_the_routers_own_blocks_are_kept() {
    let pair = behind("to-ports=50000-50063", "to-ports=51000-51063");
    let at = in_ms(300);
    let (of_a, of_b) = (pair.punch_of_a(51_007, at), pair.punch_of_b(50_007, at));
    let (a, b) = pair.connect(of_a.local_port(50_007), of_b.local_port(51_007));
    exchange_lines(&stream(a), &stream(b));
}

/// Where a search meets is up to chance, so on any tuple an earlier connection may wait.
#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_search_that_meets_where_an_earlier_connection_waits_takes_its_place() {
    let block = ["to-ports=50000-50001", "to-ports=51000-51001"];
    let pair = behind(block[0], block[1]);
    for _ in 0..4 {
        let [a, b] =
            search(&pair, "stable-random:50000-50001", "stable-random:51000-51001", |it| it);
        let (a, b) = (a.expect("connected"), b.expect("connected"));
        let (a, b) = (stream(a), stream(b));
        exchange_lines(&a, &b);
        // Who closes first waits.
        drop(a);
        assert_eq!(crate::pair::hear(&b), "");
    }
}

/// `tcp-punch` on host-a, which searches for a host-b that does not.
fn lonely(pair: &Pair, ahead_ms: u64, options: &str) -> Program {
    let mut command = pair.program_a(PORT, in_ms(ahead_ms));
    Program::start(command.args(options.split_whitespace()))
}

/// A wave of a search.
#[derive(Clone, Copy, Debug)]
enum Wave {
    Openers,
    Syns,
}

/// Waits until it has begun.
fn await_wave(wire: &Capture, wave: Wave) {
    match wave {
        Wave::Openers => wire.first(|packet| Segment::parse(packet).is_ok_and(|it| it.syn)),
        Wave::Syns => wire.first(is_full_syn_from(HOST_A)),
    };
}

/// The signal comes in the midst of a wave.
fn interrupt(wave: Wave, signal: Signal) -> Ended {
    let pair = behind("random-fully", "random-fully");
    let wire = Capture::start(&pair.a.host, "eth0");
    // So slow that either wave takes a second.
    let options = "--nat-model linux-random --peer-model linux-random --budget rate=2000";
    let a = lonely(&pair, START_UP_MS + 1_200, options);
    await_wave(&wire, wave);
    drop(wire);
    let began = Instant::now();
    a.signal(signal);
    let ended = a.end();
    assert!(began.elapsed() < Duration::from_secs(1), "took {:?}", began.elapsed());
    pair.a.host.assert_bare();
    ended
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_search_that_is_interrupted_ends_in_order_and_leaves_nothing() {
    for wave in [Wave::Openers, Wave::Syns] {
        let ended = interrupt(wave, Signal::SIGINT);
        assert_eq!(ended.status, 130, "{wave:?}: {ended:?}");
        let said = ended.stderr.lines().rfind(|line| !line.contains(" WARN "));
        assert_eq!(said, Some("tcp-punch: interrupted by signal 2"), "{wave:?}: {ended:?}");
        let ended = interrupt(wave, Signal::SIGKILL);
        assert_eq!(ended.status, 137, "{wave:?}: {ended:?}");
    }
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_search_without_hope_ends_before_a_packet_leaves_and_names_the_budget_that_helps() {
    let pair = behind("random-fully", "random-fully");
    let wire = Capture::start(&pair.a.host, "eth0");
    let pools = "--nat-model random:1024-9215 --peer-model random:1024-9215";
    let ended = lonely(&pair, START_UP_MS, pools).end();
    assert_eq!(ended.status, 5, "{ended:?}");
    let (happened, todo) = ended.complaint();
    assert!(happened.starts_with("the search is not worth it: "), "{happened}");
    let of_ipv4 = |packet: &[u8]| packet.first().is_some_and(|byte| byte >> 4 == 4);
    assert_eq!(wire.packets(of_ipv4).len(), 0, "packets left");

    let budget = todo.split("--budget ").nth(1).and_then(|rest| rest.split(';').next());
    let budget = budget.unwrap_or_else(|| panic!("no budget: {todo}"));
    // With all the time that it may take: openers leave long before the instant.
    let a = lonely(&pair, 10_000, &format!("{pools} --budget {budget}"));
    await_wave(&wire, Wave::Openers);
    a.signal(Signal::SIGINT);
    assert_eq!(a.end().status, 130, "it was accepted and had begun");
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn what_makes_no_plan_is_a_usage_error_in_one_line() {
    let pair = Pair::on_one_lan();
    for (options, happened) in [
        ("--nat-model random:2000-1999 --peer-model preserving", "--nat-model: "),
        ("--peer-model sequential:next=5,pool=1024-2047", "--peer-model: "),
        ("--peer-model sequential:next=1024,step=0", "--peer-model: "),
        ("--nat-model linux-random --budget packets=0", "--budget: "),
        ("--nat-model linux-random --budget packets=3", "the budget packets=3,"),
    ] {
        let ended = lonely(&pair, START_UP_MS, options).end();
        assert_eq!(ended.status, 2, "{options}: {ended:?}");
        let (said, _) = ended.complaint();
        assert!(said.starts_with(happened), "{options}: {said}");
        pair.a.host.assert_bare();
    }
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_router_whose_table_is_full_ends_the_search_clearly() {
    const MOST: u32 = 20;
    let kind = "random-fully,conntrack-max=20";
    let pair = behind(kind, kind);
    let began = Instant::now();
    let ends = search(&pair, "linux-random", "linux-random", |punch| punch);
    assert!(began.elapsed() < PATIENCE / 3);
    for end in ends {
        // By good luck they meet all the same.
        let Err(failure) = end else { continue };
        assert_eq!(failure.error.to_string().lines().count(), 1, "{failure}");
        println!("{failure}; {}", failure.error.advice());
        let report = failure.report.expect("it was tried");
        assert_eq!(serde_json::to_value(report.outcome).expect("text"), "timed_out");
    }
    // Probes and the routers' own answers make entries, too.
    let entries = entries(&pair.network.router_a());
    assert!(entries <= MOST + 20, "{entries} entries");
    for end in [&pair.a, &pair.b] {
        end.host.becomes_quiet();
    }
}
