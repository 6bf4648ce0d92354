//! Each test reads like a capture: `<` came in, `>` left. Our ISS is 100, the peer's 300.

use super::*;
use crate::punch::sample::{OFFER, OPTIONS, ack, rst, segment, syn, syn_ack, tuple};
use crate::punch::tcb::{Agreed, WindowScale};
use crate::wire::Options;
use proptest::prelude::*;

const NOW: u32 = 5000;

fn handshake() -> Handshake {
    Handshake::new(tuple(), Seq(100), OFFER, None)
}

fn completed(reaction: Reaction) -> EstablishedTcb {
    match reaction {
        Reaction::Completed { tcb, .. } => tcb,
        other => panic!("not completed: {other:?}"),
    }
}

fn answer(reaction: Reaction) -> Segment {
    match reaction {
        Reaction::Answered { answers, .. } => answers.into_iter().next().unwrap(),
        other => panic!("not answered: {other:?}"),
    }
}

/// > S seq 100 · < S seq 300 · > S. seq 100 ack 301 · > . seq 101 ack 301 · < S. seq 300 ack 101
#[test]
fn crossed_syns_then_crossed_syn_acks_establish() {
    let mut host = handshake();
    assert_eq!(host.syn(NOW).flags(), "S");
    let Reaction::Answered { tcb: prepared, answers, .. } = host.receive(&syn(300), NOW) else {
        panic!()
    };
    let [reply, behind] = &answers[..] else { panic!() };
    assert_eq!((reply.flags(), reply.seq, reply.ack), ("S.".into(), Seq(100), Some(Seq(301))));
    assert_eq!(reply.options.timestamps, Some((NOW, 900)));
    assert_eq!((behind.flags(), behind.seq, behind.ack), (".".into(), Seq(101), Some(Seq(301))));
    assert_eq!(behind.window, 511, "65408 >> 7");
    let tcb = completed(host.receive(&syn_ack(300, 101), NOW + 1));
    assert_eq!(tcb, prepared, "what was installed at the SYN is what stands now");
    let last = tcb.acknowledge(Some((NOW, 901)));
    assert_eq!((last.flags(), last.seq, last.ack), (".".into(), Seq(101), Some(Seq(301))));
    assert_eq!((last.window, last.options.timestamps), (511, Some((NOW, 901))));
    assert_eq!((tcb.snd_nxt, tcb.rcv_nxt, tcb.snd_wnd), (Seq(101), Seq(301), 64000));
    assert_eq!(tcb.agreed.window_scale, Some(WindowScale { send: 9, receive: 7 }));
    assert!(tcb.agreed.sack && tcb.agreed.timestamps);
    assert_eq!(tcb.agreed.mss, 1400);
}

/// < S seq 300 · > S. · (peer's SYN-ACK lost) · < . seq 301 ack 101
#[test]
fn the_peers_ack_establishes_when_its_syn_ack_was_lost() {
    let mut host = handshake();
    answer(host.receive(&syn(300), NOW));
    let tcb = completed(host.receive(&ack(301, 101), NOW));
    assert_eq!(tcb.snd_wnd, 500 << 9, "the window of an ACK is scaled");
}

/// > S seq 100 · < S. seq 300 ack 101 · > . ack 301
#[test]
fn a_peer_that_simply_listens_is_met_too() {
    let tcb = completed(handshake().receive(&syn_ack(300, 101), NOW));
    assert_eq!(tcb.rcv_nxt, Seq(301));
}

/// < S seq 300 · > S. · < . seq 301 ack 101 (a challenge ACK: kernels before 6.11 meet the crossed
/// SYN-ACK with one) — and on newer kernels < S. seq 300 ack 101. Either ends it.
#[test]
fn a_plain_kernel_on_either_side_of_linux_6_11_completes() {
    for last in [ack(301, 101), syn_ack(300, 101)] {
        let mut host = handshake();
        answer(host.receive(&syn(300), NOW));
        completed(host.receive(&last, NOW));
    }
}

