//! Routers are what their options say: each option is seen in what passes the router's outer
//! interface.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::ops::RangeInclusive;
use std::process::Command;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use tcp_punch::sys::RawSender;
use tcp_punch::wire::{Segment, Seq, Tuple, echo_request};

use crate::capture::Capture;
use crate::kind::{InboundSyn, KINDS, Kind};
use crate::network::{Host, Network};
use crate::oracle::{Expectation, expect};
use crate::trace::segments;

const HOST_A: &str = "192.168.1.2";
const ROUTER_A: &str = "198.51.100.1";
const HOST_B: &str = "203.0.113.2";
const ROUTER_A_V6: &str = "2001:db8:a::1";
const HOST_A_V6: &str = "2001:db8:a::2";
const HOST_B_V6: &str = "2001:db8:b::2";

/// Both ends' port, where it does not matter.
const PORT: u16 = 40000;
const ISS_A: Seq = Seq(1000);
const ISS_B: Seq = Seq(500_000);

/// Two hosts whose kernels do not interfere, one router of the kind under test, and a way to know
/// that everything sent so far has passed.
struct Crafted {
    network: Network,
    senders: [RawSender; 2],
    markers: [UdpSocket; 2],
}

impl Crafted {
    fn behind(kind: &str) -> Self {
        let network = Network::up(["--nat-a", kind, "--nat-b", "none"]);
        let hosts = [network.host_a(), network.host_b()];
        for host in &hosts {
            // Captures come before it.
            host.must("iptables -A INPUT -p tcp -j DROP");
        }
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let sender = |host: &Host, from, to| {
            host.run(|| RawSender::new(ip(from), ip(to))).expect("the tests are root")
        };
        let senders = [sender(&hosts[0], HOST_A, HOST_B), sender(&hosts[1], HOST_B, ROUTER_A)];
        let markers = hosts
            .each_ref()
            .map(|host| host.run(|| UdpSocket::bind("0.0.0.0:9")).expect("a free port"));
        Self { network, senders, markers }
    }

    /// What passes the router's outer interface, or leaves towards host-a, when `work` sends.
    fn seen(&mut self, outside: bool, work: impl FnOnce(&mut Self)) -> Vec<Segment> {
        let start = || match outside {
            true => Capture::start(&self.network.router_a(), "wan"),
            false => Capture::start(&self.network.host_a(), "eth0"),
        };
        let (capture, marker) = (start(), start());
        work(self);
        let is_marker = |from: IpAddr| {
            move |packet: &[u8]| {
                let Ok(SlicedPacket { net: Some(NetSlice::Ipv4(ip)), transport, .. }) =
                    SlicedPacket::from_ip(packet)
                else {
                    return false;
                };
                IpAddr::V4(ip.header().source_addr()) == from
                    && matches!(transport, Some(TransportSlice::Udp(_)))
            }
        };
        // A marker from inside follows all that was sent from inside; the answer to it follows all
        // that was sent from outside.
        self.markers[0].send_to(b"?", (HOST_B, 9)).expect("sent");
        let (_, from) = self.markers[1].recv_from(&mut [0; 8]).expect("received");
        self.markers[1].send_to(b"!", from).expect("sent");
        marker.first(is_marker(HOST_B.parse().expect("an address")));
        segments(&capture.packets(|_| true))
    }

    fn a_sends(&mut self, segment: &Segment) {
        self.senders[0].send(&segment.to_packet()).expect("sent");
    }

    fn b_sends(&mut self, segment: &Segment) {
        self.senders[1].send(&segment.to_packet()).expect("sent");
    }

    /// The router's outer port of each SYN, in order, that host-a sends from one port.
    fn mappings(&mut self, port: u16, destinations: RangeInclusive<u16>) -> Vec<u16> {
        let seen = self.seen(true, |it| {
            for destination in destinations {
                let tuple =
                    Tuple { local: endpoint(HOST_A, port), remote: endpoint(HOST_B, destination) };
                it.a_sends(&Segment { tuple, ..syn_of_a() });
            }
        });
        let outward = seen.iter().filter(|it| it.tuple.local.ip() == endpoint(ROUTER_A, 0).ip());
        outward.map(|it| it.tuple.local.port()).collect()
    }
}

fn endpoint(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().expect("an address"), port)
}

fn plain(from: &str, to: &str, seq: Seq) -> Segment {
    let tuple = Tuple { local: endpoint(from, PORT), remote: endpoint(to, PORT) };
    Segment { window: 65_535, ..Segment::new(tuple, seq) }
}

