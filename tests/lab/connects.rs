//! Two ends connect: through routers of every kind, and with a plain kernel at the other end.

use std::net::{IpAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt,
};
use tcp_punch::engine::Opener;
use tcp_punch::sys::spin_until;
use tcp_punch::wire::WallTime;

use crate::capture::Capture;
use crate::pair::{Pair, both, exchange_lines, in_ms, stream};
use crate::program::{Program, START_UP_MS};
use crate::trace::{handshake_from, repeated, segments, source};

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn two_programs_connect_and_nothing_out_of_turn_is_on_the_way() {
    // More than a busy machine is late by, so that the SYNs cross for certain.
    let pair = Pair::behind_nats(&["--delay", "25ms"]);
    let private = ["192.168.1.2", "10.0.0.2"].map(|ip| ip.parse::<IpAddr>().unwrap());
    let public = [pair.a.ip, pair.b.ip];
    let on_hosts = [&pair.a, &pair.b].map(|end| Capture::start(&end.host, "eth0"));
    let routers = [pair.network.router_a(), pair.network.router_b()];
    let outside = routers.each_ref().map(|router| Capture::start(router, "wan"));

    let at = in_ms(START_UP_MS);
    let mut a = Program::start(&mut pair.program_a(40000, at));
    let mut b = Program::start(&mut pair.program_b(40000, at));
    a.type_line("hello from host-a");
    b.type_line("hello from host-b");
    a.await_stdout("hello from host-b\n");
    b.await_stdout("hello from host-a\n");
    a.end_input();
    b.end_input();
    for ended in [a.end(), b.end()] {
        assert_eq!(ended.status, 0, "{ended:?}");
        assert!(ended.stderr.contains("tcp-punch: connected to "), "{ended:?}");
    }

    let on_hosts = on_hosts.map(|capture| capture.packets(|_| true));
    let outside = outside.map(|capture| capture.packets(|_| true));
    for i in [0, 1] {
        let here = segments(&on_hosts[i]);
        let resets: Vec<_> = here.iter().filter(|segment| segment.rst).collect();
        assert!(resets.is_empty(), "{resets:?}");
        assert_eq!(handshake_from(private[i], &here), ["(S)", "S", "S.", ".", "."]);
        // The opener of the peer never came.
        assert_eq!(handshake_from(public[1 - i], &here), ["S", "S.", ".", "."]);

        for packet in &outside[i] {
            let source = source(&packet.bytes).expect("an IP packet");
            assert!(!private.contains(&source), "untranslated: {packet:?}");
        }
        let passed = segments(&outside[i]);
        assert_eq!(handshake_from(public[i], &passed), ["(S)", "S", "S.", ".", "."]);
        assert_eq!(handshake_from(public[1 - i], &passed), ["S", "S.", ".", "."]);
        for ip in public {
            assert!(repeated(ip, &passed).is_empty(), "{:?}", repeated(ip, &passed));
        }
    }
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn an_opener_makes_up_for_skew_whatever_routers_do_with_an_early_syn() {
    for kind in ["masquerade:rst", "masquerade:drop", "masquerade:reject"] {
        let pair = Pair::behind_nats(&["--nat-a", kind, "--nat-b", kind]);
        for (port, skew) in [(40000, 0), (40050, 50), (40200, 200)] {
            let (at_a, at_b) = (in_ms(400), in_ms(400 + skew));
            let (a, b) = pair.connect(pair.punch_of_a(port, at_a), pair.punch_of_b(port, at_b));
            assert_eq!(b.report.opener.ttl, Some(2));
            exchange_lines(&stream(a), &stream(b));
        }
    }
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn without_an_opener_crossing_syns_connect() {
    for kind in ["masquerade:rst", "masquerade:drop", "masquerade:reject"] {
        let pair = Pair::behind_nats(&["--nat-a", kind, "--nat-b", kind]);
        let at = in_ms(200);
        let (a, b) = pair.connect(
            pair.punch_of_a(40000, at).opener(Opener::Off),
            pair.punch_of_b(40000, at).opener(Opener::Off),
        );
        exchange_lines(&stream(a), &stream(b));
    }
}

/// `connect()` from a bound port, as other programs punch.
fn connect_at(at: WallTime, port: u16, peer: std::net::SocketAddr) -> TcpStream {
    let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
        .expect("a socket");
    setsockopt(&socket, sockopt::ReuseAddr, &true).expect("reuse");
    let local = std::net::SocketAddr::from(([0, 0, 0, 0], port));
    bind(socket.as_raw_fd(), &SockaddrStorage::from(local)).expect("a free port");
    spin_until(at);
    connect(socket.as_raw_fd(), &SockaddrStorage::from(peer)).expect("connected");
    socket.into()
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_kernel_that_connects_at_the_instant_is_a_peer() {
    let pair = Pair::behind_nats(&[]);
    let at = in_ms(400);
    let (a, b) = both(
        || pair.a.connect(pair.punch_of_a(40000, at)),
        || pair.b.host.run(|| connect_at(at, 40000, pair.a.at(40000))),
    );
    exchange_lines(&stream(a), &b);
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_kernel_that_listens_is_a_peer() {
    let far = Pair::b_without_nat(&[]);
    let near = Pair::on_one_lan();
    for pair in [far, near] {
        let listener =
            pair.b.host.run(|| TcpListener::bind(pair.b.at(40000))).expect("a free port");
        let a = pair.a.connect(pair.punch_of_a(40000, in_ms(200)));
        let (b, from) = listener.accept().expect("a connection");
        assert_eq!(from, pair.a.at(40000));
        exchange_lines(&stream(a), &b);
    }
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn two_hosts_of_one_lan_connect_and_need_no_opener() {
    let pair = Pair::on_one_lan();
    let (a, b) = pair.punch(40000);
    assert_eq!(a.report.opener.ttl, None);
    assert_eq!(a.report.opener.why, "the peer is on this host's own network");
    exchange_lines(&stream(a), &stream(b));
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn two_stateful_ipv6_firewalls_are_passed() {
    for kind in ["masquerade:rst", "masquerade:drop"] {
        let pair = Pair::behind_firewalls(&["--nat-a", kind, "--nat-b", kind]);
        for (port, skew) in [(40000, 0), (40050, 50)] {
            let (at_a, at_b) = (in_ms(400), in_ms(400 + skew));
            let (a, b) = pair.connect(pair.punch_of_a(port, at_a), pair.punch_of_b(port, at_b));
            exchange_lines(&stream(a), &stream(b));
        }
    }
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn twenty_punches_in_a_row_survive_a_bad_network() {
    let bad = ["--delay", "2ms", "--loss", "5", "--reorder", "5", "--duplicate", "5"];
    let pair = Pair::behind_nats(&bad);
    // Each on a port of its own: there, closing the one before may take a second.
    for port in 40000..40020 {
        let (a, b) = pair.punch(port);
        exchange_lines(&stream(a), &stream(b));
    }
}

/// Without delay the peer's SYN-ACK comes in while its SYN is still being made a connection of. A
/// kernel socket that answered then would do so by a clock that is not the connection's, and the
/// peer would take everything after it for old (PAWS).
#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn lines_pass_where_there_is_no_delay_at_all() {
    let pair = Pair::on_one_lan();
    for port in 40000..40060 {
        let (a, b) = pair.punch(port);
        exchange_lines(&stream(a), &stream(b));
    }
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn one_port_pair_is_punched_thirty_times_in_a_row() {
    let pair = Pair::behind_nats(&[]);
    for _ in 0..30 {
        let (a, b) = pair.punch(40000);
        exchange_lines(&stream(a), &stream(b));
    }
}