#[test]
fn data_that_overtakes_the_last_ack_completes_the_handshake() {
    let mut host = handshake();
    answer(host.receive(&syn(300), NOW));
    let data = Segment { payload: b"early".to_vec(), ..ack(1700, 101) };
    let tcb = completed(host.receive(&data, NOW));
    assert_eq!(tcb.rcv_nxt, Seq(301));
}

#[test]
fn a_repeated_syn_draws_the_same_syn_ack_again() {
    let mut host = handshake();
    let first = answer(host.receive(&syn(300), NOW));
    assert_eq!(answer(host.receive(&syn(300), NOW)), first);
}

#[test]
fn an_unanswered_syn_ack_is_followed_by_probes_and_syns_by_turns() {
    let mut host = handshake();
    answer(host.receive(&syn(300), NOW));
    let flags = |nth| host.retransmission(nth, NOW).map(|segment| (segment.flags(), segment.seq));
    assert_eq!(flags(0), Some((".".into(), Seq(100))), "one below the window");
    assert_eq!(flags(1), Some(("S".into(), Seq(100))));
    assert_eq!(flags(2), Some((".".into(), Seq(100))));
}

/// Where both routers block SYNs nothing else brings what a lost SYN-ACK said: < S. unasked ·
/// > S. (lost) · > . seq 101 (says nothing) · > . seq 100, with options.
#[test]
fn a_probe_stands_in_for_a_syn_ack_that_was_lost() {
    let irs = Some([Seq(300), Seq(1), Seq(2)]);
    let keyed = Handshake::new(tuple().reversed(), Seq(300), OFFER, Some([Seq(100); 3]));
    let mut peer = keyed.racing();
    let mut host = Handshake::new(tuple(), Seq(100), OFFER, irs);
    let unasked = host.speculate(NOW).unwrap();
    let answers = answers_of(&mut peer, &unasked);
    let heard = |segment: &Segment| Segment { tuple: tuple(), window: 999, ..segment.clone() };
    assert!(matches!(host.receive(&heard(&answers[1]), NOW), Reaction::Ignored(_)));
    let probe = peer.retransmission(0, NOW).unwrap();
    assert_eq!((probe.flags(), probe.seq), (".".into(), Seq(300)));
    let Reaction::Answered { tcb, answers, .. } = host.receive(&heard(&probe), NOW) else {
        panic!()
    };
    let flags: Vec<_> = answers.iter().map(Segment::flags).collect();
    assert_eq!(flags, ["S.", "."], "which the peer may have got none of");
    assert_eq!((tcb.snd_nxt, tcb.rcv_nxt), (Seq(101), Seq(301)));
    let Agreed { mss, window_scale, sack, timestamps } = tcb.agreed;
    assert_eq!((mss, sack, timestamps), (OFFER.mss, true, true));
    assert_eq!(window_scale.map(|scale| scale.send), Some(OFFER.window_scale));
    assert_eq!(tcb.snd_wnd, 999, "as in a SYN, whose window is not scaled");
    completed(host.receive(&heard(&answers_of(&mut peer, &answers[0])[0]), NOW));
}

/// What a peer says to a segment of ours.
fn answers_of(peer: &mut Handshake, segment: &Segment) -> Vec<Segment> {
    let segment = Segment { tuple: tuple().reversed(), ..segment.clone() };
    match peer.receive(&segment, NOW) {
        Reaction::Answered { answers, .. } => answers,
        Reaction::Completed { tcb, .. } => vec![tcb.acknowledge(Some((NOW, NOW)))],
        other => panic!("{other:?}"),
    }
}

/// The peer's SYN may never have been seen by our own router, which takes a SYN-ACK then only
/// after the SYN has been repeated.
#[test]
fn an_end_that_never_saw_the_peers_syn_repeats_its_syn_ack_as_well() {
    let irs = Some([Seq(300), Seq(1), Seq(2)]);
    let mut host = Handshake::new(tuple(), Seq(100), OFFER, irs).racing();
    host.speculate(NOW);
    answer(host.receive(&syn_ack(300, 101), NOW));
    let flags = |nth| host.retransmission(nth, NOW).map(|segment| segment.flags());
    assert_eq!([0, 1, 2, 3].map(flags), [".", "S", "S.", "."].map(|it| Some(it.into())));
}

