//! Every strategy through routers that let only it pass, and which of several wins.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::Duration;

use nix::libc;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect as connect_socket,
    setsockopt, socket, sockopt,
};
use tcp_punch::engine::Failure;
use tcp_punch::punch::Key;
use tcp_punch::wire::{Segment, WallTime};
use tcp_punch::{Connection, Punch};

use crate::capture::Capture;
use crate::network::Host;
use crate::pair::{Pair, both, exchange_lines, in_ms, stream};
use crate::streams::{drain, pour};
use crate::trace::{segments, source};

const PORT: u16 = 40000;
/// So early, the instant is still ahead when both ends have found out how far the peer is, also on
/// a busy machine.
const AHEAD_MS: u64 = 600;
/// Whose SYN leaves so much later is late.
const LATE_NS: i64 = 5_000_000;
/// In which silence has to show: the first repetition is due after 100 ms.
const SILENCE: Duration = Duration::from_millis(300);

fn behind(a: &str, b: &str) -> Pair {
    Pair::behind_nats(&["--nat-a", a, "--nat-b", b])
}

fn holding_key(punch: Punch, strategies: &str) -> Punch {
    punch.key(Key::from_bytes([7; 32])).strategies(strategies.parse().expect("strategies"))
}

/// Both ends with one key, each with its own strategies.
fn run(pair: &Pair, [a, b]: [&str; 2], at: WallTime) -> [Result<Connection, Failure>; 2] {
    let patience = Duration::from_secs(5);
    let of_a = holding_key(pair.punch_of_a(PORT, at), a).timeout(patience);
    let of_b = holding_key(pair.punch_of_b(PORT, at), b).timeout(patience);
    both(|| pair.a.run(of_a), || pair.b.run(of_b)).into()
}

fn connect(pair: &Pair, strategies: [&str; 2]) -> (Connection, Connection) {
    let at = in_ms(AHEAD_MS);
    let of_a = holding_key(pair.punch_of_a(PORT, at), strategies[0]);
    let of_b = holding_key(pair.punch_of_b(PORT, at), strategies[1]);
    let (a, b) = pair.connect(of_a, of_b);
    // Both mean one connection: routers that keep ports show it by its port.
    assert_eq!(port(&a.report.tuple.local), port(&b.report.tuple.remote));
    assert_eq!(port(&b.report.tuple.local), port(&a.report.tuple.remote));
    (a, b)
}

fn port(endpoint: &str) -> &str {
    endpoint.rsplit(':').next().expect("a port")
}

fn exchange(a: Connection, b: Connection) {
    exchange_lines(&stream(a), &stream(b));
}

/// What passes both routers' outer sides and both hosts' interfaces.
struct Wires {
    hosts: [Capture; 2],
    routers: [Capture; 2],
}

impl Wires {
    fn of(pair: &Pair) -> Self {
        let on = |host: &Host, interface| Capture::start(host, interface);
        Self {
            hosts: [on(&pair.a.host, "eth0"), on(&pair.b.host, "eth0")],
            routers: [pair.network.router_a(), pair.network.router_b()].map(|it| on(&it, "wan")),
        }
    }
}

fn private() -> [IpAddr; 2] {
    ["192.168.1.2", "10.0.0.2"].map(|ip| ip.parse().expect("an address"))
}

