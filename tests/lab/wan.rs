//! The test equipment itself: delays, hops, losses and routers are what they are said to be.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use nix::sys::socket::{setsockopt, sockopt};

use crate::capture::Capture;
use crate::network::{Host, Network};
use crate::transit::{transit_times, udp};

const ROUTER_A: &str = "198.51.100.1";
const ROUTER_B: &str = "203.0.113.1";
const HOST_B_V6: &str = "2001:db8:b::2";

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn delay_is_exact_to_a_fifth_of_a_millisecond() {
    let delay = Duration::from_millis(10);
    let network = Network::up(["--delay", "10ms"]);
    for (from, to) in [("0.0.0.0:0", ROUTER_B), ("[::]:0", HOST_B_V6)] {
        let transits = transit_times(&network, from, to, 200);
        let excess = |rank: usize| transits[transits.len() * rank / 100].saturating_sub(delay);
        println!(
            "to {to}: later than {delay:?} by {:?} (least), {:?} (p50), {:?} (p90), {:?} (p99)",
            excess(0),
            excess(50),
            excess(90),
            excess(99)
        );
        assert!(transits[0] >= delay, "none is early: {:?}", transits[0]);
        // Of two hundred the quickest, since a busy machine makes most of them wait for it.
        assert!(excess(0) < Duration::from_micros(200), "{:?}", excess(0));
    }
}