/// Our router lets out the one that answers the SYN which it has seen.
#[test]
fn unasked_syn_acks_try_every_number_at_which_the_peer_may_start() {
    let irs = Some([Seq(300), Seq(1), Seq(2)]);
    let host = Handshake::new(tuple(), Seq(100), OFFER, irs).racing();
    let mut host = host.near_minute(true);
    let mut tried = vec![host.speculate(NOW)];
    tried.extend([1, 3, 5, 7].map(|nth| host.retransmission(nth, NOW)));
    let tried: Vec<_> = tried.into_iter().map(|segment| segment.unwrap().ack.unwrap().0).collect();
    assert_eq!(tried, [301, 301, 2, 301, 3]);
    assert_eq!(host.retransmission(0, NOW).unwrap().flags(), "S");
}

#[test]
fn the_peers_probe_one_below_the_window_completes() {
    let mut host = handshake();
    answer(host.receive(&syn(300), NOW));
    assert_eq!(completed(host.receive(&ack(300, 101), NOW)).rcv_nxt, Seq(301));
}

#[test]
fn a_peer_that_starts_anew_is_met_at_its_new_number() {
    let mut host = handshake();
    answer(host.receive(&syn(300), NOW));
    assert_eq!(answer(host.receive(&syn(7000), NOW + ANEW_MS)).ack, Some(Seq(7001)));
    let tcb = completed(host.receive(&syn_ack(9000, 101), NOW));
    assert_eq!(tcb.rcv_nxt, Seq(9001), "a SYN-ACK for our SYN says where the peer starts");
}

#[test]
fn a_flood_of_syns_is_met_one_by_one_and_not_at_all_once_the_peer_has_shown_itself() {
    let mut host = handshake().racing();
    answer(host.receive(&syn(300), NOW));
    for forged in 1..100 {
        let reaction = host.receive(&syn(7000 * forged), NOW + ANEW_MS - 1);
        assert!(matches!(reaction, Reaction::Ignored(_)), "{reaction:?}");
    }
    answer(host.receive(&syn_ack(9000, 101), NOW + 2));
    let reaction = host.receive(&syn(7000), NOW + 1000);
    assert!(matches!(reaction, Reaction::Ignored(_)), "{reaction:?}");
    assert_eq!(completed(host.receive(&ack(9001, 101), NOW + 1001)).rcv_nxt, Seq(9001));
}

#[test]
fn a_reset_before_the_peers_syn_asks_for_a_new_opening() {
    let mut host = handshake();
    assert!(matches!(host.receive(&rst(0, Some(101)), NOW), Reaction::Reset { reopen: true, .. }));
    answer(host.receive(&syn(300), NOW));
    completed(host.receive(&syn_ack(300, 101), NOW));
}

/// > S · < S · > S. · < R. seq 0 ack 101 (the peer's router met our SYN before its mapping stood)
#[test]
fn a_reset_after_the_peers_syn_is_outlived_and_its_next_segment_still_completes() {
    for last in [ack(301, 101), syn_ack(300, 101)] {
        for reset in [rst(0, Some(101)), rst(301, None)] {
            let mut host = handshake();
            answer(host.receive(&syn(300), NOW));
            assert!(matches!(host.receive(&rst(299, None), NOW), Reaction::Ignored(_)), "RFC 5961");
            assert!(matches!(host.receive(&reset, NOW), Reaction::Reset { reopen: false, .. }));
            assert_eq!(host.retransmission(0, NOW).unwrap().flags(), "S", "only a SYN passes now");
            assert!(matches!(host.receive(&reset, NOW), Reaction::Reset { reopen: true, .. }));
            completed(host.receive(&last, NOW));
        }
    }
}