fn from(ip: IpAddr, segments: &[Segment]) -> Vec<&Segment> {
    segments.iter().filter(|segment| segment.tuple.local.ip() == ip).collect()
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn syn_acks_for_syns_that_never_came_pass_routers_that_block_syns() {
    // A SYN-ACK that is early leaks untranslated: more room than a busy machine is late by.
    let kind = "masquerade,syn-block";
    let pair = Pair::behind_nats(&["--nat-a", kind, "--nat-b", kind, "--delay", "40ms"]);
    let wires = Wires::of(&pair);
    let (a, b) = connect(&pair, ["syn-ack"; 2]);
    assert_eq!((&*a.report.strategy, &*b.report.strategy), ("syn-ack", "syn-ack"));
    exchange(a, b);

    let public = [pair.a.ip, pair.b.ip];
    for (i, wire) in wires.hosts.iter().enumerate() {
        let here = segments(&wire.packets(|_| true));
        let of_peer = from(public[1 - i], &here);
        assert!(!of_peer.is_empty());
        let plain_syn = |it: &&&Segment| it.syn && it.ack.is_none();
        assert_eq!(of_peer.iter().find(plain_syn), None, "its router lets no SYN in");
        assert!(from(private()[i], &here).iter().all(|it| !it.rst), "{here:?}");
    }
    for (i, wire) in wires.routers.iter().enumerate() {
        let outside = wire.packets(|_| true);
        let is_leak = |ip: &IpAddr| private().contains(ip);
        let passed = segments(&outside);
        let sources = outside.iter().filter_map(|packet| source(&packet.bytes));
        assert_eq!(sources.filter(|ip| is_leak(ip)).count(), 0, "untranslated: {passed:?}");
        let peers_syn = from(public[1 - i], &passed);
        let peers_syn = peers_syn.iter().find(|it| it.syn).expect("it came as far as the router");
        let ours = from(public[i], &passed);
        let answer = ours.iter().find(|it| it.syn && it.ack.is_some()).expect("a SYN-ACK");
        assert_eq!(answer.ack, Some(peers_syn.seq + 1));
    }
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn acks_alone_pass_routers_that_see_no_syn_and_sixteen_mebibytes_each_way_follow() {
    const AMOUNT: usize = 16 << 20;
    let pair = behind("masquerade,raw-syn-block", "masquerade,raw-syn-block");
    let wires = Wires::of(&pair);
    let (a, b) = connect(&pair, ["mid-stream"; 2]);
    assert_eq!((&*a.report.strategy, &*b.report.strategy), ("mid-stream", "mid-stream"));
    for wire in &wires.routers {
        let passed = segments(&wire.packets(|_| true));
        assert!(passed.iter().all(|it| !it.syn && !it.rst), "{passed:?}");
    }
    let (a, b) = (stream(a), stream(b));
    thread::scope(|scope| {
        let there = scope.spawn(|| pour(&a, AMOUNT));
        let back = scope.spawn(|| pour(&b, AMOUNT));
        let came_back = scope.spawn(|| drain(&a));
        assert_eq!(drain(&b), (AMOUNT, there.join().expect("sent")));
        assert_eq!(came_back.join().expect("received"), (AMOUNT, back.join().expect("sent")));
    });
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn each_strategy_passes_the_routers_that_it_is_for_and_no_others() {
    const SYN: &str = "syn";
    const SYN_ACK: &str = "syn-ack";
    const MID_STREAM: &str = "mid-stream";
    for (kind, passing, stopped) in [
        ("masquerade,invalid-drop", &[SYN, SYN_ACK, MID_STREAM][..], &[][..]),
        ("masquerade,strict", &[SYN, SYN_ACK], &[MID_STREAM]),
        ("masquerade,syn-block,invalid-drop", &[SYN_ACK, MID_STREAM], &[SYN]),
        ("masquerade,raw-syn-block,invalid-drop", &[MID_STREAM], &[SYN_ACK]),
    ] {
        let mut pair = behind(kind, kind);
        for strategy in passing {
            let (a, b) = connect(&pair, [strategy; 2]);
            exchange(a, b);
            // The next one finds no entry of it: it begins anew.
            pair = behind(kind, kind);
        }
        for strategy in stopped {
            let at = in_ms(AHEAD_MS);
            let short = |punch| holding_key(punch, strategy).timeout(Duration::from_millis(700));
            let (a, b) = both(
                || pair.a.run(short(pair.punch_of_a(PORT, at))),
                || pair.b.run(short(pair.punch_of_b(PORT, at))),
            );
            assert!(a.is_err() && b.is_err(), "{strategy} passed {kind}");
        }
    }
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn auto_finds_what_passes_and_both_ends_mean_one_connection() {
    for (kinds, winners) in [
        (["masquerade", "masquerade"], &["syn", "mid-stream"][..]),
        (["masquerade,syn-block"; 2], &["syn-ack", "mid-stream"]),
        (["masquerade,raw-syn-block"; 2], &["mid-stream"]),
        (["masquerade,syn-block", "masquerade,raw-syn-block"], &["mid-stream"]),
        (["masquerade", "masquerade,raw-syn-block"], &["syn", "syn-ack", "mid-stream"]),
        (["masquerade,syn-block,strict", "masquerade,strict"], &["syn", "syn-ack"]),
    ] {
        let pair = behind(kinds[0], kinds[1]);
        let (a, b) = connect(&pair, ["auto"; 2]);
        // A SYN-ACK goes unasked to whom no SYN has come in time.
        let late = [&a, &b].iter().any(|it| it.report.fired.error_ns.is_none_or(|ns| ns > LATE_NS));
        for report in [&a.report, &b.report] {
            let strategy = &*report.strategy;
            let won = winners.contains(&strategy) || late && strategy == "syn-ack";
            assert!(
                won,
                "{kinds:?}: {strategy}; fired: {:?} and {:?}",
                a.report.fired, b.report.fired
            );
        }
        let by_mid_stream = [&a, &b].map(|it| it.report.strategy == "mid-stream");
        assert_eq!(by_mid_stream[0], by_mid_stream[1], "{kinds:?}");
        exchange(a, b);
    }
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn what_loses_the_race_is_silent_once_a_tuple_has_won() {
    for (kinds, spread) in [
        (["masquerade"; 2], 1),
        (["masquerade,syn-block", "masquerade"], 4),
        (["masquerade"; 2], 8),
    ] {
        let pair = behind(kinds[0], kinds[1]);
        let wires = [&pair.a, &pair.b].map(|end| Capture::start(&end.host, "eth0"));
        let at = in_ms(AHEAD_MS);
        let (a, b) = pair.connect(
            holding_key(pair.punch_of_a(PORT, at), "auto").spread(spread),
            holding_key(pair.punch_of_b(PORT, at), "auto").spread(spread),
        );
        let won = [&a, &b].map(|it| port(&it.report.tuple.local).to_owned());
        assert_eq!(won[0], won[1]);
        // With data it is beyond doubt that the tuple has won at both ends.
        let (a, b) = (stream(a), stream(b));
        exchange_lines(&a, &b);
        thread::sleep(SILENCE);
        exchange_lines(&a, &b);
        for (i, wire) in wires.iter().enumerate() {
            let here = segments(&wire.packets(|_| true));
            let spoke = here
                .iter()
                .position(|it| it.tuple.local.ip() == private()[i] && !it.payload.is_empty());
            let after = &here[spoke.expect("it spoke")..];
            let on_others: Vec<_> = from(private()[i], after)
                .into_iter()
                .filter(|it| it.tuple.local.port().to_string() != won[i])
                .collect();
            assert!(on_others.is_empty(), "{kinds:?}, spread {spread}: {on_others:?}");
        }
    }
}

/// As where one end is late, or its opener is lost: the peer's router takes the other's segments for
/// its own, and for ten seconds their tuples for taken.
#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn tuples_that_are_spoilt_at_the_instant_are_replaced_at_a_second_one() {
    let pair = behind("masquerade", "masquerade,listener");
    pair.a.host.run(|| [PORT, PORT + 1].map(|port| spoil(port, pair.b.at(port))));
    let at = in_ms(AHEAD_MS);
    let (a, b) = pair.connect(
        holding_key(pair.punch_of_a(PORT, at), "auto"),
        holding_key(pair.punch_of_b(PORT, at), "auto"),
    );
    for end in [&a, &b] {
        assert_eq!(port(&end.report.tuple.local), (PORT + 2).to_string());
        let after = Duration::from_nanos(end.report.established_ns.expect("established") as u64);
        assert!(after >= Duration::from_millis(400), "{after:?} after the instant");
    }
    exchange(a, b);
}

/// Connects from this port to whoever answers, and resets the connection.
fn spoil(port: u16, peer: SocketAddr) {
    let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
        .expect("a socket");
    setsockopt(&socket, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 }).expect("set");
    let local = SocketAddr::from(([0, 0, 0, 0], port));
    bind(socket.as_raw_fd(), &SockaddrStorage::from(local)).expect("a free port");
    connect_socket(socket.as_raw_fd(), &SockaddrStorage::from(peer)).expect("the router answers");
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn eight_ports_without_a_key_make_one_connection() {
    let pair = Pair::behind_nats(&[]);
    let at = in_ms(AHEAD_MS);
    let (a, b) =
        pair.connect(pair.punch_of_a(PORT, at).spread(8), pair.punch_of_b(PORT, at).spread(8));
    let won: u16 = port(&a.report.tuple.local).parse().expect("a port");
    assert!((PORT..PORT + 8).contains(&won));
    assert_eq!(port(&b.report.tuple.local), won.to_string());
    assert_eq!(a.report.strategy, "syn");
    exchange(a, b);
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn ends_with_different_strategies_meet_where_they_have_one_in_common() {
    for strategies in [["syn", "auto"], ["auto", "syn-ack"], ["syn", "syn-ack"]] {
        let pair = Pair::behind_nats(&[]);
        let (a, b) = connect(&pair, strategies);
        exchange(a, b);
    }
    // Where every segment arrives.
    let pair = Pair::without_nat(&[]);
    for failure in run(&pair, ["syn", "mid-stream"], in_ms(AHEAD_MS)).map(Result::err) {
        let failure = failure.expect("SYNs and ACKs do not meet");
        let said = failure.error.advice();
        assert!(said.contains("--strategy"), "{failure}: {said}");
    }
}
