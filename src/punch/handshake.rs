//! The simultaneous open of RFC 9293 section 3.5 on one tuple, as a pure state machine.
//!
//! It differs from a kernel's in what a hole punch needs: it never answers with a reset, a reset
//! never ends it, and a peer that starts anew is met anew.

mod answers;
mod peer_syn;

use super::offer::Offer;
use super::tcb::EstablishedTcb;
use crate::wire::{Segment, Seq, Tuple};
use peer_syn::PeerSyn;

/// A peer that starts anew is met anew, but no sooner, milliseconds: without a key anybody can
/// forge SYNs, and each costs a socket.
const ANEW_MS: u32 = 5;

/// One handshake.
#[derive(Clone, Debug)]
pub struct Handshake {
    tuple: Tuple,
    iss: Seq,
    offer: Offer,
    expected_irs: Option<[Seq; 3]>,
    /// Other tuples race with this one: see [`Handshake::racing`].
    racing: bool,
    /// Our SYN-ACK has left for a SYN that we never saw.
    speculated: bool,
    /// The peer's SYN-ACK came in, and never its SYN.
    unasked: bool,
    /// What a middlebox seems to do.
    remark: Option<&'static str>,
    /// The peer's instant may well lie in another minute than ours.
    near_minute: bool,
    /// A reset came in.
    was_reset: bool,
    /// The peer's SYN came in, and was answered.
    heard_syn: bool,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Our SYN is out, or will be; nothing valid came in.
    SynSent,
    /// The peer's SYN came in and our SYN-ACK went out. `closed`: a reset says that a router on
    /// the way has forgotten the connection, so that only a SYN passes.
    SynReceived {
        peer: PeerSyn,
        closed: bool,
        /// When, as our timestamps count.
        since: u32,
        /// The peer has acknowledged our number, which none but it can have seen.
        proven: bool,
    },
    Established,
}

