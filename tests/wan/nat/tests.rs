//! One test for each behaviour, in the words of its requirement.

use std::time::Duration;

use etherparse::{NetSlice, PacketBuilder, PacketHeaders, SlicedPacket, TcpHeader, TransportSlice};

use super::*;

const EXTERNAL: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const HOST: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 168, 1, 2), 40_000);
const PEER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 1), 443);
/// The same address, another port.
const PEER_PORT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 1), 444);
const STRANGER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 9), 443);

/// A NAT under test, and its clock.
struct Bench {
    nat: Nat,
    now: Instant,
}

/// The fields of a segment that tests compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    from: SocketAddrV4,
    to: SocketAddrV4,
    flags: &'static str,
    seq: u32,
    ack: u32,
}

fn bench(spec: &str) -> Bench {
    let now = Instant::now();
    Bench { nat: Nat::new(spec.parse().unwrap(), EXTERNAL, None, 1, now), now }
}

fn packet(bytes: &[u8]) -> Packet {
    let mut packet = Packet::new();
    packet.copy_from(bytes);
    packet
}

fn segment(from: SocketAddrV4, to: SocketAddrV4, flags: &str) -> Packet {
    numbered(from, to, flags, 1000, 2000)
}

fn numbered(from: SocketAddrV4, to: SocketAddrV4, flags: &str, seq: u32, ack: u32) -> Packet {
    let mut tcp = TcpHeader::new(from.port(), to.port(), seq, 65_535);
    tcp.syn = flags.contains('S');
    tcp.fin = flags.contains('F');
    tcp.rst = flags.contains('R');
    tcp.ack = flags.contains('.');
    tcp.acknowledgment_number = if tcp.ack { ack } else { 0 };
    let mut bytes = Vec::new();
    PacketBuilder::ipv4(from.ip().octets(), to.ip().octets(), 64)
        .tcp_header(tcp)
        .write(&mut bytes, &[])
        .unwrap();
    packet(&bytes)
}

fn seen(packet: &Packet) -> Seen {
    let sliced = SlicedPacket::from_ip(packet.bytes()).unwrap();
    let (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Tcp(tcp))) = (sliced.net, sliced.transport)
    else {
        panic!("no segment: {packet:?}", packet = packet.bytes())
    };
    let (source, destination) = (ip.header().source_addr(), ip.header().destination_addr());
    let right = tcp.calc_checksum_ipv4(source.octets(), destination.octets());
    assert_eq!(Ok(tcp.checksum()), right, "the checksum");
    Seen {
        from: SocketAddrV4::new(source, tcp.source_port()),
        to: SocketAddrV4::new(destination, tcp.destination_port()),
        flags: match (tcp.syn(), tcp.rst(), tcp.ack()) {
            (true, false, false) => "S",
            (true, false, true) => "S.",
            (false, true, false) => "R",
            (false, true, true) => "R.",
            _ => ".",
        },
        seq: tcp.sequence_number(),
        ack: tcp.acknowledgment_number(),
    }
}

/// Type and code of an ICMP error, its source and destination, and what it quotes.
fn error(packet: &Packet) -> (u8, u8, IpAddr, IpAddr, Vec<u8>) {
    let headers = PacketHeaders::from_ip_slice(packet.bytes()).unwrap();
    let Some(etherparse::TransportHeader::Icmpv4(icmp)) = headers.transport else {
        panic!("no error: {headers:?}")
    };
    let quote = headers.payload.slice();
    assert_eq!(icmp.checksum, icmp.icmp_type.calc_checksum(quote), "the checksum");
    let octets = icmp.icmp_type.header_len();
    assert_eq!(octets, 8);
    let summary = packet.summary().unwrap();
    let kind = icmp.to_bytes();
    (kind[0], kind[1], summary.source, summary.destination, quote.to_vec())
}

