//! What becomes of everything that is not simply answered.

use super::*;
use crate::wire::echo_request;

/// Of somebody without the key.
fn stranger() -> Segment {
    Segment { seq: Seq(9), ..syn(V4) }
}

fn rst(ends: [&str; 2]) -> Segment {
    Segment { syn: false, rst: true, options: Options::default(), ..syn(ends) }
}

#[test]
fn a_stranger_is_shown_sixty_four_times_and_then_only_counted() {
    let mut rig = Rig::armed(V4, &[IRS]);
    for _ in 0..64 {
        rig.assert_stolen(&stranger().to_packet());
    }
    let syn_ack = Segment { ack: Some(ISS + 1), ..stranger() };
    for packet in [stranger().to_packet(), syn_ack.to_packet()] {
        assert_eq!(rig.ingress(&packet), DROP);
        assert!(rig.caught().is_none());
    }
    assert_eq!((rig.0.counts().foreign, rig.0.counts().lost), (66, 0));
    // The peer is still heard, and left to the engine.
    rig.assert_stolen(&syn(V4).to_packet());
}

#[test]
fn after_a_few_strangers_or_resets_the_engine_decides() {
    let peer = syn(V4).to_packet();
    for flood in [stranger().to_packet(), rst(V4).to_packet()] {
        let mut rig = Rig::armed(V4, &[IRS]);
        for _ in 0..15 {
            rig.assert_stolen(&flood);
        }
        rig.assert_answered(&frame(&peer));
        rig.assert_stolen(&flood);
        rig.assert_stolen(&peer);
    }
}

#[test]
fn our_own_syn_that_comes_back_is_left_to_the_engine() {
    let mut own = Segment { seq: ISS, ..syn(V4) };
    let mut rig = Rig::armed(V4, &[]);
    rig.assert_stolen(&own.to_packet());
    // With a key both ends may start at one number; window and mark tell them apart.
    let mut rig = Rig::armed(V4, &[ISS]);
    own.window = OFFER.window;
    own.options.timestamps = Some((800 | u32::from(OFFER.mark), ISS.0));
    rig.assert_stolen(&own.to_packet());
    assert_eq!(rig.0.counts().own, 1);
    for theirs in [
        Segment { window: OFFER.window - 1, ..own.clone() },
        Segment { options: Options { timestamps: Some((801, ISS.0)), ..own.options }, ..own },
    ] {
        rig.assert_answered(&frame(&theirs.to_packet()));
    }
}

#[test]
fn a_syn_with_other_options_is_left_to_the_engine() {
    let whole = syn(V4).options;
    for options in [
        Options::default(),
        Options { mss: None, ..whole },
        Options { sack_permitted: false, ..whole },
        Options { timestamps: None, ..whole },
        Options { window_scale: None, ..whole },
    ] {
        Rig::armed(V4, &[]).assert_stolen(&Segment { options, ..syn(V4) }.to_packet());
    }
    // Forty bytes of options; twenty in another order; padding after the IP header.
    let usual = syn(V4).to_packet();
    let mut heavy = usual.clone();
    heavy.extend([1; 20]);
    (heavy[3], heavy[20 + 12]) = (80, 15 << 4);
    let mut reordered = usual.clone();
    reordered[40..].rotate_right(1);
    let mut ip_options = usual.clone();
    ip_options.splice(20..20, [1, 1, 1, 0]);
    (ip_options[0], ip_options[3]) = (0x46, 64);
    for packet in [heavy, reordered, ip_options] {
        Rig::armed(V4, &[]).assert_stolen(&packet);
    }
    let data = Segment { payload: b"fast open".to_vec(), ..syn(V4) };
    Rig::armed(V4, &[]).assert_stolen(&data.to_packet());
    for flags in [0x03, 0x12] {
        let mut packet = usual.clone(); // FIN, ACK
        packet[20 + 13] = flags;
        Rig::armed(V4, &[]).assert_stolen(&packet);
    }
}