/// What a segment did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reaction {
    /// Nothing; the reason is for people.
    Ignored(&'static str),
    /// The peer is there.
    Answered {
        /// The connection that stands if the peer confirms it.
        tcb: EstablishedTcb,
        /// SYN-ACK and ACK, or either.
        answers: Vec<Segment>,
        /// What the peer's offer ranks when the ends decide which of them nominates.
        rank: u32,
        /// For people.
        what: &'static str,
    },
    /// It completed the handshake.
    Completed {
        /// The connection.
        tcb: EstablishedTcb,
        /// For people.
        what: &'static str,
    },
    /// A reset. `reopen`: our own routers may have forgotten our mapping with it.
    Reset {
        /// Whether a SYN should make the mapping anew at once.
        reopen: bool,
        /// For people.
        what: &'static str,
    },
    /// The peer, by its numbers, but it speaks as another strategy does.
    OtherStrategy(&'static str),
    /// Our own SYN came back: somebody turned it round, or the peer's address is ours.
    OwnSyn(&'static str),
    /// A SYN or SYN-ACK whose sender does not hold the key.
    WrongKey(&'static str),
}

impl Handshake {
    /// A handshake that has sent nothing yet. With `expected_irs` only a peer that starts at one
    /// of these numbers is listened to.
    pub fn new(tuple: Tuple, iss: Seq, offer: Offer, expected_irs: Option<[Seq; 3]>) -> Self {
        let state = State::SynSent;
        Self {
            tuple,
            iss,
            offer,
            expected_irs,
            racing: false,
            speculated: false,
            unasked: false,
            remark: None,
            near_minute: false,
            was_reset: false,
            heard_syn: false,
            state,
        }
    }

    /// The same, where other tuples are tried at the same time, or SYN-ACKs may come unasked.
    /// A SYN-ACK then only says that the peer is there; what completes is the plain ACK, which an
    /// end sends where it has heard the other, and the nominating end on one tuple alone.
    pub fn racing(self) -> Self {
        Self { racing: true, ..self }
    }

    /// The same, for an instant so near a minute that the peer may start where that of the next or
    /// the last one has it.
    pub fn near_minute(self, near: bool) -> Self {
        Self { near_minute: near, ..self }
    }

    /// The SYN-ACK for the SYN that the peer has sent by now, if the key tells its number, though
    /// we never saw it: our router has, and lets this out.
    pub fn speculate(&mut self, tsval: u32) -> Option<Segment> {
        let segment = self.unasked_syn_ack(0, tsval).filter(|_| self.state == State::SynSent);
        self.speculated |= segment.is_some();
        segment
    }

    /// What a middlebox on the way seems to do, as a clause.
    pub fn remark(&self) -> Option<&'static str> {
        self.remark
    }

    /// Whether the peer was met by SYN-ACKs that nobody asked for.
    pub fn met_unasked(&self) -> bool {
        self.unasked
    }

    /// Whether the peer's SYN has come in and its answer is awaited.
    pub fn is_syn_received(&self) -> bool {
        matches!(self.state, State::SynReceived { .. })
    }

    /// A segment of this tuple came in.
    pub fn receive(&mut self, segment: &Segment, tsval: u32) -> Reaction {
        if segment.rst {
            return self.reset(segment);
        }
        match (self.state, segment.syn, segment.ack) {
            (State::Established, ..) => Reaction::Ignored("after establishment"),
            (_, true, None) => self.peer_syn(segment, tsval),
            (_, true, Some(ack)) => self.peer_syn_ack(segment, ack, tsval),
            // The SYN-ACK before it was lost, and this says the same.
            (_, false, Some(ack)) if repeats_syn_ack(segment) && self.lacks_syn() => {
                self.peer_syn_ack(segment, ack, tsval)
            }
            (State::SynReceived { peer, .. }, false, Some(ack)) => {
                self.peer_ack(segment, ack, peer)
            }
            (State::SynSent, false, Some(ack)) if self.is_mid_stream(segment, ack) => {
                Reaction::OtherStrategy("probe of a peer that sends no SYN")
            }
            (State::SynSent, false, Some(_)) => {
                Reaction::Ignored("ACK before any SYN, stale or stray")
            }
            (_, false, None) => Reaction::Ignored("neither SYN nor ACK"),
        }
    }

    /// RFC 9293 ends the attempt here; we go on, because the reset comes from a router that met our
    /// SYN too early more often than from the peer. Netfilter forgets an unanswered mapping when it
    /// forwards a reset, and lets only a SYN pass afterwards.
    fn reset(&mut self, segment: &Segment) -> Reaction {
        self.was_reset = true;
        match &mut self.state {
            State::SynSent => Reaction::Reset { reopen: true, what: "reset, outlived" },
            State::SynReceived { peer, closed, .. } => {
                let answers_our_syn = segment.seq == Seq(0) && segment.ack == Some(self.iss + 1);
                if segment.seq != peer.irs + 1 && !answers_our_syn {
                    // RFC 5961 section 3.2: only the exact number may reset.
                    return Reaction::Ignored("reset outside the window");
                }
                // The peer's SYN came through meanwhile, and its answer to ours may be on its way:
                // a SYN now would close the very mapping that it needs.
                let reopen = std::mem::replace(closed, true);
                Reaction::Reset { reopen, what: "reset, outlived" }
            }
            State::Established => Reaction::Ignored("reset after establishment"),
        }
    }

    fn peer_syn(&mut self, segment: &Segment, tsval: u32) -> Reaction {
        let original = self.original(segment);
        if !self.is_expected(original) {
            return Reaction::WrongKey("SYN from somebody without the key");
        }
        if self.is_own(segment) {
            return Reaction::OwnSyn("our own SYN came back");
        }
        let peer = PeerSyn::from(segment);
        self.remark = peer.remark(original != segment.seq).or(self.remark);
        let (what, since, proven) = match self.state {
            State::SynReceived { peer: known, since, proven, .. } if known.irs == peer.irs => {
                ("peer's SYN again", since, proven)
            }
            State::SynReceived { proven: true, closed: false, .. } => {
                return Reaction::Ignored("SYN of somebody else, the peer has shown itself");
            }
            State::SynReceived { since, .. } if tsval.wrapping_sub(since) < ANEW_MS => {
                return Reaction::Ignored("started anew too soon");
            }
            State::SynReceived { .. } => ("peer's SYN, started anew", tsval, false),
            _ if original != segment.seq => {
                ("peer's SYN, its number rewritten on the way", tsval, false)
            }
            _ => ("peer's SYN", tsval, false),
        };
        self.state = State::SynReceived { peer, closed: false, since, proven };
        self.heard_syn = true;
        // Netfilter learns the window that the peer may fill from a plain ACK only: it ignores the
        // later of two crossed SYN-ACKs. Without this one it would overlook what the peer sends
        // first, its FIN included. Kernels before 6.11 complete by it, too.
        let answers = vec![self.syn_ack(&peer, tsval), self.ack(&peer, tsval)];
        let tcb = self.tcb(segment, &peer);
        Reaction::Answered { tcb, answers, rank: self.rank_of(segment), what }
    }

    fn rank_of(&self, segment: &Segment) -> u32 {
        Offer::rank_of(segment, self.expected_irs.is_some())
    }

    /// Without a key our number is random, and nobody else's. With one it is the peer's, too.
    fn is_own(&self, segment: &Segment) -> bool {
        let keyed = self.expected_irs.is_some();
        segment.seq == self.iss && (!keyed || self.offer.is_ours(segment))
    }

    fn peer_syn_ack(&mut self, segment: &Segment, ack: Seq, tsval: u32) -> Reaction {
        if !self.is_expected(self.original(segment)) && !self.has_met(segment.seq) {
            return Reaction::WrongKey("SYN-ACK from somebody without the key");
        }
        if ack != self.iss + 1 {
            return Reaction::Ignored("SYN-ACK for another SYN, stale or stray");
        }
        let mut peer = PeerSyn::from(segment);
        let rewritten = self.original(segment) != segment.seq;
        self.remark = peer.remark(rewritten).or(self.remark);
        if self.racing && self.is_own(segment) {
            return Reaction::OwnSyn("our own SYN-ACK came back");
        }
        if let State::SynReceived { peer: known, .. } = self.state
            && known.irs == peer.irs
        {
            peer = known.and(peer);
        }
        // Our router may let nothing but a SYN-ACK out before the peer's SYN has come: then it is
        // the peer's plain ACK that says that ours got through.
        if self.racing || !segment.syn {
            return self.peer_is_there(segment, peer, tsval);
        }
        self.state = State::Established;
        Reaction::Completed { tcb: self.tcb(segment, &peer), what: "peer's SYN-ACK" }
    }

    /// Whether no SYN came in although the peer has sent some, so that it may wait for a SYN-ACK of
    /// ours in vain. Where resets are about, they are the reason: a router has closed what only a
    /// SYN opens, and a connection that stands before that would be forgotten there.
    fn lacks_syn(&self) -> bool {
        self.expected_irs.is_some() && !self.was_reset && !self.heard_syn
    }

    /// A SYN-ACK while other tuples race: maybe nobody asked for it.
    fn peer_is_there(&mut self, segment: &Segment, peer: PeerSyn, tsval: u32) -> Reaction {
        let first = self.state == State::SynSent;
        self.unasked |= self.speculated && first;
        let tcb = self.tcb(segment, &peer);
        // The peer may have missed our SYN-ACK, or never been sent one, and without it takes no ACK.
        // It goes first, and once: when our ACK has left, our router lets no SYN-ACK out any more,
        // or worse, lets it out untranslated. But a peer that still probes has got neither, as if
        // our router had not seen its SYN by then, and now it may have.
        let missed = !self.heard_syn && (first || !segment.syn);
        let again = missed.then(|| self.syn_ack(&peer, tsval));
        let answers = again.into_iter().chain([self.ack(&peer, tsval)]).collect();
        self.state = State::SynReceived { peer, closed: false, since: tsval, proven: true };
        Reaction::Answered { tcb, answers, rank: self.rank_of(segment), what: "peer's SYN-ACK" }
    }

    fn peer_ack(&mut self, segment: &Segment, ack: Seq, peer: PeerSyn) -> Reaction {
        if ack != self.iss + 1 {
            return Reaction::Ignored("ACK for another SYN, stale or stray");
        }
        // The first segments after the handshake may come out of order; what counts is that they
        // lie in our window, RFC 9293 section 3.10.7.4, or one below it as a probe does.
        if segment.seq - peer.irs > u32::from(self.offer.window) {
            return Reaction::Ignored("ACK outside the window");
        }
        let mut agreed = peer.agreed(&self.offer);
        // RFC 7323 section 3.2: once agreed, timestamps stand in every segment.
        agreed.timestamps &= segment.options.timestamps.is_some();
        let scaled = !repeats_syn_ack(segment);
        let shift = agreed.window_scale.filter(|_| scaled).map_or(0, |scale| scale.send);
        self.state = State::Established;
        let numbers = [self.iss, peer.irs];
        let tcb = EstablishedTcb::left_by(segment, shift, numbers, self.offer.window, agreed);
        Reaction::Completed { tcb, what: "peer's ACK" }
    }

    /// The connection as this SYN or SYN-ACK leaves it; its window is not shifted.
    fn tcb(&self, segment: &Segment, peer: &PeerSyn) -> EstablishedTcb {
        let (numbers, agreed) = ([self.iss, peer.irs], peer.agreed(&self.offer));
        EstablishedTcb::left_by(segment, 0, numbers, self.offer.window, agreed)
    }

    /// The number at which the sender of a SYN or SYN-ACK started, before a middlebox rewrote it.
    fn original(&self, segment: &Segment) -> Seq {
        let said = segment.options.timestamps.map(|(_, said)| Seq(said));
        let known = |said: &Seq| self.expected_irs.is_some_and(|expected| expected.contains(said));
        said.filter(known).unwrap_or(segment.seq)
    }

    /// Whether the peer has shown itself at this number, whatever a middlebox made of it.
    fn has_met(&self, irs: Seq) -> bool {
        matches!(self.state, State::SynReceived { peer, .. } if peer.irs == irs)
    }

    /// Whether it is the probe of a peer that knows both numbers and has sent no SYN.
    fn is_mid_stream(&self, segment: &Segment, ack: Seq) -> bool {
        let known = self.expected_irs.is_some_and(|expected| expected.contains(&segment.seq));
        known && ack == self.iss + 1 && !segment.fin
    }

    fn is_expected(&self, irs: Seq) -> bool {
        self.expected_irs.is_none_or(|expected| expected.contains(&irs))
    }
}

/// Whether it is a probe with what a SYN-ACK says: only SYNs have a segment size otherwise.
fn repeats_syn_ack(segment: &Segment) -> bool {
    segment.options.mss.is_some() && segment.payload.is_empty() && !segment.fin
}

#[cfg(test)]
mod tests;