/// Who sent ICMP errors to this interface, in order, and of which type.
fn icmp_errors(capture: &Capture) -> Vec<(IpAddr, u8)> {
    let error = |packet: &[u8]| {
        let sliced = SlicedPacket::from_ip(packet).ok()?;
        match (sliced.net?, sliced.transport?) {
            (NetSlice::Ipv4(ip), TransportSlice::Icmpv4(icmp)) => {
                Some((ip.header().source_addr().into(), icmp.type_u8()))
            }
            (NetSlice::Ipv6(ip), TransportSlice::Icmpv6(icmp)) if icmp.type_u8() < 128 => {
                Some((ip.header().source_addr().into(), icmp.type_u8()))
            }
            _ => None,
        }
    };
    let packets = capture.packets(|packet| error(packet).is_some());
    packets.iter().filter_map(|captured| error(&captured.bytes)).collect()
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn every_hop_answers_in_order() {
    const EXCEEDED_V4: u8 = 11;
    const UNREACHABLE_V4: u8 = 3;
    const EXCEEDED_V6: u8 = 3;
    let pause = || thread::sleep(Duration::from_millis(20));
    let network = Network::up(["--hops", "3"]);
    let host = network.host_a();
    let answers = Capture::start(&host, "eth0");

    let socket = udp(&host, "0.0.0.0:0");
    for ttl in 1..=5 {
        socket.set_ttl(ttl).expect("a valid hop limit");
        // Errors about earlier packets are reported by later calls, hence no check.
        let _ = socket.send_to(b"?", (ROUTER_B, 9));
        pause();
    }
    let expected = [
        ("192.168.1.1", EXCEEDED_V4),
        ("192.0.2.1", EXCEEDED_V4),
        ("192.0.2.2", EXCEEDED_V4),
        ("192.0.2.3", EXCEEDED_V4),
        (ROUTER_B, UNREACHABLE_V4),
    ];
    assert_eq!(icmp_errors(&answers), expected.map(|(ip, kind)| (ip.parse().unwrap(), kind)));

    let socket = udp(&host, "[::]:0");
    for hop_limit in 1..=5 {
        setsockopt(&socket, sockopt::Ipv6Ttl, &hop_limit).expect("a valid hop limit");
        let _ = socket.send_to(b"?", (HOST_B_V6, 9));
        pause();
    }
    let expected = [
        "2001:db8:a::1",
        "2001:db8:ffff::1",
        "2001:db8:ffff::2",
        "2001:db8:ffff::3",
        "2001:db8:b::1",
    ];
    assert_eq!(icmp_errors(&answers), expected.map(|ip| (ip.parse().unwrap(), EXCEEDED_V6)));
}

/// Sends numbered packets from host-a and returns the numbers in the order in which router-b
/// received them.
fn received_numbers(network: &Network, count: u32) -> Vec<u32> {
    let receiver = udp(&network.router_b(), "203.0.113.1:9");
    receiver.set_read_timeout(Some(Duration::from_millis(500))).expect("a valid timeout");
    let sender = udp(&network.host_a(), "0.0.0.0:0");
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..count {
                sender.send_to(&number.to_be_bytes(), (ROUTER_B, 9)).expect("sent");
                thread::sleep(Duration::from_micros(100));
            }
        });
        let mut numbers = Vec::new();
        let mut bytes = [0; 4];
        while receiver.recv(&mut bytes).is_ok() {
            numbers.push(u32::from_be_bytes(bytes));
        }
        numbers
    })
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn loss_reordering_and_duplication_are_as_configured() {
    const COUNT: u32 = 4000;
    let percent = |count: usize| count as f64 * 100.0 / f64::from(COUNT);

    let clean = received_numbers(&Network::up([]), COUNT);
    assert!(clean.iter().copied().eq(0..COUNT), "all, once, in order");

    let lossy = received_numbers(&Network::up(["--loss", "10"]), COUNT);
    let lost = percent(COUNT as usize - lossy.len());
    assert!((8.5..11.5).contains(&lost), "lost {lost} %");

    let doubled = received_numbers(&Network::up(["--duplicate", "5"]), COUNT);
    let twice = percent(doubled.len() - COUNT as usize);
    assert!((4.0..6.0).contains(&twice), "{twice} % twice");

    let mixed = received_numbers(&Network::up(["--reorder", "5", "--delay", "2ms"]), COUNT);
    assert_eq!(mixed.len(), COUNT as usize, "reordering loses nothing");
    let mut highest = 0;
    let late = mixed
        .iter()
        .filter(|number| {
            highest = highest.max(**number);
            **number < highest
        })
        .count();
    let late = percent(late);
    assert!((4.0..6.0).contains(&late), "{late} % overtaken");
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn masquerade_translates_and_no_nat_does_not() {
    for (nat, source) in [("masquerade", ROUTER_A), ("none", "198.51.100.2")] {
        let network = Network::up(["--nat-a", nat]);
        let receiver = udp(&network.router_b(), "203.0.113.1:9");
        let sender = udp(&network.host_a(), "0.0.0.0:41000");
        sender.send_to(b"?", (ROUTER_B, 9)).expect("sent");
        let (_, from) = receiver.recv_from(&mut [0; 8]).expect("received");
        // MASQUERADE keeps the port when it can.
        assert_eq!(from, SocketAddr::new(source.parse().unwrap(), 41000));
    }
}

/// How a connection from host-b to a port that nobody opened ends.
fn unsolicited(network: &Network, address: IpAddr) -> io::ErrorKind {
    network
        .host_b()
        .run(|| {
            TcpStream::connect_timeout(&SocketAddr::new(address, 81), Duration::from_millis(300))
        })
        .expect_err("nobody listens")
        .kind()
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn routers_meet_an_unsolicited_syn_as_configured() {
    for (nat, kind) in [
        ("masquerade", io::ErrorKind::ConnectionRefused),
        ("masquerade:rst", io::ErrorKind::ConnectionRefused),
        ("masquerade:reject", io::ErrorKind::ConnectionRefused),
        ("masquerade:drop", io::ErrorKind::TimedOut),
    ] {
        let network = Network::up(["--nat-a", nat]);
        let v4 = ROUTER_A.parse().unwrap();
        assert_eq!(unsolicited(&network, v4), kind, "{nat}, IPv4");
        let v6 = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xa, 0, 0, 0, 0, 2));
        assert_eq!(unsolicited(&network, v6), kind, "{nat}, IPv6");
    }
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn bulk_passes_intact() {
    const GIB: usize = 1 << 30;
    const BLOCK: usize = 1 << 20;
    let network = Network::up([]);
    let listener =
        network.router_b().run(|| TcpListener::bind((ROUTER_B, 7000))).expect("a free port");
    // Not a multiple of the segment size, so that a misplaced segment shows.
    let block: Vec<u8> =
        (0..BLOCK as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let started = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut stream =
                network.host_a().run(|| TcpStream::connect((ROUTER_B, 7000))).expect("a way out");
            for _ in 0..GIB / BLOCK {
                stream.write_all(&block).expect("sent");
            }
        });
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut received = vec![0; BLOCK];
        for number in 0..GIB / BLOCK {
            stream.read_exact(&mut received).expect("received");
            assert!(received == block, "block {number} differs");
        }
        assert_eq!(stream.read(&mut received).expect("the end"), 0);
    });
    let gigabits = GIB as f64 * 8.0 / 1e9 / started.elapsed().as_secs_f64();
    println!("1 GiB at {gigabits:.2} Gbit/s");
}