#[test]
fn what_is_cut_off_is_left_to_the_host() {
    for ends in [V4, V6] {
        let packet = syn(ends).to_packet();
        let ip = packet.len() - 40;
        let mut rig = Rig::armed(ends, &[]);
        // The kernel tests nothing shorter than an IP header.
        for length in ip..packet.len() {
            rig.assert_untouched(&packet[..length]);
        }
        assert_eq!(rig.0.counts().truncated as usize, packet.len() - ip);
        let mut offset = packet.clone();
        for words in [0, 4, 11, 15] {
            offset[ip + 12] = words << 4;
            rig.assert_untouched(&offset);
        }
    }
}

#[test]
fn fragments_are_left_to_the_host() {
    let packet = syn(V4).to_packet();
    let mut rig = Rig::armed(V4, &[]);
    for (byte, value) in [(6, 0x20), (7, 1), (6, 0x1f)] {
        let mut fragment = packet.clone();
        fragment[byte] = value;
        rig.assert_untouched(&fragment);
    }
    assert_eq!(rig.0.counts().fragments, 3);
    let mut fragment = syn(V6).to_packet();
    fragment[6] = 44;
    let mut rig = Rig::armed(V6, &[]);
    rig.assert_untouched(&fragment);
    assert_eq!(rig.0.counts().fragments, 1);
}

#[test]
fn a_priority_tag_is_read_past_and_a_vlan_is_another_network() {
    let packet = syn(V4).to_packet();
    let tagged = |tags: &[[u8; 4]]| {
        [&MACS[0][..], &MACS[1], tags.concat().as_slice(), &[8, 0], &packet].concat()
    };
    let mut rig = Rig::armed(V4, &[]);
    for tags in [&[[0x81, 0, 0xe0, 0]][..], &[[0x88, 0xa8, 0, 0], [0x81, 0, 0x20, 0]]] {
        assert_eq!(rig.run("ingress", &tagged(tags)).0, DROP);
        let caught = rig.caught().expect("an event");
        assert_eq!((caught.packet, caught.answered), (packet.clone(), None));
    }
    for tags in [&[[0x81, 0, 0, 7]][..], &[[0x88, 0xa8, 0, 0], [0x81, 0, 0x10, 1]]] {
        assert_eq!(rig.run("ingress", &tagged(tags)).0, PASS);
        assert!(rig.caught().is_none());
    }
    assert_eq!(rig.0.counts().vlan, 2);
    // Three tags are more than anybody reads past.
    assert_eq!(rig.run("ingress", &tagged(&[[0x81, 0, 0, 0]; 3])).0, PASS);
}

#[test]
fn a_reset_is_stolen_and_shown_but_in_a_search() {
    Rig::armed(V4, &[]).assert_stolen(&rst(V4).to_packet());
    let mut rig = Rig::watching(V4, true);
    assert_eq!(rig.ingress(&rst(V4).to_packet()), DROP);
    assert!(rig.caught().is_none());
    assert_eq!((rig.0.counts().resets, rig.0.counts().stolen), (1, 1));
}

#[test]
fn a_tuple_let_in_is_shown_and_goes_on_but_for_its_resets() {
    let mut rig = Rig::armed(V4, &[]);
    rig.0.let_in(tuple(V4)).unwrap();
    let data = Segment { syn: false, ack: Some(ISS + 1), payload: vec![7; 3000], ..syn(V4) };
    for packet in [syn(V4).to_packet(), data.to_packet()] {
        assert_eq!(rig.ingress(&packet), PASS);
        let caught = rig.caught().expect("an event");
        assert!(!caught.stolen && caught.answered.is_none() && caught.packet == packet);
    }
    rig.assert_stolen(&rst(V4).to_packet());
    rig.0.keep_out(tuple(V4)).unwrap();
    rig.assert_stolen(&data.to_packet());
}

