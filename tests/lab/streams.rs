//! The connection after its hand-over: an ordinary kernel socket that lost nothing.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;

use nix::sys::socket::{getsockopt, sockopt};
use tcp_punch::Connection;

use crate::capture::Capture;
use crate::pair::{End, Pair, both, exchange_lines, hear, in_ms, say, stream};
use crate::trace::{repeated, segments};

/// So early, the instant is still ahead when both ends have found out how far the peer is, also on
/// a busy machine.
const AHEAD_MS: u64 = 400;

/// What `ss` says of the connection from this port: TCP_INFO in words.
fn tcp_info(end: &End, port: u16) -> String {
    let of_port = format!("sport = :{port}");
    let output = end.host.command("ss").args(["-Htino", &of_port]).output().expect("ss runs");
    let info = String::from_utf8(output.stdout).expect("text");
    assert!(info.contains("ESTAB"), "{info}");
    info
}

fn has_retransmitted(info: &str) -> bool {
    info.contains(" retrans:")
}

/// Differs from its neighbours wherever it is cut.
fn noise(len: usize) -> Vec<u8> {
    (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn talk_at_once(connection: Connection, said: &[u8]) -> (TcpStream, Vec<u8>) {
    let mut stream = stream(connection);
    stream.write_all(said).expect("sent");
    let mut heard = vec![0; said.len()];
    stream.read_exact(&mut heard).expect("received");
    (stream, heard)
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn what_both_ends_send_at_once_arrives_without_a_retransmission() {
    let pair = Pair::behind_nats(&[]);
    let said = noise(8 << 10);
    for round in 0..30 {
        // Every other time host-b is late: host-a's first bytes then follow on the heels of the
        // segment that completes the handshake.
        let (at_a, at_b) = (in_ms(AHEAD_MS), in_ms(AHEAD_MS + 30 * (round % 2)));
        let ((a, heard_a), (b, heard_b)) = both(
            || talk_at_once(pair.a.connect(pair.punch_of_a(40000, at_a)), &said),
            || talk_at_once(pair.b.connect(pair.punch_of_b(40000, at_b)), &said),
        );
        assert!(heard_a == said && heard_b == said, "round {round}: bytes differ");
        for end in [&pair.a, &pair.b] {
            let info = tcp_info(end, 40000);
            assert!(!has_retransmitted(&info), "round {round}: {info}");
        }
        drop((a, b));
    }
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn the_line_and_the_end_of_a_peer_in_haste_arrive_without_a_retransmission() {
    let pair = Pair::behind_nats(&[]);
    let wire = Capture::start(&pair.network.router_a(), "wan");
    for round in 0..20 {
        let (at_a, at_b) = (in_ms(AHEAD_MS), in_ms(AHEAD_MS + 30 * (round % 2)));
        let ((), heard) = both(
            || {
                let a = stream(pair.a.connect(pair.punch_of_a(40000, at_a)));
                say(&a, "in haste");
            },
            || {
                let b = stream(pair.b.connect(pair.punch_of_b(40000, at_b)));
                [hear(&b), hear(&b)]
            },
        );
        assert_eq!(heard, ["in haste\n", ""], "round {round}");
        let passed = segments(&wire.packets(|_| true));
        for end in [&pair.a, &pair.b] {
            let repeated = repeated(end.ip, &passed);
            assert!(repeated.is_empty(), "round {round}: {repeated:?}");
        }
    }
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn the_descriptor_is_an_ordinary_socket_with_every_option_of_its_handshake() {
    let pair = Pair::behind_nats(&[]);
    let (a, b) = pair.punch(40000);
    for (end, connection) in [(&pair.a, &a), (&pair.b, &b)] {
        let info = tcp_info(end, 40000);
        // A segment of 1500 bytes less two headers of 20 and 12 of timestamps.
        for option in [" ts ", " sack ", " wscale:", " mss:1448 "] {
            assert!(info.contains(option), "{option}: {info}");
        }
        assert!(getsockopt(&connection.fd, sockopt::ReuseAddr).expect("it is a socket"));
    }
    let (a, b) = (stream(a), stream(b));
    assert_eq!(a.peer_addr().expect("connected"), pair.b.at(40000));
    assert_eq!(b.peer_addr().expect("connected"), pair.a.at(40000));
    exchange_lines(&a, &b);
}

/// Sends so many bytes and then the end, and returns their hash.
pub(crate) fn pour(mut into: &TcpStream, len: usize) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    let mut block = noise(1 << 20);
    for number in 0..len >> 20 {
        // No two blocks alike, so that one in the place of another shows.
        block[..8].copy_from_slice(&number.to_be_bytes());
        hasher.update(&block);
        into.write_all(&block).expect("sent");
    }
    into.shutdown(Shutdown::Write).expect("connected");
    hasher.finalize()
}

/// Reads to the end, and returns how much came and its hash.
pub(crate) fn drain(mut from: &TcpStream) -> (usize, blake3::Hash) {
    let mut hasher = blake3::Hasher::new();
    let mut block = vec![0; 1 << 18];
    let mut total = 0;
    loop {
        let len = from.read(&mut block).expect("received");
        if len == 0 {
            return (total, hasher.finalize());
        }
        hasher.update(&block[..len]);
        total += len;
    }
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_gibibyte_one_way_and_some_the_other_way_arrive_intact() {
    const THERE: usize = 1 << 30;
    const BACK: usize = 64 << 20;
    let pair = Pair::behind_nats(&["--delay", "0ms"]);
    let (a, b) = pair.punch(40000);
    let (a, b) = (stream(a), stream(b));
    thread::scope(|scope| {
        let poured_there = scope.spawn(|| pour(&a, THERE));
        let poured_back = scope.spawn(|| pour(&b, BACK));
        let came_back = scope.spawn(|| drain(&a));
        let came_there = drain(&b);
        assert_eq!(came_there, (THERE, poured_there.join().expect("sent")));
        let came_back = came_back.join().expect("received");
        assert_eq!(came_back, (BACK, poured_back.join().expect("sent")));
    });
}
