//! An attempt's traffic on a virtual clock, in milliseconds around the instant.

use super::*;
use crate::punch::sample::{OFFER, rst, syn, syn_ack, tuple};
use crate::wire::Quote;

const AT: i64 = 1_000_000;

fn ms(offset: i64) -> WallTime {
    WallTime::from_unix_ns((AT + offset) * 1_000_000)
}

fn attempt(opener: bool) -> Attempt {
    let mut attempt = Attempt::new(AttemptConfig {
        tuple: tuple(),
        at: ms(0),
        agreed: ms(0),
        iss: Seq(100),
        expected_irs: None,
        offer: OFFER,
        strategy: Strategy::Syn,
        racing: false,
        seed: 7,
    });
    if opener {
        attempt.set_opener(Opener { hop_limit: 2, at: ms(-250) });
    }
    attempt
}

/// What left, as `purpose flags ttl`.
fn sent(attempt: &mut Attempt) -> Vec<String> {
    std::iter::from_fn(|| attempt.poll())
        .map(|output| match output {
            Output::Transmit(segment, purpose) => {
                format!("{} {} {}", purpose.words(), segment.flags(), segment.hop_limit)
            }
            Output::Prepare(_) => "prepare".into(),
            Output::Established(_) => "established".into(),
        })
        .collect()
}

#[test]
fn the_opener_leaves_ahead_and_the_syn_at_the_instant() {
    let mut host = attempt(true);
    assert_eq!(host.poll_timeout(), Some(ms(-250)));
    host.handle_timeout(ms(-250));
    assert_eq!(sent(&mut host), ["opener S 2"]);
    assert_eq!(host.poll_timeout(), Some(ms(0)));
    assert_eq!(host.fires_at(), Some(ms(0)));
    host.handle_timeout(ms(0));
    assert_eq!(sent(&mut host), ["SYN at the instant S 64"]);
    assert_eq!(host.fires_at(), None);
}

#[test]
fn a_peer_ahead_of_us_is_answered_before_our_instant_and_no_syn_follows() {
    let mut host = attempt(true);
    host.handle_timeout(ms(-250));
    sent(&mut host);
    host.handle_segment(&syn(300), ms(-200));
    assert_eq!(sent(&mut host), ["prepare", "SYN-ACK S. 64", "ACK . 64"]);
    assert_eq!(host.fires_at(), None);
    host.handle_segment(&syn_ack(300, 101), ms(-180));
    assert_eq!(sent(&mut host), ["established"]);
    assert_eq!(host.poll_timeout(), None);
}

#[test]
fn a_reset_before_the_instant_reopens_and_leaves_the_instant_alone() {
    let mut host = attempt(true);
    host.handle_timeout(ms(-250));
    sent(&mut host);
    host.handle_segment(&rst(0, Some(101)), ms(-200));
    assert_eq!(sent(&mut host), ["opener again, after the reset S 2"]);
    assert_eq!(host.poll_timeout(), Some(ms(0)));
}

#[test]
fn a_flood_of_resets_draws_few_openers() {
    let mut host = attempt(true);
    host.handle_timeout(ms(-250));
    host.handle_timeout(ms(0));
    sent(&mut host);
    for at in 0..100 {
        host.handle_segment(&rst(0, Some(101)), ms(1 + at / 10));
    }
    assert_eq!(sent(&mut host).len(), 1);
    assert_eq!(host.evidence().resets, 100);
    assert!(host.poll_timeout().unwrap() <= ms(125), "nor does it put off the next SYN");
}

#[test]
fn without_an_opener_a_reset_waits_for_the_next_syn() {
    let mut host = attempt(false);
    host.handle_timeout(ms(0));
    sent(&mut host);
    host.handle_segment(&rst(0, Some(101)), ms(20));
    assert!(sent(&mut host).is_empty());
    assert!(host.poll_timeout().unwrap() < ms(400));
}

#[test]
fn silence_is_met_with_ever_rarer_syns_and_some_in_step_with_the_peer() {
    for opener in [true, false] {
        let mut host = attempt(opener);
        host.handle_timeout(ms(-250));
        sent(&mut host);
        // When SYNs leave in ten seconds, and which of them in step.
        let (mut syns, mut steps) = (Vec::new(), Vec::new());
        let mut now = ms(0);
        while now < ms(10_000) {
            let in_step = host.fires_at() == Some(now);
            host.handle_timeout(now);
            if !sent(&mut host).is_empty() {
                syns.push(now);
                steps.extend(in_step.then_some(now));
            }
            now = host.poll_timeout().unwrap();
        }
        assert_eq!(steps, [0, 100, 200, 400, 800, 1600, 3200, 6400].map(ms));
        assert!((12..=24).contains(&syns.len()), "{}", syns.len());
        let gaps: Vec<_> = syns.windows(2).map(|pair| pair[0].until(pair[1])).collect();
        assert!(gaps.iter().all(|gap| *gap <= Duration::from_millis(1250)), "{gaps:?}");
    }
}

#[test]
fn icmp_is_recorded_and_outlived() {
    let mut host = attempt(false);
    host.handle_timeout(ms(0));
    host.handle_icmp(&Icmp {
        from: [192, 0, 2, 9].into(),
        hop_limit: 60,
        kind: IcmpKind::Unreachable(1),
        about: Quote::Tcp(tuple()),
    });
    sent(&mut host);
    host.handle_segment(&syn_ack(300, 101), ms(20));
    assert_eq!(sent(&mut host), ["established"]);
}