/// Packets that an interface has received.
fn received(host: &Host, interface: &str) -> u64 {
    let lines = host.proc_net("dev");
    let line = lines.iter().find_map(|it| it.trim().strip_prefix(&format!("{interface}:")));
    let mut numbers = line.expect("the interface is there").split_whitespace();
    numbers.nth(1).and_then(|it| it.parse().ok()).expect("packets come second")
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn small_packets_pass_in_great_number() {
    const SECONDS: f64 = 2.0;
    // From the host itself, through a NAT of the wan's, and with an answer to each.
    for (nat, ttl) in [("none", 64), ("none", 2), ("user:mapping=apdm,ports=random", 64)] {
        let network = Network::up(["--nat-a", nat, "--delay", "10ms"]);
        let counted = match ttl {
            2 => network.router_a(),
            _ => network.router_b(),
        };
        let socket = udp(&network.host_a(), "0.0.0.0:0");
        socket.set_ttl(ttl).expect("a valid hop limit");
        let before = received(&counted, "wan");
        let busy_before = network.wan_busy();
        let started = Instant::now();
        let mut sent = 0_u64;
        while started.elapsed().as_secs_f64() < SECONDS {
            for _ in 0..64 {
                // Many destinations, as a spray has. An answer to an earlier one is no failure.
                let port = 1024 + (sent % 60_000) as u16;
                let _ = socket.send_to(b"?", (ROUTER_B, port));
                sent += 1;
            }
        }
        thread::sleep(Duration::from_millis(200));
        let arrived = received(&counted, "wan") - before;
        let busy = (network.wan_busy() - busy_before).as_secs_f64();
        println!(
            "{nat}, hop limit {ttl}: {:.0} sent and {:.0} arrived a second, {:.0} in a second of \
             the processor",
            sent as f64 / SECONDS,
            arrived as f64 / SECONDS,
            arrived as f64 / busy
        );
        assert!(arrived > sent / 50, "{arrived} of {sent}");
    }
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_lan_connects_directly() {
    let network = Network::up(["--topology", "lan"]);
    for (listen, peer) in
        [("192.168.1.3:7000", "192.168.1.2"), ("[2001:db8:a::3]:7000", "2001:db8:a::2")]
    {
        let listener = network.host_b().run(|| TcpListener::bind(listen)).expect("a free port");
        let _stream = network.host_a().run(|| TcpStream::connect(listen)).expect("a neighbour");
        let (_, from) = listener.accept().expect("a connection");
        assert_eq!(from.ip(), peer.parse::<IpAddr>().unwrap());
    }
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn networks_stand_side_by_side_and_leave_nothing() {
    let first = Network::up([]);
    let second = Network::up([]);
    let mut sleeper = second.host_a().command("sleep").arg("1000").spawn().expect("sleep runs");
    let path = second.host_a().netns_path();
    assert!(path.exists());
    drop(second);
    assert!(!path.exists());
    let status = sleeper.wait().expect("it was ended");
    assert!(!status.success());
    assert!(first.host_a().netns_path().exists());
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_server_outside_sees_each_host_as_its_router_shows_it() {
    let network = Network::up(["--server", "192.0.2.254", "--nat-b", "user:ports=sequential"]);
    let address = SocketAddr::from(([192, 0, 2, 254], 3478));
    let listener = network.server().run(|| TcpListener::bind(address)).expect("a free port");
    for (host, router) in [(network.host_a(), ROUTER_A), (network.host_b(), ROUTER_B)] {
        let connection = host.run(|| TcpStream::connect(address)).expect("it listens");
        let (_, seen) = listener.accept().expect("a connection");
        assert_eq!(seen.ip().to_string(), router);
        drop(connection);
    }
}