#[test]
fn a_released_tuple_is_left_alone_in_both_directions() {
    let mut rig = Rig::armed(V4, &[]);
    rig.0.let_in(tuple(V4)).unwrap();
    rig.0.release(tuple(V4)).unwrap();
    rig.assert_untouched(&syn(V4).to_packet());
    rig.assert_untouched(&rst(V4).to_packet());
    let ours = Segment { tuple: tuple(V4), ..rst(V4) };
    assert_eq!(rig.egress(&ours.to_packet()), PASS);
    let neighbour = [V4[0], &other_port(V4[1], 65_535)];
    rig.assert_stolen(&syn(neighbour).to_packet());
}

#[test]
fn what_comes_from_a_port_that_is_not_tried_is_shown_and_left_to_the_host() {
    let beside = other_port(V4[1], 40_002);
    let ends = [V4[0], &beside];
    for search in [false, true] {
        let mut rig = Rig::watching(V4, search);
        rig.arm(&[], ReplyOn::All);
        assert_eq!(rig.ingress(&syn(ends).to_packet()), PASS);
        let caught = rig.caught().expect("an event");
        assert!(!caught.stolen && caught.answered.is_none());
        assert_eq!(rig.ingress(&rst(ends).to_packet()), PASS);
        assert_eq!(rig.caught().is_some(), !search, "a search wants no resets");
        let Counts { copied, stolen, resets, .. } = rig.0.counts();
        assert_eq!((copied, stolen, resets), (if search { 1 } else { 2 }, 0, 0));
    }
}

#[test]
fn only_resets_to_the_peer_are_held_back() {
    for ends in [V4, V6] {
        let mut rig = Rig::new(ends);
        let ours = |ends| Segment { tuple: tuple(ends), ..rst(ends) };
        assert_eq!(rig.egress(&ours(ends).to_packet()), DROP);
        let with_ack = Segment { ack: Some(IRS + 1), ..ours(ends) };
        assert_eq!(rig.egress(&with_ack.to_packet()), DROP);
        assert_eq!(rig.0.counts().resets_held_back, 2);
        for other in [
            Segment { rst: false, syn: true, ..ours(ends) },
            Segment { rst: false, ack: Some(IRS + 1), ..ours(ends) },
            ours([&other_port(ends[0], 40_001), ends[1]]),
        ] {
            assert_eq!(rig.egress(&other.to_packet()), PASS, "{other}");
        }
    }
    let elsewhere = ["192.168.1.2:40000", "203.0.113.9:40001"];
    let reset = Segment { tuple: tuple(elsewhere), ..rst(elsewhere) };
    assert_eq!(Rig::new(V4).egress(&reset.to_packet()), PASS);
}

#[test]
fn what_is_not_the_attempts_is_untouched() {
    for ends in [V4, V6] {
        let mut rig = Rig::armed(ends, &[]);
        rig.assert_untouched(&syn([&other_port(ends[0], 40_001), ends[1]]).to_packet());
        let mut other = syn(ends).to_packet();
        let source = if ends == V4 { 15 } else { 23 };
        other[source] ^= 1;
        rig.assert_untouched(&other);
        let mut datagram = syn(ends).to_packet();
        datagram[if ends == V4 { 9 } else { 6 }] = 17;
        rig.assert_untouched(&datagram);
        let arp = [&MACS[0][..], &MACS[1], &[8, 6], &[0; 28]].concat();
        assert_eq!(rig.run("ingress", &arp).0, PASS);
        // Overheard, and for another host of the network.
        let mut overheard = frame(&syn(ends).to_packet());
        overheard[5] = 9;
        assert_eq!(rig.run("ingress", &overheard).0, PASS);
        assert!(rig.caught().is_none());
        assert_eq!(rig.0.counts(), Counts::default());
    }
}

