//! What comes in right behind the handshake, before the kernel's socket stands. A peer of our own
//! making sends it, because another kernel would be too slow most of the time.

use std::net::SocketAddr;

use tcp_punch::sys::{Guard, RawSender};
use tcp_punch::wire::{Options, Segment, Seq, Tuple};

use crate::capture::Capture;
use crate::pair::{Pair, both, eventually, hear, in_ms, stream};
use crate::trace::{is_full_syn_from, segments};

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

    fn send(&mut self, segments: &[Segment]) {
        for segment in segments {
            self.sender.send(&segment.to_packet()).expect("sent");
        }
    }

    /// Waits until everything up to `seq` is acknowledged, by no reset.
    fn await_ack(&self, from: SocketAddr, seq: Seq) {
        eventually("all of it is acknowledged", || {
            let answers = segments(&self.wire.packets(|_| true));
            let answers: Vec<_> = answers.iter().filter(|it| it.tuple.local == from).collect();
            assert!(!answers.iter().any(|answer| answer.rst), "{answers:?}");
            answers.iter().any(|answer| answer.ack == Some(seq))
        });
    }
}

/// < S. · < . "early, " · < . "and whole\n" · < F. — all within some microseconds
#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn bytes_and_the_end_right_behind_the_handshake_are_taken_at_once() {
    let pair = Pair::on_one_lan();
    for (port, order) in [(40000, [0, 1, 2]), (40001, [1, 0, 2]), (40002, [2, 1, 0])] {
        let wire = Capture::start(&pair.b.host, "eth0");
        let at = in_ms(100);
        let (a, ()) = both(
            || pair.a.connect(pair.punch_of_a(port, at)),
            || {
                let mut peer = Scripted::meet(&pair, port, wire);
                let one = peer.segment(ISS + 1, b"early, ");
                let two = peer.segment(ISS + 8, b"and whole\n");
                let end = Segment { fin: true, ..peer.segment(ISS + 18, b"") };
                let rest = [one, two, end];
                peer.send(&[peer.syn_ack()]);
                peer.send(&order.map(|i| rest[i].clone()));
                // Each was sent once only, so nothing may have been lost.
                peer.await_ack(pair.a.at(port), ISS + 19);
            },
        );
        let early = a.report.handover.as_ref().map(|it| it.early_bytes);
        let a = stream(a);
        assert_eq!([hear(&a), hear(&a)], ["early, and whole\n", ""], "{order:?}, early: {early:?}");
    }
}

/// As many bytes as the window takes, at once.
#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_whole_first_flight_right_behind_the_handshake_is_taken_at_once() {
    const SEGMENT: u32 = 1448;
    const FLIGHT: u32 = 10;
    let pair = Pair::on_one_lan();
    let wire = Capture::start(&pair.b.host, "eth0");
    let at = in_ms(100);
    let (a, ()) = both(
        || pair.a.connect(pair.punch_of_a(40000, at)),
        || {
            let mut peer = Scripted::meet(&pair, 40000, wire);
            let payload = |n: u32| vec![b'a' + n as u8; SEGMENT as usize];
            let mut flight = vec![peer.syn_ack()];
            flight.extend((0..FLIGHT).map(|n| peer.segment(ISS + 1 + n * SEGMENT, &payload(n))));
            flight.push(peer.segment(ISS + 1 + FLIGHT * SEGMENT, b"\n"));
            peer.send(&flight);
            peer.await_ack(pair.a.at(40000), ISS + 2 + FLIGHT * SEGMENT);
        },
    );
    let expected: String =
        (0..FLIGHT).map(|n| char::from(b'a' + n as u8).to_string().repeat(1448)).collect();
    assert!(hear(&stream(a)) == expected + "\n", "bytes differ");
}
