//! A connection that begins in its middle: both ends know both sequence numbers, no SYN is sent,
//! and routers that pick connections up (netfilter's `nf_conntrack_tcp_loose`) let its ACKs pass.

use super::handshake::Reaction;
use super::offer::Offer;
use super::tcb::{Agreed, EstablishedTcb, WindowScale};
use crate::wire::{Options, Segment, Seq, Tuple};

/// No SYN, so nothing is negotiated, and no router clamps the segment size to its link. 1,220 bytes
/// pass wherever IPv6's least MTU of 1,280 does (RFC 9293 section 3.7.1).
const MSS: u16 = 1220;
/// As Linux with its default buffers; windows up to 8 MiB.
const WINDOW_SCALE: u8 = 7;

/// One such connection.
///
/// Each end sends a probe, one below the window as a keepalive is (RFC 9293 section 3.8.4). Who
/// hears the other's probe answers with a plain ACK, and who hears that has a connection.
#[derive(Clone, Debug)]
pub struct MidStream {
    tuple: Tuple,
    iss: Seq,
    expected_irs: [Seq; 3],
    offer: Offer,
    heard: Option<Seq>,
    established: bool,
}

impl MidStream {
    /// A connection on which nothing has been sent. `expected_irs`: where the peer may start, the
    /// likeliest number first.
    pub fn new(tuple: Tuple, iss: Seq, offer: Offer, expected_irs: [Seq; 3]) -> Self {
        Self { tuple, iss, expected_irs, offer, heard: None, established: false }
    }

    /// The probe. Its window is not scaled: as in a SYN, it tells who nominates.
    pub fn probe(&self, tsval: u32) -> Segment {
        let [likeliest, ..] = self.expected_irs;
        let irs = self.heard.unwrap_or(likeliest);
        let marked = self.offer.marked(tsval);
        Segment { seq: self.iss, window: self.offer.window, ..self.ack(irs, marked, 0) }
    }

    /// Whether the peer was heard and its acknowledgment is awaited.
    pub fn is_answering(&self) -> bool {
        self.heard.is_some() && !self.established
    }

    /// A segment of this tuple came in.
    pub fn receive(&mut self, segment: &Segment, tsval: u32) -> Reaction {
        if self.established {
            return Reaction::Ignored("after establishment");
        }
        if segment.rst {
            return Reaction::Reset { reopen: self.heard.is_none(), what: "reset, outlived" };
        }
        if segment.syn {
            return match self.expected_irs.contains(&segment.seq) {
                true => Reaction::OtherStrategy("SYN of a peer that is to send none"),
                false => Reaction::WrongKey("SYN from somebody without the key"),
            };
        }
        if segment.ack != Some(self.iss + 1) && !self.is_of_another_minute(segment) {
            return Reaction::WrongKey("ACK from somebody without the key");
        }
        let within = |irs: &&Seq| segment.seq - **irs <= u32::from(self.offer.window);
        let Some(irs) = self.expected_irs.iter().find(within).copied() else {
            return Reaction::WrongKey("ACK from somebody without the key");
        };
        if segment.seq == self.iss && self.offer.is_ours(segment) {
            return Reaction::OwnSyn("our own probe came back");
        }
        if segment.seq == irs {
            self.heard = Some(irs);
            let echo = segment.options.timestamps.map_or(0, |(theirs, _)| theirs);
            return Reaction::Answered {
                tcb: self.tcb(irs, segment, 0),
                answers: vec![self.ack(irs, tsval, echo)],
                rank: Offer::rank_of(segment, true),
                what: "peer's probe",
            };
        }
        self.established = true;
        Reaction::Completed { tcb: self.tcb(irs, segment, WINDOW_SCALE), what: "peer's ACK" }
    }

    /// Whether it is the probe of a peer whose instant lies in another minute, so that it takes us
    /// for starting where it starts itself. Our answer tells it better.
    fn is_of_another_minute(&self, segment: &Segment) -> bool {
        let expects = |number: Seq| self.expected_irs.contains(&number);
        expects(segment.seq) && segment.ack == Some(segment.seq + 1)
    }

    fn ack(&self, irs: Seq, tsval: u32, echo: u32) -> Segment {
        Segment {
            ack: Some(irs + 1),
            window: self.offer.window >> WINDOW_SCALE,
            options: Options { timestamps: Some((tsval, echo)), ..Options::default() },
            ..Segment::new(self.tuple, self.iss + 1)
        }
    }