impl Bench {
    fn wait(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    fn out(&mut self, from: SocketAddrV4, to: SocketAddrV4, flags: &str) -> Option<Seen> {
        let mut packet = segment(from, to, flags);
        match self.nat.outbound(&mut packet, self.now) {
            Verdict::Onward => Some(seen(&packet)),
            Verdict::Drop => None,
            Verdict::Back => panic!("{:?}", seen(&packet)),
        }
    }

    /// The external port of a connection that the host opens.
    fn open(&mut self, from: SocketAddrV4, to: SocketAddrV4) -> u16 {
        self.out(from, to, "S").expect("translated").from.port()
    }

    fn inward(&mut self, from: SocketAddrV4, port: u16, flags: &str) -> (Verdict, Packet) {
        let mut packet = segment(from, SocketAddrV4::new(EXTERNAL, port), flags);
        let verdict = self.nat.inbound(&mut packet, self.now);
        (verdict, packet)
    }

    fn reaches(&mut self, from: SocketAddrV4, port: u16, flags: &str) -> bool {
        let (verdict, packet) = self.inward(from, port, flags);
        let reached = verdict == Verdict::Onward;
        assert!(!reached || seen(&packet).to == HOST, "{:?}", seen(&packet));
        reached
    }
}

#[test]
fn mappings_depend_on_as_much_of_the_destination_as_is_said() {
    // RFC 4787 section 4.1.
    for (mapping, same_by_port, same_by_address) in
        [("eim", true, true), ("adm", true, false), ("apdm", false, false)]
    {
        let mut it = bench(&format!("mapping={mapping},ports=random"));
        let first = it.open(HOST, PEER);
        assert_eq!(it.open(HOST, PEER), first, "{mapping}: a repetition");
        assert_eq!(it.open(HOST, PEER_PORT) == first, same_by_port, "{mapping}");
        assert_eq!(it.open(HOST, STRANGER) == first, same_by_address, "{mapping}");
    }
}

#[test]
fn filters_admit_as_much_of_the_outside_as_is_said() {
    // RFC 4787 section 5.
    for (filtering, by_port, by_address) in
        [("eif", true, true), ("adf", true, false), ("apdf", false, false)]
    {
        for mapping in ["eim", "adm", "apdm"] {
            let mut it = bench(&format!("mapping={mapping},filtering={filtering}"));
            let port = it.open(HOST, PEER);
            assert!(it.reaches(PEER, port, "S."), "{filtering}");
            assert_eq!(it.reaches(PEER_PORT, port, "S"), by_port, "{mapping} {filtering}");
            assert_eq!(it.reaches(STRANGER, port, "S"), by_address, "{mapping} {filtering}");
            assert!(!it.reaches(STRANGER, port + 1, "S"));
            if by_address {
                let back = it.out(HOST, STRANGER, "S.").unwrap();
                assert_eq!(back.from.port(), port, "the answer leaves by the same mapping");
            }
        }
    }
}

#[test]
fn a_port_serves_many_destinations_only_if_what_comes_in_can_be_told_apart() {
    let other = SocketAddrV4::new(Ipv4Addr::new(192, 168, 1, 3), 40_000);
    let mut strict = bench("mapping=apdm,filtering=apdf,pool=4096-4096");
    assert_eq!(strict.open(HOST, PEER), 4096);
    assert_eq!(strict.open(other, PEER_PORT), 4096);
    assert_eq!(strict.out(other, PEER, "S"), None, "that one is taken");
    let mut loose = bench("mapping=apdm,filtering=eif,pool=4096-4096");
    assert_eq!(loose.open(HOST, PEER), 4096);
    assert_eq!(loose.out(other, PEER_PORT, "S"), None);
}

#[test]
fn every_sequence_of_a_simultaneous_open_is_let_through() {
    // RFC 5382 REQ-1 and REQ-2.
    let sequences: [&[(Way, &str)]; 4] = [
        &[(Way::Out, "S"), (Way::In, "S"), (Way::Out, "S."), (Way::In, "S.")],
        &[(Way::Out, "S"), (Way::In, "S"), (Way::In, "S."), (Way::Out, "S."), (Way::In, ".")],
        &[(Way::Out, "S"), (Way::In, "S."), (Way::Out, ".")],
        &[(Way::Out, "S"), (Way::In, "S"), (Way::Out, "S"), (Way::In, "S"), (Way::Out, ".")],
    ];
    for sequence in sequences {
        let mut it = bench("");
        for (way, flags) in sequence {
            let passed = match way {
                Way::Out => it.out(HOST, PEER, flags).is_some(),
                Way::In => it.reaches(PEER, 40_000, flags),
            };
            assert!(passed, "{way:?} {flags} of {sequence:?}");
        }
    }
}

#[test]
fn an_inbound_syn_is_blocked_after_or_before_it_counts() {
    for (syn_in, counts) in [("block", true), ("ignore", false)] {
        let mut it = bench(&format!("syn-in={syn_in},rst-kills=yes"));
        it.open(HOST, PEER);
        assert!(!it.reaches(PEER, 40_000, "S"), "{syn_in}");
        // A connection that has been answered outlives a reset.
        assert!(it.reaches(PEER, 40_000, "R"));
        assert_eq!(it.reaches(PEER, 40_000, "S."), counts, "{syn_in}");
    }
}

#[test]
fn an_unsolicited_syn_draws_what_is_said() {
    let (verdict, _) = bench("unsolicited=drop").inward(STRANGER, 9, "S");
    assert_eq!(verdict, Verdict::Drop);

    let (verdict, answer) = bench("unsolicited=rst").inward(STRANGER, 9, "S");
    assert_eq!(verdict, Verdict::Back);
    let from = SocketAddrV4::new(EXTERNAL, 9);
    let expected = Seen { from, to: STRANGER, flags: "R.", seq: 0, ack: 1001 };
    assert_eq!(seen(&answer), expected);
    let (_, answer) = bench("unsolicited=rst").inward(STRANGER, 9, ".");
    assert_eq!(seen(&answer), Seen { flags: "R", seq: 2000, ack: 0, ..expected });

    let (verdict, answer) = bench("unsolicited=icmp").inward(STRANGER, 9, "S");
    assert_eq!(verdict, Verdict::Back);
    let (kind, code, from, to, quote) = error(&answer);
    assert_eq!((kind, code, from, to), (3, 3, EXTERNAL.into(), (*STRANGER.ip()).into()));
    assert_eq!(quote, segment(STRANGER, SocketAddrV4::new(EXTERNAL, 9), "S").bytes());

    for spec in ["unsolicited=rst", "unsolicited=icmp", "unsolicited=hold"] {
        let (verdict, _) = bench(spec).inward(STRANGER, 9, "R");
        assert_eq!(verdict, Verdict::Drop, "a reset draws nothing");
    }
}

#[test]
fn a_held_syn_is_answered_after_six_seconds() {
    // RFC 5382 REQ-4.
    let mut it = bench("unsolicited=hold");
    let start = it.now;
    assert_eq!(it.inward(STRANGER, 9, "S").0, Verdict::Drop);
    it.wait(3);
    assert_eq!(it.inward(STRANGER, 9, "S").0, Verdict::Drop, "a repetition");
    assert_eq!(it.nat.next_due(), Some(start + Duration::from_secs(6)));
    let mut answer = Packet::new();
    assert!(!it.nat.poll(&mut answer, it.now));
    it.wait(3);
    assert!(it.nat.poll(&mut answer, it.now));
    let (kind, code, from, to, quote) = error(&answer);
    assert_eq!((kind, code, from, to), (3, 3, EXTERNAL.into(), (*STRANGER.ip()).into()));
    assert_eq!(quote, segment(STRANGER, SocketAddrV4::new(EXTERNAL, 9), "S").bytes());
    assert_eq!(it.nat.next_due(), None);
}

#[test]
fn a_held_syn_is_dropped_in_silence_when_the_insides_syn_comes() {
    let mut it = bench("unsolicited=hold");
    it.inward(PEER, 40_000, "S");
    it.wait(5);
    it.open(HOST, PEER);
    it.wait(2);
    assert!(!it.nat.poll(&mut Packet::new(), it.now));
}

#[test]
fn an_inbound_reset_kills_what_is_unanswered_or_not() {
    for (spec, survives) in [("rst-kills=yes", false), ("rst-kills=no", true)] {
        let mut it = bench(spec);
        it.open(HOST, PEER);
        assert!(it.reaches(PEER, 40_000, "R"), "the reset itself is let through");
        assert_eq!(it.reaches(PEER, 40_000, "S"), survives, "{spec}");
    }
    let mut answered = bench("rst-kills=yes");
    answered.open(HOST, PEER);
    assert!(answered.reaches(PEER, 40_000, "S"));
    assert!(answered.reaches(PEER, 40_000, "R"));
    assert!(answered.reaches(PEER, 40_000, "S"));
}

#[test]
fn rewritten_sequence_numbers_are_one_offset_per_connection() {
    let mut it = bench("rewrite-seq=yes");
    let offset = it.out(HOST, PEER, "S").unwrap().seq.wrapping_sub(1000);
    assert_ne!(offset, 0);
    let mut answer = numbered(
        PEER,
        SocketAddrV4::new(EXTERNAL, 40_000),
        "S.",
        5000,
        1001_u32.wrapping_add(offset),
    );
    assert_eq!(it.nat.inbound(&mut answer, it.now), Verdict::Onward);
    assert_eq!((seen(&answer).seq, seen(&answer).ack), (5000, 1001));
    let next = it.out(HOST, PEER, ".").unwrap();
    assert_eq!((next.seq, next.ack), (1000_u32.wrapping_add(offset), 2000));
    let other = it.out(HOST, STRANGER, "S").unwrap().seq.wrapping_sub(1000);
    assert_ne!(other, offset, "each connection has its own");
}

#[test]
fn an_ack_from_inside_makes_a_mapping_or_not() {
    let mut loose = bench("loose=yes");
    assert!(loose.out(HOST, PEER, ".").is_some());
    assert!(loose.reaches(PEER, 40_000, "."));
    let mut strict = bench("loose=no");
    assert_eq!(strict.out(HOST, PEER, "."), None);
    assert!(!strict.reaches(PEER, 40_000, "."));
    for flags in ["S.", "R", "R."] {
        assert_eq!(bench("loose=yes").out(HOST, PEER, flags), None, "{flags}");
    }
}

#[test]
fn a_full_table_makes_no_mapping() {
    let mut it = bench("mapping=apdm,entries=2");
    it.open(HOST, PEER);
    it.open(HOST, PEER_PORT);
    assert_eq!(it.out(HOST, STRANGER, "S"), None);
    assert!(it.out(HOST, PEER, "S").is_some(), "what is there stays");
    it.wait(121);
    assert!(it.out(HOST, STRANGER, "S").is_some(), "idle ones have gone");
    assert_eq!(it.nat.table.len(), 1);
}

#[test]
fn idle_connections_end_in_their_time() {
    // A SYN alone: 120 s, however often it is repeated.
    let mut it = bench("");
    it.open(HOST, PEER);
    it.wait(100);
    it.open(HOST, PEER);
    it.wait(19);
    assert!(it.reaches(PEER, 40_000, "S"));
    // RFC 5382 REQ-5: partially open, four minutes from the last segment.
    it.wait(239);
    assert!(it.reaches(PEER, 40_000, "S."));
    assert!(it.out(HOST, PEER, ".").is_some());
    // Established, two hours and four minutes.
    it.wait(7439);
    assert!(it.reaches(PEER, 40_000, "."));
    it.wait(7439);
    assert!(it.reaches(PEER, 40_000, "F."));
    // Closing, four minutes again.
    it.wait(241);
    assert!(!it.reaches(PEER, 40_000, "."));
    assert_eq!(it.nat.table.len(), 0);
}

#[test]
fn a_stranger_does_not_learn_of_what_has_ended() {
    let mut it = bench("filtering=adf");
    it.open(HOST, PEER);
    it.open(HOST, STRANGER);
    it.wait(60);
    assert!(it.reaches(PEER, 40_000, "S"));
    it.wait(61);
    assert!(!it.reaches(STRANGER, 40_000, "S"), "no connection to that address is left");
    assert!(it.reaches(PEER_PORT, 40_000, "S"));
}

#[test]
fn hairpinned_packets_come_from_the_external_address_and_port() {
    // RFC 5382 REQ-8.
    let neighbour = SocketAddrV4::new(Ipv4Addr::new(192, 168, 1, 3), 50_000);
    let mut it = bench("hairpin=yes,unsolicited=rst,rst-kills=no");
    let outer = |port| SocketAddrV4::new(EXTERNAL, port);
    let mut first = segment(HOST, outer(50_000), "S");
    assert_eq!(it.nat.outbound(&mut first, it.now), Verdict::Back);
    assert_eq!(seen(&first).flags, "R.", "nobody there yet");
    assert_eq!(seen(&first).to, HOST);
    let mut second = segment(neighbour, outer(40_000), "S");
    assert_eq!(it.nat.outbound(&mut second, it.now), Verdict::Back);
    assert_eq!((seen(&second).from, seen(&second).to), (outer(50_000), HOST));
    assert_eq!(bench("hairpin=no").out(HOST, outer(50_000), "S"), None);
}

#[test]
fn errors_about_what_the_inside_sent_reach_it_and_change_nothing() {
    // RFC 5382 REQ-9 and REQ-10.
    let mut it = bench("ports=random,rewrite-seq=yes");
    let mut syn = segment(HOST, PEER, "S");
    let original = syn.clone();
    it.nat.outbound(&mut syn, it.now);
    let router = IpAddr::from([192, 0, 2, 1]);
    for refusal in [Refusal::TimeExceeded, Refusal::PortUnreachable] {
        let mut answer = Packet::new();
        hop::answer(refusal, syn.bytes(), router, EXTERNAL.into(), 1, &mut answer).unwrap();
        assert_eq!(it.nat.inbound(&mut answer, it.now), Verdict::Onward);
        let (_, _, from, to, quote) = error(&answer);
        assert_eq!((from, to), (router, (*HOST.ip()).into()));
        assert_eq!(quote, original.bytes(), "as the inside sent it");
        // RFC 792 asks for no more than this much of the quote.
        let mut short = packet(&{
            let mut bytes = Vec::new();
            PacketBuilder::ipv4([192, 0, 2, 1], EXTERNAL.octets(), 9)
                .icmpv4(etherparse::Icmpv4Type::TimeExceeded(
                    etherparse::icmpv4::TimeExceededCode::TtlExceededInTransit,
                ))
                .write(&mut bytes, &syn.bytes()[..28])
                .unwrap();
            bytes
        });
        assert_eq!(it.nat.inbound(&mut short, it.now), Verdict::Onward);
        assert_eq!(error(&short).4, original.bytes()[..28]);
    }
    assert_eq!(it.nat.table.len(), 1);
    let mut foreign = Packet::new();
    let unknown = segment(SocketAddrV4::new(EXTERNAL, 7), PEER, "S");
    hop::answer(Refusal::TimeExceeded, unknown.bytes(), router, EXTERNAL.into(), 1, &mut foreign)
        .unwrap();
    assert_eq!(it.nat.inbound(&mut foreign, it.now), Verdict::Drop);
}

#[test]
fn errors_of_the_insides_routers_reach_the_outside() {
    // RFC 5508 REQ-5.
    let mut it = bench("ports=random");
    let port = it.open(HOST, PEER);
    let original = segment(PEER, SocketAddrV4::new(EXTERNAL, port), "S.");
    let mut came_in = original.clone();
    it.nat.inbound(&mut came_in, it.now);
    let mut answer = Packet::new();
    let router = IpAddr::from([192, 168, 1, 1]);
    let to = (*PEER.ip()).into();
    hop::answer(Refusal::TimeExceeded, came_in.bytes(), router, to, 1, &mut answer).unwrap();
    assert_eq!(it.nat.outbound(&mut answer, it.now), Verdict::Onward);
    let (_, _, from, to, quote) = error(&answer);
    assert_eq!((from, to), (EXTERNAL.into(), (*PEER.ip()).into()));
    assert_eq!(quote, original.bytes());
}

#[test]
fn echoes_are_translated_by_their_identifier() {
    // RFC 5508 REQ-1.
    let mut it = bench("ports=random");
    let echo = |from: Ipv4Addr, to: Ipv4Addr, id| {
        let mut bytes = Vec::new();
        PacketBuilder::ipv4(from.octets(), to.octets(), 64)
            .icmpv4_echo_request(id, 1)
            .write(&mut bytes, b"?")
            .unwrap();
        packet(&bytes)
    };
    let view = |packet: &Packet| match Kind::of(packet.bytes()) {
        Some(Kind::Flow(view)) => view,
        other => panic!("{other:?}"),
    };
    let mut asked = echo(*HOST.ip(), *PEER.ip(), 7);
    assert_eq!(it.nat.outbound(&mut asked, it.now), Verdict::Onward);
    assert_eq!(*view(&asked).source.ip(), EXTERNAL);
    let asked_as = view(&asked);
    asked_as.answer_echo(asked.bytes_mut());
    assert_eq!(it.nat.inbound(&mut asked, it.now), Verdict::Onward);
    assert_eq!(view(&asked).destination, SocketAddrV4::new(*HOST.ip(), 7));
    // The NAT itself answers, as any host does (RFC 1122 section 3.2.2.6).
    let mut ping = echo(*PEER.ip(), EXTERNAL, 8);
    assert_eq!(it.nat.inbound(&mut ping, it.now), Verdict::Back);
    assert!(!view(&ping).asks());
}

#[test]
fn what_is_not_understood_is_dropped_and_ipv6_is_let_through() {
    let mut it = bench("");
    let whole = segment(HOST, PEER, "S");
    for len in 0..whole.bytes().len() {
        let mut cut = packet(&whole.bytes()[..len]);
        let expected = if len == 0 { Verdict::Onward } else { Verdict::Drop };
        assert_eq!(it.nat.outbound(&mut cut, it.now), expected, "{len}");
        let mut cut = packet(&whole.bytes()[..len]);
        assert_eq!(it.nat.inbound(&mut cut, it.now), expected, "{len}");
    }
    let mut fragment = whole.clone();
    fragment.bytes_mut()[6] |= 0x20;
    assert_eq!(it.nat.outbound(&mut fragment, it.now), Verdict::Drop);
    let mut v6 = packet(&[0x60; 40]);
    assert_eq!(it.nat.outbound(&mut v6, it.now), Verdict::Onward);
    assert_eq!(v6.bytes(), [0x60; 40]);
    assert_eq!(it.nat.table.len(), 0);
}

#[test]
fn a_hundred_thousand_mappings_are_found_again() {
    for spec in ["mapping=apdm,ports=random", "mapping=eim,filtering=eif", "rewrite-seq=yes"] {
        let mut it = bench(spec);
        let entries = 100_000_u32;
        let remote =
            |i: u32| SocketAddrV4::new((0xcb00_7101 + i / 60_000).into(), (i % 60_000) as u16);
        let mut packets: Vec<_> = (0..entries).map(|i| segment(HOST, remote(i), "S")).collect();
        for packet in &mut packets {
            assert_eq!(it.nat.outbound(packet, it.now), Verdict::Onward);
        }
        assert_eq!(it.nat.table.len(), entries as usize);
        for packet in &mut packets {
            let left = seen(packet);
            let mut answer = segment(left.to, left.from, "S");
            assert_eq!(it.nat.inbound(&mut answer, it.now), Verdict::Onward);
        }
    }
}