fn syn_of_a() -> Segment {
    Segment { syn: true, ..plain(HOST_A, HOST_B, ISS_A) }
}

fn syn_of_b() -> Segment {
    Segment { syn: true, ..plain(HOST_B, ROUTER_A, ISS_B) }
}

fn syn_ack_of_a() -> Segment {
    Segment { ack: Some(ISS_B + 1), ..syn_of_a() }
}

fn syn_ack_of_b() -> Segment {
    Segment { ack: Some(ISS_A + 1), ..syn_of_b() }
}

fn ack_of_a() -> Segment {
    Segment { ack: Some(ISS_B + 1), ..plain(HOST_A, HOST_B, ISS_A + 1) }
}

/// Source address and flags of what was seen.
fn summary(seen: &[Segment]) -> Vec<(String, String)> {
    seen.iter().map(|it| (it.tuple.local.ip().to_string(), it.flags())).collect()
}

fn sent_from(ip: &str, flags: &[&str]) -> Vec<(String, String)> {
    flags.iter().map(|flags| (ip.to_owned(), (*flags).to_owned())).collect()
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn masquerade_keeps_the_port_for_every_destination() {
    let mut routed = Crafted::behind("masquerade");
    for port in [300, 700, PORT] {
        assert_eq!(routed.mappings(port, 5001..=5020), [port; 20]);
    }
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn random_ports_differ_by_destination_and_stay_in_the_source_ports_pool() {
    for kind in ["random", "random-fully"] {
        let mut routed = Crafted::behind(kind);
        for (port, pool) in [(300, 1..=511), (700, 600..=1023), (PORT, 1024..=65_535)] {
            let ports = routed.mappings(port, 5001..=5020);
            assert_eq!(ports.len(), 20, "{kind}");
            assert!(ports.iter().all(|it| pool.contains(it)), "{kind}, {port}: {ports:?}");
            // By chance a few of 20 are alike in a pool of 424, and more than 4 once in a million.
            let different: BTreeSet<_> = ports.iter().collect();
            assert!(different.len() >= 16, "{kind}, {port}: {ports:?}");
            // Ascending by chance once in 20!.
            assert!(!ports.is_sorted(), "{kind}, {port}: {ports:?}");
        }
    }
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_port_block_is_kept_to() {
    let mut routed = Crafted::behind("to-ports=41000-41063");
    let block = 41_000..=41_063;
    let mut used = BTreeSet::new();
    for source in 20_001..=20_020 {
        let ports = routed.mappings(source, 5001..=5004);
        assert_eq!(ports.len(), 4);
        assert!(ports.iter().all(|it| block.contains(it)), "{ports:?}");
        // A source that has a mapping gets the same port for the next destination.
        assert_eq!(BTreeSet::from_iter(&ports).len(), 1, "{ports:?}");
        used.extend(ports);
    }
    assert!(used.len() >= 10, "sources get ports of their own: {used:?}");
    // A source port that lies in the block already is kept.
    assert_eq!(routed.mappings(41_030, 6001..=6001), [41_030]);
}

/// How router-a answers a SYN that nobody asked for.
fn answer(network: &Network, v6: bool) -> Option<String> {
    let (from, to) = if v6 { (HOST_B_V6, HOST_A_V6) } else { (HOST_B, ROUTER_A) };
    let router = if v6 { ROUTER_A_V6 } else { ROUTER_A };
    let host = network.host_b();
    let (capture, marker) = (Capture::start(&host, "eth0"), Capture::start(&host, "eth0"));
    let tuple = Tuple { local: endpoint(from, PORT), remote: endpoint(to, 81) };
    let syn = Segment { tuple, ..syn_of_b() };
    // Behind it an echo request, which every router answers.
    let echo = echo_request(tuple.local.ip(), endpoint(router, 0).ip(), 64, 1, 1);
    host.run(|| {
        for (packet, to) in [(syn.to_packet(), to), (echo, router)] {
            let mut sender =
                RawSender::new(tuple.local.ip(), endpoint(to, 0).ip()).expect("the tests are root");
            sender.send(&packet).expect("sent");
        }
    });
    marker.first(|packet| {
        SlicedPacket::from_ip(packet).is_ok_and(|it| match it.transport {
            Some(TransportSlice::Icmpv4(icmp)) => icmp.type_u8() == 0,
            Some(TransportSlice::Icmpv6(icmp)) => icmp.type_u8() == 129,
            _ => false,
        })
    });
    let packets = capture.packets(|_| true);
    packets.iter().find_map(|captured| {
        if let Ok(segment) = Segment::parse(&captured.bytes) {
            return (segment.tuple.remote == tuple.local).then(|| segment.flags());
        }
        match SlicedPacket::from_ip(&captured.bytes).ok()?.transport? {
            TransportSlice::Icmpv4(icmp) if icmp.type_u8() == 3 => {
                Some(format!("unreachable {}", icmp.code_u8()))
            }
            TransportSlice::Icmpv6(icmp) if icmp.type_u8() == 1 => {
                Some(format!("unreachable {}", icmp.code_u8()))
            }
            _ => None,
        }
    })
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn an_unsolicited_syn_is_answered_as_configured() {
    for (option, v4, v6) in [
        ("rst", Some("R."), Some("R.")),
        ("reject", Some("R."), Some("R.")),
        ("drop", None, None),
        // Port unreachable: code 3 of type 3, code 4 of type 1 (RFC 792, RFC 4443).
        ("icmp", Some("unreachable 3"), Some("unreachable 4")),
        ("listener", Some("S."), Some("S.")),
        ("raw-syn-block", None, None),
    ] {
        for kind in ["masquerade", "random-fully"] {
            let network = Network::up(["--nat-a", &format!("{kind},{option}"), "--nat-b", "none"]);
            assert_eq!(answer(&network, false).as_deref(), v4, "{kind},{option}: IPv4");
            assert_eq!(answer(&network, true).as_deref(), v6, "{kind},{option}: IPv6");
        }
    }
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn only_a_router_that_takes_the_call_itself_moves_our_port() {
    for (answer, kept) in
        [("rst", true), ("reject", true), ("drop", true), ("icmp", true), ("listener", false)]
    {
        let mut routed = Crafted::behind(&format!("masquerade,{answer}"));
        // The peer is early.
        routed.seen(true, |it| it.b_sends(&syn_of_b()));
        let ports = routed.mappings(PORT, PORT..=PORT);
        assert_eq!(ports.len(), 1, "{answer}");
        assert_eq!(ports[0] == PORT, kept, "{answer}: {ports:?}");
    }
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_blocked_syn_is_tracked_or_not() {
    for (kind, passes, after) in [
        ("masquerade", vec!["S", "S."], ROUTER_A),
        // The own SYN-ACK is valid only to a router that knows of the peer's SYN.
        ("masquerade,syn-block", vec!["S."], ROUTER_A),
        ("masquerade,raw-syn-block", vec!["S."], HOST_A),
    ] {
        let mut routed = Crafted::behind(kind);
        routed.seen(true, |it| it.a_sends(&syn_of_a()));
        routed.seen(false, |it| it.b_sends(&syn_of_b()));
        let own = routed.seen(true, |it| it.a_sends(&syn_ack_of_a()));
        assert_eq!(summary(&own), sent_from(after, &["S."]), "{kind}");

        // From outside, on a mapping that is fresh again.
        let mut routed = Crafted::behind(kind);
        routed.seen(true, |it| it.a_sends(&syn_of_a()));
        let inward = routed.seen(false, |it| {
            it.b_sends(&syn_of_b());
            it.b_sends(&syn_ack_of_b());
        });
        assert_eq!(summary(&inward), sent_from(HOST_B, &passes), "{kind}");
    }
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn what_is_invalid_leaks_or_is_dropped() {
    for (kind, leaks) in [("masquerade", vec!["."]), ("masquerade,invalid-drop", vec![])] {
        let mut routed = Crafted::behind(kind);
        routed.seen(true, |it| it.a_sends(&syn_of_a()));
        let own = routed.seen(true, |it| it.a_sends(&ack_of_a()));
        assert_eq!(summary(&own), sent_from(HOST_A, &leaks), "{kind}");
    }
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_connection_is_taken_up_in_mid_stream_unless_the_router_is_strict() {
    for (kind, seen) in [
        ("masquerade", sent_from(ROUTER_A, &["."])),
        // It is NEW, not INVALID.
        ("masquerade,invalid-drop", sent_from(ROUTER_A, &["."])),
        ("masquerade,strict", sent_from(HOST_A, &["."])),
        ("masquerade,strict,invalid-drop", vec![]),
    ] {
        let mut routed = Crafted::behind(kind);
        let own = routed.seen(true, |it| it.a_sends(&ack_of_a()));
        assert_eq!(summary(&own), seen, "{kind}");
    }
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_full_table_makes_no_new_mapping_and_keeps_the_old_ones() {
    const MOST: usize = 7;
    let mut routed = Crafted::behind(&format!("masquerade,conntrack-max={MOST}"));
    // The markers' own mapping is one of them.
    routed.seen(true, |_| ());
    let ports = routed.mappings(PORT, 5001..=5020);
    assert_eq!(ports.len(), MOST - 1);
    // The last that it took, once more, and one that it did not take.
    assert_eq!(routed.mappings(PORT, 5006..=5007).len(), 1);
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn kinds_that_make_no_sense_are_refused_and_leave_nothing() {
    for (kind, complaint) in [
        ("hub", "unknown kind of router 'hub'"),
        ("none,drop", "a router without NAT tracks no connections and cannot 'drop'"),
        ("to-ports=9-1", "to-ports needs a range of ports such as 40000-40063, not '9-1'"),
        ("masquerade,rst,drop", "a router answers a SYN by rst or by drop"),
        (
            "masquerade,raw-syn-block,icmp",
            "no SYN gets through raw-syn-block that icmp could answer",
        ),
        ("masquerade,conntrack-max=0", "conntrack-max needs a number from 1 on, not '0'"),
    ] {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/netns-scripts/network.sh");
        let up = Command::new(script).args(["up", "refused", "--nat-a", kind]).output();
        let up = up.expect("network.sh runs");
        assert!(!up.status.success(), "{kind}");
        assert_eq!(String::from_utf8_lossy(&up.stderr), format!("network.sh: {complaint}\n"));
        assert!(!std::path::Path::new("/run/tcp-punch/refused").exists(), "{kind}");
    }
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn the_kinds_of_the_matrix_do_what_is_said_of_them() {
    // The NATs of the wide area network translate behind this capture; tests of their own, in
    // tests/wan/nat, hold them to their words.
    let kernel = |kind: &&Kind| kind.name != "none" && !kind.network.starts_with("user:");
    for kind in KINDS.iter().filter(kernel).filter(|kind| kind.outer.is_none()) {
        let mut routed = Crafted::behind(kind.network);
        let own = routed.seen(true, |it| it.a_sends(&ack_of_a()));
        let translated = own.iter().any(|it| it.tuple.local.ip() == endpoint(ROUTER_A, 0).ip());
        assert_eq!(translated, kind.mid_stream, "{}: mid-stream", kind.name);

        let mut routed = Crafted::behind(kind.network);
        let outer = routed.mappings(PORT, PORT..=PORT)[0];
        let tuple = Tuple { local: endpoint(HOST_B, PORT), remote: endpoint(ROUTER_A, outer) };
        let inward = routed.seen(false, |it| it.b_sends(&Segment { tuple, ..syn_of_b() }));
        let own = routed.seen(true, |it| it.a_sends(&syn_ack_of_a()));
        let noted = own.iter().any(|it| it.tuple.local.ip() == endpoint(ROUTER_A, 0).ip());
        let inbound_syn = match (inward.is_empty(), noted) {
            (false, _) => InboundSyn::Passes,
            (true, true) => InboundSyn::BlockedTracked,
            (true, false) => InboundSyn::BlockedUnseen,
        };
        assert_eq!(inbound_syn, kind.inbound_syn, "{}: a SYN from outside", kind.name);
    }
}

#[test]
fn the_oracle_names_the_strategy_that_is_needed() {
    for (a, b, strategy, tuples) in [
        ("masquerade", "drop", "syn", 1),
        ("syn-block", "raw+strict", "syn-ack", 1),
        ("strict", "raw-syn-block", "syn", 1),
        ("raw-syn-block", "raw-syn-block", "mid-stream", 1),
        ("random", "block-64", "syn", 424 * 64),
        ("random", "random-fully", "syn", 424 * 424),
    ] {
        let [a, b] = [a, b].map(|name| Kind::named(name).expect("a kind"));
        for (one, other) in [(a, b), (b, a)] {
            assert_eq!(expect(one, other), Expectation::Possible { strategy, tuples });
        }
    }
}

#[test]
fn the_oracle_says_why_there_is_no_way() {
    let [unseen, strict] = ["raw-syn-block", "raw+strict"].map(|name| Kind::named(name).unwrap());
    for (one, other) in [(unseen, strict), (strict, unseen), (strict, strict)] {
        let Expectation::Impossible { why } = expect(one, other) else { panic!("possible") };
        assert!(why.ends_with("raw+strict takes up no connection without a SYN"), "{why}");
    }
}