    fn tcb(&self, irs: Seq, segment: &Segment, shift: u8) -> EstablishedTcb {
        let agreed = Agreed {
            mss: MSS,
            window_scale: Some(WindowScale { send: WINDOW_SCALE, receive: WINDOW_SCALE }),
            sack: true,
            // A router may strip what it was not asked about.
            timestamps: segment.options.timestamps.is_some(),
        };
        EstablishedTcb::left_by(segment, shift, [self.iss, irs], self.offer.window, agreed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::punch::sample::{OFFER, ack, rst, syn, tuple};

    const NOW: u32 = 5000;

    fn mid_stream() -> MidStream {
        MidStream::new(tuple(), Seq(100), OFFER, [Seq(300), Seq(30_000_000), Seq(60_000_000)])
    }

    /// > . seq 100 ack 301 · < . seq 300 ack 101 · > . seq 101 ack 301 · < . seq 301 ack 101
    #[test]
    fn crossed_probes_then_crossed_acks_establish() {
        let mut host = mid_stream();
        let probe = host.probe(NOW);
        assert_eq!((probe.flags(), probe.seq, probe.ack), (".".into(), Seq(100), Some(Seq(301))));
        let Reaction::Answered { tcb: prepared, answers, .. } = host.receive(&ack(300, 101), NOW)
        else {
            panic!()
        };
        let [answer] = &answers[..] else { panic!() };
        assert_eq!((answer.seq, answer.ack), (Seq(101), Some(Seq(301))));
        assert_eq!(answer.options.timestamps, Some((NOW, 901)));
        let Reaction::Completed { tcb, .. } = host.receive(&ack(301, 101), NOW) else { panic!() };
        assert!(tcb.is_same(&prepared), "what was installed at the probe is what stands now");
        assert_eq!((tcb.snd_nxt, tcb.rcv_nxt, tcb.agreed.mss), (Seq(101), Seq(301), 1220));
    }

    #[test]
    fn only_both_agreed_numbers_are_the_peer() {
        let mut host = mid_stream();
        for stranger in [ack(300, 102), syn(300), rst(300, Some(101)), ack(299, 101)] {
            let reaction = host.receive(&stranger, NOW);
            let told = matches!(reaction, Reaction::Answered { .. } | Reaction::Completed { .. });
            assert!(!told, "{stranger}: {reaction:?}");
        }
        assert!(matches!(host.receive(&ack(7_000_000, 101), NOW), Reaction::WrongKey(_)));
    }

    #[test]
    fn a_peer_of_the_minute_before_is_met_at_its_number() {
        let mut host = mid_stream();
        host.receive(&ack(30_000_000, 101), NOW);
        assert_eq!(host.probe(NOW).ack, Some(Seq(30_000_001)));
    }

    /// Both ends' numbers follow from the minute of their instants, and each takes the other for
    /// being in its own.
    #[test]
    fn ends_on_both_sides_of_a_minute_meet() {
        let of = |minute: u32, [likeliest, other]: [u32; 2]| {
            let numbers = [Seq(likeliest), Seq(other), Seq(90_000_000)];
            MidStream::new(tuple(), Seq(minute), OFFER, numbers)
        };
        let (early, mut late) = (of(100, [100, 30_000_000]), of(30_000_000, [30_000_000, 100]));
        let probe = Segment { tuple: tuple().reversed(), window: 0, ..early.probe(NOW) };
        let Reaction::Answered { answers, .. } = late.receive(&probe, NOW) else { panic!() };
        let answer = Segment { tuple: tuple().reversed(), ..answers[0].clone() };
        let mut early = early;
        let Reaction::Completed { tcb, .. } = early.receive(&answer, NOW) else { panic!() };
        assert_eq!((tcb.snd_nxt, tcb.rcv_nxt), (Seq(101), Seq(30_000_001)));
        assert_eq!(late.probe(NOW).ack, Some(Seq(101)));
    }

    #[test]
    fn our_own_probe_turned_round_is_not_a_peer() {
        let mut host = MidStream::new(tuple(), Seq(100), OFFER, [Seq(100), Seq(1), Seq(2)]);
        let back = Segment { tuple: tuple().reversed(), ..host.probe(NOW) };
        assert!(matches!(host.receive(&back, NOW), Reaction::OwnSyn(_)));
    }
}
