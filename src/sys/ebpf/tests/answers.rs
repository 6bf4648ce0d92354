//! The kernel's SYN-ACK is the engine's, byte for byte.

use super::*;
use crate::punch::{Handshake, Reaction};

const KEY: [Seq; 3] = [Seq(250), IRS, Seq(350)];

/// What the engine answers, if its clock shows what makes it write this timestamp value.
pub(super) fn engines_answer(
    packet: &[u8],
    expected: Option<[Seq; 3]>,
    wire_tsval: u32,
) -> Vec<u8> {
    let segment = Segment::parse(packet).unwrap();
    let tsval = match expected {
        // Above the three bits of the mark the engine goes back by eight.
        Some(_) => (wire_tsval & !7).wrapping_add(8),
        None => wire_tsval,
    };
    let mut handshake = Handshake::new(segment.tuple.reversed(), ISS, OFFER, expected);
    match handshake.receive(&segment, tsval) {
        Reaction::Answered { answers, .. } => answers[0].to_packet(),
        other => panic!("{other:?}"),
    }
}

fn assert_answered_as_the_engine_does(rig: &mut Rig, packet: &[u8], expected: Option<[Seq; 3]>) {
    let before = crate::punch::tsval(super::super::super::clock::now());
    let (out, caught) = rig.assert_answered(&frame(packet));
    assert_eq!(caught.packet, packet, "of the SYN as it came in");
    let tsval = caught.answered.expect("that it was answered");
    let age = before.wrapping_sub(tsval) as i32;
    assert!((-50..=16).contains(&age), "the timestamp is the wall clock's, {age} ms off");
    let answer = engines_answer(packet, expected, tsval);
    assert_eq!(out[14..], answer, "\n{:02x?}\n{answer:02x?}", &out[14..]);
    assert!(Segment::has_right_checksum(&out[14..]));
    assert_eq!(out[..12], [MACS[1], MACS[0]].concat(), "link addresses change places");
    assert_eq!(out[12..14], frame(packet)[12..14]);
}

#[test]
fn a_syn_is_answered_in_both_ip_versions_with_and_without_a_key() {
    for ends in [V4, V6] {
        for expected in [None, Some(KEY)] {
            let numbers: &[Seq] = if expected.is_some() { &KEY } else { &[] };
            let mut rig = Rig::armed(ends, numbers);
            assert_answered_as_the_engine_does(&mut rig, &syn(ends).to_packet(), expected);
            // Once more, with other numbers, so that other checksums are met.
            for number in KEY {
                let mut again = Segment { window: 1, seq: number, ..syn(ends) };
                again.options.timestamps = Some((u32::MAX - number.0, 0));
                assert_answered_as_the_engine_does(&mut rig, &again.to_packet(), expected);
            }
            let counts = rig.0.counts();
            assert_eq!((counts.answered, counts.stolen, counts.copied, counts.lost), (4, 4, 4, 0));
        }
    }
}

#[test]
fn a_number_that_a_middlebox_changed_is_known_by_the_echo() {
    for ends in [V4, V6] {
        let mut rewritten = Segment { seq: Seq(0x8000_0000), ..syn(ends) };
        rewritten.options.timestamps = Some((900, IRS.0));
        let mut rig = Rig::armed(ends, &KEY);
        assert_answered_as_the_engine_does(&mut rig, &rewritten.to_packet(), Some(KEY));
    }
}

#[test]
fn what_a_router_may_change_on_the_way_does_not_show_in_the_answer() {
    let mut packet = syn(V4).to_packet();
    (packet[1], packet[4], packet[5], packet[6]) = (0xb8, 0x12, 0x34, 0); // DSCP, identification, no DF
    packet[20 + 13] |= 0xc0; // ECN setup, RFC 3168
    let mut rig = Rig::armed(V4, &[]);
    // Neither checksum was brought up to date: what answers has to be as right, or as wrong.
    let (out, caught) = rig.assert_answered(&frame(&packet));
    let tsval = caught.answered.unwrap();
    let answer = engines_answer(&syn(V4).to_packet(), None, tsval);
    assert_eq!(out[14..14 + 36], answer[..36]);
    assert_eq!(out[14 + 38..], answer[38..]);
    assert!(!Segment::has_right_checksum(&out[14..]));
}

#[test]
fn a_padded_frame_is_answered_without_the_padding_being_read() {
    let packet = syn(V4).to_packet();
    let mut padded = frame(&packet);
    padded.extend([0xaa; 6]);
    let mut rig = Rig::armed(V4, &[]);
    let (out, caught) = rig.assert_answered(&padded);
    assert_eq!(caught.packet, packet);
    let answer = engines_answer(&packet, None, caught.answered.unwrap());
    assert_eq!(out[14..14 + answer.len()], answer);
}

#[test]
fn a_search_answers_on_every_pair_of_its_ports() {
    let mut rig = Rig::watching(V4, true);
    rig.arm(&[], ReplyOn::All);
    let syn_between = |local, remote| {
        let ends = [other_port(V4[0], local), other_port(V4[1], remote)];
        syn([&ends[0], &ends[1]]).to_packet()
    };
    for (local, remote) in [(40_000, 40_001), (40_003, 65_535)] {
        rig.assert_answered(&frame(&syn_between(local, remote)));
    }
    assert_eq!(rig.ingress(&syn_between(40_003, 40_002)), PASS);
    assert!(!rig.caught().expect("an event").stolen);
    rig.assert_untouched(&syn_between(40_001, 40_001));
}

#[test]
fn without_arms_no_syn_is_answered() {
    let packet = syn(V4).to_packet();
    let mut rig = Rig::new(V4);
    rig.assert_stolen(&packet);
    rig.arm(&[], ReplyOn::Tuples(vec![tuple(V4)]));
    rig.assert_answered(&frame(&packet));
    rig.0.disarm().unwrap();
    rig.assert_stolen(&packet);
    let other = [V4[0], &other_port(V4[1], 9)];
    rig.arm(&[], ReplyOn::Tuples(vec![tuple(other)]));
    rig.assert_stolen(&packet);
}

#[test]
fn more_numbers_than_there_is_room_for_are_refused() {
    let mut rig = Rig::new(V4);
    let reply =
        |count| Reply { iss: ISS, expected_irs: vec![IRS; count], offer: OFFER, on: ReplyOn::All };
    rig.0.arm(&reply(abi::MOST_EXPECTED)).unwrap();
    assert_eq!(rig.0.arm(&reply(abi::MOST_EXPECTED + 1)).unwrap_err().errno, Errno::E2BIG);
}

#[test]
fn an_interface_that_cannot_send_leaves_the_answer_to_the_engine() {
    let mut rig = Rig::armed(V4, &[]);
    ip("link set lo down");
    let packet = syn(V4).to_packet();
    let (verdict, _) = rig.run("ingress", &frame(&packet));
    ip("link set lo up");
    assert_eq!(verdict, DROP);
    let caught = rig.caught().expect("an event");
    assert!(caught.stolen && caught.answered.is_none() && caught.packet == packet, "{caught:?}");
    assert_eq!(rig.0.counts().answered, 0);
}