#[test]
fn a_host_that_tracks_connections_sees_everything_and_answers_itself() {
    let mut rig = Rig::armed(V4, &[]);
    rig.0.rule.flags |= Rule::HOST_TRACKS;
    rig.0.write_rule().unwrap();
    let packet = syn(V4).to_packet();
    assert_eq!(rig.ingress(&packet), PASS);
    let caught = rig.caught().expect("an event");
    assert!(!caught.stolen && caught.answered.is_none() && caught.packet == packet);
}

#[test]
fn icmp_is_shown_as_far_as_it_is_wanted_and_goes_on() {
    let Tuple { local, remote } = tuple(V4);
    let probe = echo_request(local.ip(), remote.ip(), 3, 7, 1);
    let mut reply = echo_request(remote.ip(), local.ip(), 60, 7, 1);
    reply[20] = 0;
    // A router on the way, which quotes what it dropped.
    let about = |quoted: &[u8]| {
        let mut packet = echo_request([198, 51, 100, 7].into(), local.ip(), 60, 7, 1);
        packet.truncate(28);
        packet[20] = 11;
        packet.extend_from_slice(&quoted[..28]);
        packet[3] = packet.len() as u8;
        packet
    };
    let opener = Segment { tuple: tuple(V4), ..syn(V4) }.to_packet();
    let shown = |rig: &mut Rig, packet: &[u8]| {
        assert_eq!(rig.ingress(packet), PASS);
        rig.caught().is_some_and(|caught| caught.packet == packet && !caught.stolen)
    };
    let mut rig = Rig::new(V4);
    assert!(shown(&mut rig, &reply) && shown(&mut rig, &about(&probe)));
    assert!(shown(&mut rig, &about(&opener)));
    assert!(!shown(&mut rig, &probe), "an echo request is no answer");
    let elsewhere = echo_request(local.ip(), [203, 0, 113, 9].into(), 3, 7, 1);
    assert!(!shown(&mut rig, &about(&elsewhere)));
    assert!(!shown(&mut rig, &about(&opener)[..40]), "cut off");
    let mut rig = Rig::watching(V4, true);
    assert!(shown(&mut rig, &reply) && shown(&mut rig, &about(&probe)));
    assert!(!shown(&mut rig, &about(&opener)));
    rig.0.stop_probes();
    assert!(!shown(&mut rig, &reply) && !shown(&mut rig, &about(&probe)));
}

#[test]
fn what_does_not_fit_is_counted_and_what_is_too_large_is_cut() {
    let mut rig = Rig::new(V4);
    let data = |size| Segment { syn: false, payload: vec![7; size], ..syn(V4) }.to_packet();
    let small = data(10);
    // A record takes a header of 8 bytes, and a multiple of 8.
    let (mut kept, room) = (0, 1 << 20);
    while rig.0.counts().lost == 0 {
        assert_eq!(rig.ingress(&small), DROP);
        kept += 1;
        assert!(kept <= room / small.len(), "the ring never fills");
    }
    let mut taken = 0;
    while rig.caught().is_some() {
        taken += 1;
    }
    assert_eq!((taken, rig.0.counts().copied), (kept - 1, taken as u64));
    rig.assert_stolen(&small);
}

#[test]
fn the_checksum_is_for_the_engine_to_check_unless_a_device_is_to_write_it() {
    let mut rig = Rig::new(V4);
    let mut packet = syn(V4).to_packet();
    assert_eq!(rig.ingress(&packet), DROP);
    assert_eq!(rig.caught().unwrap().checksum, Checksum::Unchecked);
    // The sum of the pseudo header alone, as a local sender leaves it.
    let words = packet[12..20].chunks(2).map(|two| u32::from(two[0]) << 8 | u32::from(two[1]));
    let sum = words.sum::<u32>() + 6 + 40;
    let sum = (sum & 0xffff) + (sum >> 16);
    packet[36..38].copy_from_slice(&(sum as u16).to_be_bytes());
    assert_eq!(rig.ingress(&packet), DROP);
    assert_eq!(rig.caught().unwrap().checksum, Checksum::Settled);
}
