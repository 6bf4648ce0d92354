//! What comes in right behind the handshake. A peer of our own making sends it, because another
//! program would be too slow to meet the moment in which the connection is installed.

use std::net::{SocketAddr, TcpStream};

use tcp_punch::sys::{Guard, RawSender};
use tcp_punch::wire::{Options, Segment, Seq, Tuple};

use crate::capture::Capture;
use crate::pair::{Pair, both, hear, in_ms, stream};
use crate::trace::is_full_syn_from;

/// The peer's initial sequence number; its first byte takes the number after it.
const ISS: Seq = Seq(u32::MAX - 3);

/// A peer on host-b that answers one SYN.
struct Scripted {
    wire: Capture,
    sender: RawSender,
    syn: Segment,
    _guard: Guard,
}

impl Scripted {
    fn meet(pair: &Pair, port: u16, wire: Capture) -> Self {
        let (guard, sender) = pair.b.host.run(|| {
            let guard = Guard::new(SocketAddr::new(pair.b.ip, port)).expect("a free port");
            (guard, RawSender::new(pair.b.ip, pair.a.ip).expect("root may"))
        });
        let syn = Segment::parse(&wire.first(is_full_syn_from(pair.a.ip)).bytes).expect("a SYN");
        Self { wire, sender, syn, _guard: guard }
    }

    /// A segment of the peer's that acknowledges the SYN.
    fn segment(&self, seq: Seq, payload: &[u8]) -> Segment {
        let (theirs, _) = self.syn.options.timestamps.expect("its SYN offers timestamps");
        Segment {
            tuple: Tuple { local: self.syn.tuple.remote, remote: self.syn.tuple.local },
            hop_limit: 64,
            seq,
            ack: Some(self.syn.seq + 1),
            syn: false,
            fin: false,
            rst: false,
            window: 64000,
            options: Options { timestamps: Some((1, theirs)), ..Options::default() },
            payload: payload.to_vec(),
        }
    }

    fn syn_ack(&self) -> Segment {
        let (theirs, _) = self.syn.options.timestamps.expect("its SYN offers timestamps");
        let options = Options { timestamps: Some((1, theirs)), ..self.syn.options };
        Segment { syn: true, options, ..self.segment(ISS, b"") }
    }

    fn syn(&self) -> Segment {
        Segment { ack: None, ..self.syn_ack() }
    }

    fn send(&mut self, segments: &[Segment]) {
        for segment in segments {
            self.sender.send(&segment.to_packet()).expect("sent");
        }
    }

    /// Waits until everything up to `seq` is acknowledged; wakes with the packet.
    fn await_ack(&self, seq: Seq) {
        self.wire.first(|packet| {
            Segment::parse(packet).is_ok_and(|it| {
                let is_answer = it.tuple == self.syn.tuple;
                assert!(!(is_answer && it.rst), "{it}");
                is_answer && it.ack == Some(seq)
            })
        });
    }
}

/// How the peer opens. Either way it may send once its SYN is acknowledged, and sends at once.
#[derive(Clone, Copy, Debug)]
enum Opening {
    /// < S. and > .
    Listening,
    /// < S and > S. and > .
    Crossing,
}

/// host-a against a peer that sends all these segments, which `make` makes, within some
/// microseconds, and each once only. Returns host-a's connection once it has them all.
fn meet(
    pair: &Pair,
    port: u16,
    opening: Opening,
    make: impl FnOnce(&Scripted) -> Vec<Segment> + Send,
) -> TcpStream {
    let wire = Capture::start(&pair.b.host, "eth0");
    let at = in_ms(100);
    let (a, ()) = both(
        || pair.a.connect(pair.punch_of_a(port, at)),
        || {
            let mut peer = Scripted::meet(pair, port, wire);
            let flight = make(&peer);
            peer.send(&[match opening {
                Opening::Listening => peer.syn_ack(),
                Opening::Crossing => peer.syn(),
            }]);
            peer.await_ack(ISS + 1);
            peer.send(&flight);
            peer.await_ack(flight.iter().map(Segment::end).fold(ISS, furthest));
        },
    );
    stream(a)
}

fn furthest(a: Seq, b: Seq) -> Seq {
    if a.precedes(b) { b } else { a }
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn bytes_and_the_end_right_behind_the_handshake_are_taken_at_once_in_any_order() {
    let pair = Pair::on_one_lan();
    let mut port = 40000;
    for opening in [Opening::Listening, Opening::Crossing] {
        for order in [[0, 1, 2], [1, 0, 2], [2, 1, 0]] {
            port += 1;
            let a = meet(&pair, port, opening, |peer| {
                let one = peer.segment(ISS + 1, b"early, ");
                let two = peer.segment(ISS + 8, b"and whole\n");
                let end = Segment { fin: true, ..peer.segment(ISS + 18, b"") };
                let rest = [one, two, end];
                order.map(|i| rest[i].clone()).to_vec()
            });
            let heard = [hear(&a), hear(&a)];
            assert_eq!(heard, ["early, and whole\n", ""], "{opening:?}, {order:?}");
        }
    }
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_whole_first_flight_right_behind_the_handshake_is_taken_at_once() {
    // A kernel's initial window, RFC 6928.
    const FLIGHT: u32 = 10;
    const SEGMENT: u32 = 1448;
    let letters = || (0..FLIGHT).map(|n| char::from(b'a' + n as u8));
    let expected: String =
        letters().map(|c| c.to_string().repeat(SEGMENT as usize)).collect::<String>() + "\n";
    let pair = Pair::on_one_lan();
    for (port, opening) in [(40000, Opening::Listening), (40001, Opening::Crossing)] {
        let a = meet(&pair, port, opening, |peer| {
            let cut = expected.as_bytes().chunks(SEGMENT as usize);
            (0u32..).zip(cut).map(|(n, it)| peer.segment(ISS + 1 + n * SEGMENT, it)).collect()
        });
        assert!(hear(&a) == expected, "{opening:?}: bytes differ");
    }
}