#[test]
fn the_peers_syn_after_a_reset_is_answered_as_the_first_was() {
    let mut host = handshake();
    let first = answer(host.receive(&syn(300), NOW));
    host.receive(&rst(301, None), NOW);
    assert_eq!(answer(host.receive(&syn(300), NOW)), first);
}

#[test]
fn stale_and_stray_segments_complete_nothing() {
    let mut host = handshake();
    for stray in [ack(301, 101), syn_ack(300, 100), syn_ack(300, 7), segment()] {
        assert!(matches!(host.receive(&stray, NOW), Reaction::Ignored(_)), "{stray}");
    }
    answer(host.receive(&syn(300), NOW));
    for stray in [ack(301, 102), ack(299, 101), ack(301 + 65408, 101)] {
        assert!(matches!(host.receive(&stray, NOW), Reaction::Ignored(_)), "{stray}");
    }
    completed(host.receive(&ack(301, 101), NOW));
}

#[test]
fn our_own_syn_turned_round_is_not_a_peer() {
    assert!(matches!(handshake().receive(&syn(100), NOW), Reaction::OwnSyn(_)));
}

#[test]
fn with_a_key_only_the_expected_numbers_are_a_peer() {
    let mut host = Handshake::new(tuple(), Seq(100), OFFER, Some([Seq(300), Seq(1), Seq(2)]));
    assert!(matches!(host.receive(&syn(301), NOW), Reaction::WrongKey(_)));
    assert!(matches!(host.receive(&syn_ack(301, 101), NOW), Reaction::WrongKey(_)));
    answer(host.receive(&syn(300), NOW));
    completed(host.receive(&syn_ack(300, 101), NOW));
}

/// < S seq 777 (ecr 300: what the peer sent before a middlebox rewrote it) · > S. ack 778
#[test]
fn with_a_key_a_syn_is_known_by_the_number_that_no_middlebox_rewrote() {
    let keyed = || Handshake::new(tuple(), Seq(100), OFFER, Some([Seq(300), Seq(1), Seq(2)]));
    let says = |original| {
        let options = Options { timestamps: Some((900, original)), ..OPTIONS };
        Segment { options, ..syn(777) }
    };
    assert!(matches!(keyed().receive(&syn_ack(777, 101), NOW), Reaction::WrongKey(_)));
    for stranger in [0, 299, 777] {
        assert!(matches!(keyed().receive(&says(stranger), NOW), Reaction::WrongKey(_)));
    }
    let mut host = keyed();
    assert_eq!(host.syn(NOW).options.timestamps, Some((OFFER.marked(NOW), 100)));
    assert_eq!(handshake().syn(NOW).options.timestamps, Some((NOW, 0)), "without a key as any");
    assert_eq!(answer(host.receive(&says(300), NOW)).ack, Some(Seq(778)));
    assert_eq!(completed(host.receive(&syn_ack(777, 101), NOW)).rcv_nxt, Seq(778));
}

/// > S seq 100 · < S. seq 777 ack 101 (ecr 300: its number before a middlebox rewrote it)
#[test]
fn with_a_key_a_syn_ack_says_its_number_too_where_no_syn_of_the_peer_comes_in() {
    let mut peer = Handshake::new(tuple(), Seq(300), OFFER, Some([Seq(100), Seq(1), Seq(2)]));
    let Reaction::Answered { answers, .. } = peer.receive(&syn(100), NOW) else { panic!() };
    let [reply, behind] = &answers[..] else { panic!() };
    assert_eq!(reply.options.timestamps, Some((OFFER.marked(NOW), 300)));
    assert_eq!(
        behind.options.timestamps.map(|(_, echo)| echo),
        syn(100).options.timestamps.map(|(theirs, _)| theirs)
    );
    let rewritten = |said| {
        let options = Options { timestamps: Some((900, said)), ..OPTIONS };
        Segment { options, ..syn_ack(777, 101) }
    };
    let keyed = || Handshake::new(tuple(), Seq(100), OFFER, Some([Seq(300), Seq(1), Seq(2)]));
    assert!(matches!(keyed().receive(&rewritten(299), NOW), Reaction::WrongKey(_)));
    assert_eq!(completed(keyed().receive(&rewritten(300), NOW)).rcv_nxt, Seq(778));
}

/// The kernel carries the timestamps on from the clock: a segment of ours that is ahead of it would
/// make the peer take what the kernel sends next for old (RFC 7323 section 5).
#[test]
fn no_segment_is_stamped_ahead_of_the_clock() {
    let irs = [None, Some([Seq(300), Seq(1), Seq(2)])];
    for (irs, now) in irs.into_iter().flat_map(|irs| (NOW..NOW + 16).map(move |now| (irs, now))) {
        let mut host = Handshake::new(tuple(), Seq(100), OFFER, irs).racing();
        let mut left = vec![host.syn(now)];
        left.extend(host.speculate(now));
        for arrival in [syn(300), syn_ack(300, 101)] {
            let Reaction::Answered { answers, .. } = host.receive(&arrival, now) else { panic!() };
            left.extend(answers);
        }
        left.extend((0..2).filter_map(|nth| host.retransmission(nth, now)));
        for segment in left {
            let (stamp, _) = segment.options.timestamps.unwrap();
            assert!(stamp <= now && now - stamp < 16, "{segment} at {now}");
        }
    }
}

#[test]
fn only_options_that_arrived_are_in_force() {
    let mut host = handshake();
    let bare = Segment { options: Options { mss: Some(1400), ..Options::default() }, ..syn(300) };
    let Reaction::Answered { answers, .. } = host.receive(&bare, NOW) else { panic!() };
    let [reply, behind] = &answers[..] else { panic!() };
    assert_eq!((behind.options.timestamps, behind.window), (None, 65408));
    assert_eq!(reply.options, Options { mss: Some(1460), ..Options::default() });
    let tcb = completed(host.receive(&syn_ack(300, 101), NOW));
    let Agreed { window_scale, sack, timestamps, .. } = tcb.agreed;
    assert_eq!((window_scale, sack, timestamps), (None, false, false));
}

#[test]
fn an_option_stripped_from_the_peers_syn_ack_alone_is_off_too() {
    let mut host = handshake();
    answer(host.receive(&syn(300), NOW));
    let stripped =
        Segment { options: Options { window_scale: None, ..OPTIONS }, ..syn_ack(300, 101) };
    let tcb = completed(host.receive(&stripped, NOW));
    assert_eq!(tcb.agreed.window_scale, None);
    assert!(tcb.agreed.timestamps);
}

#[test]
fn a_peer_without_mss_gets_the_default_and_an_absurd_one_the_least() {
    for (offered, used) in [(None, 536), (Some(0), 88), (Some(9000), 9000)] {
        let options = Options { mss: offered, ..OPTIONS };
        let tcb = completed(handshake().receive(&Segment { options, ..syn_ack(300, 101) }, NOW));
        assert_eq!(tcb.agreed.mss, used);
    }
}

proptest! {
    /// Whatever comes in, an answer never carries RST, acknowledges exactly the peer's SYN, and
    /// completion needs our number plus one.
    #[test]
    fn no_arrival_makes_us_reset_or_complete_without_our_number(
        arrivals in prop::collection::vec(
            (any::<bool>(), any::<bool>(), any::<bool>(), prop::option::of(98u32..104), 298u32..304),
            0..30,
        )
    ) {
        let mut host = handshake();
        for (is_syn, fin, is_rst, number, seq) in arrivals {
            let arrival = Segment {
                syn: is_syn, fin, rst: is_rst, ack: number.map(Seq), ..syn(seq)
            };
            match host.receive(&arrival, NOW) {
                Reaction::Answered { answers, .. } => {
                    for reply in answers {
                        prop_assert!(!reply.rst);
                        prop_assert_eq!(reply.ack, Some(Seq(seq) + 1));
                    }
                }
                Reaction::Completed { tcb, .. } => {
                    prop_assert_eq!(arrival.ack, Some(Seq(101)));
                    prop_assert_eq!(tcb.snd_nxt, Seq(101));
                }
                _ => {}
            }
        }
    }
}
