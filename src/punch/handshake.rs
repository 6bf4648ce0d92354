//! The simultaneous open of RFC 9293 section 3.5 on one tuple, as a pure state machine.
//!
//! It differs from a kernel's in what a hole punch needs: it never answers with a reset, a reset
//! never ends it, and a peer that starts anew is met anew.

use super::tcb::{Agreed, EstablishedTcb, WindowScale};
use crate::wire::{DEFAULT_HOP_LIMIT, Options, Segment, Seq, Tuple};

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
    /// The peer's SYN came in, and was answered.
    heard_syn: bool,
    state: State,
}

/// What we offer in our SYN and SYN-ACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Largest segment we take, bytes.
    pub mss: u16,
    /// Shift of the windows that we advertise.
    pub window_scale: u8,
    /// The window that we advertise, bytes; unscaled in the handshake, as RFC 7323 asks. Between
    /// two ends that race several tuples, the one with the larger window nominates.
    pub window: u16,
    /// With a key, the lowest [`Offer::MARK_BITS`] of the timestamps in our SYNs and SYN-ACKs: both
    /// ends start at one number then, and by these and the window we know what is our own.
    pub mark: u8,
}

impl Offer {
    /// So many bits of [`Offer::mark`] count.
    pub const MARK_BITS: u32 = 3;
    const MARK: u32 = (1 << Self::MARK_BITS) - 1;

    /// The timestamp value with our mark, some milliseconds behind the clock: what the kernel sends
    /// later must never seem to be older (RFC 7323 section 5, PAWS).
    pub(super) fn marked(&self, tsval: u32) -> u32 {
        tsval.wrapping_sub(Self::MARK + 1) & !Self::MARK | u32::from(self.mark) & Self::MARK
    }

    /// Whether this segment, which starts where ours do, offers just what we do.
    pub(super) fn is_ours(&self, segment: &Segment) -> bool {
        let marked = |(theirs, _): (u32, u32)| (theirs ^ u32::from(self.mark)) & Self::MARK == 0;
        segment.window == self.window && segment.options.timestamps.is_none_or(marked)
    }
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

/// What the peer's SYN said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PeerSyn {
    irs: Seq,
    window: u16,
    options: Options,
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
        /// The window that the peer offers, bytes, unscaled.
        window: u16,
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

    /// The SYN-ACK for the SYN that the peer has sent by now, if the key tells its number, though
    /// we never saw it: our router has, and lets this out.
    pub fn speculate(&mut self, tsval: u32) -> Option<Segment> {
        let segment = self.unasked_syn_ack(tsval).filter(|_| self.state == State::SynSent);
        self.speculated |= segment.is_some();
        segment
    }

    fn unasked_syn_ack(&self, tsval: u32) -> Option<Segment> {
        let [irs, ..] = self.expected_irs?;
        let unseen = PeerSyn { irs, window: 0, options: self.syn(0).options };
        Some(self.syn_ack(&unseen, tsval))
    }

    /// What a middlebox on the way seems to do, as a clause.
    pub fn remark(&self) -> Option<&'static str> {
        self.remark
    }

    /// Whether the peer was met by SYN-ACKs that nobody asked for.
    pub fn met_unasked(&self) -> bool {
        self.unasked
    }

    /// Our SYN, with timestamp value `tsval`.
    ///
    /// With a key it says its own number once more, in the echo field that receivers ignore in a
    /// SYN (RFC 7323 section 3.2), and so does our SYN-ACK: a middlebox that rewrites sequence
    /// numbers leaves that one alone, and the peer knows us by it. Repeating it later would be too
    /// late: a router that has seen our answers lets no SYN in any more.
    pub fn syn(&self, tsval: u32) -> Segment {
        let timestamps = match self.expected_irs {
            Some(_) => (self.offer.marked(tsval), self.iss.0),
            None => (tsval, 0),
        };
        Segment {
            tuple: self.tuple,
            hop_limit: DEFAULT_HOP_LIMIT,
            seq: self.iss,
            ack: None,
            syn: true,
            fin: false,
            rst: false,
            window: self.offer.window,
            options: Options {
                mss: Some(self.offer.mss),
                window_scale: Some(self.offer.window_scale),
                sack_permitted: true,
                timestamps: Some(timestamps),
            },
            payload: Vec::new(),
        }
    }

    /// What the `nth` timeout since the last answer repeats (from 0); `None` once established.
    ///
    /// In SYN-RECEIVED the peer may be in any of three states, and netfilter, which has seen our
    /// ACK, lets no SYN-ACK of ours pass any more. So by turns: a probe one below the window, as a
    /// keepalive is (RFC 9293 section 3.8.4), which an established peer answers and which
    /// completes one in SYN-RECEIVED; and a SYN, for a peer that has heard nothing yet.
    pub fn retransmission(&self, nth: u32, tsval: u32) -> Option<Segment> {
        match self.state {
            State::SynSent if self.speculated && !nth.is_multiple_of(2) => {
                self.unasked_syn_ack(tsval)
            }
            State::SynSent => Some(self.syn(tsval)),
            State::SynReceived { peer, closed, .. } if closed != nth.is_multiple_of(2) => {
                Some(Segment { seq: self.iss, ..self.ack(&peer, tsval) })
            }
            State::SynReceived { .. } => Some(self.syn(tsval)),
            State::Established => None,
        }
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
        self.remark = remark(&peer.options, original != segment.seq).or(self.remark);
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
        let tcb = self.tcb(peer.irs, segment, self.agree(&peer.options), 0);
        Reaction::Answered { tcb, answers, window: segment.window, what }
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
        let rewritten = self.original(segment) != segment.seq;
        self.remark = remark(&segment.options, rewritten).or(self.remark);
        if self.racing {
            return self.peer_is_there(segment, tsval);
        }
        let mut agreed = self.agree(&segment.options);
        if let State::SynReceived { peer, .. } = self.state
            && peer.irs == segment.seq
        {
            // A middlebox may strip an option from the one and not from the other; only what
            // both carried can be in force at the peer.
            agreed = agreed.and(self.agree(&peer.options));
        }
        self.state = State::Established;
        let tcb = self.tcb(segment.seq, segment, agreed, 0);
        Reaction::Completed { tcb, what: "peer's SYN-ACK" }
    }

    /// A SYN-ACK while other tuples race: maybe nobody asked for it.
    fn peer_is_there(&mut self, segment: &Segment, tsval: u32) -> Reaction {
        if self.is_own(segment) {
            return Reaction::OwnSyn("our own SYN-ACK came back");
        }
        let mut peer = PeerSyn::from(segment);
        let first = self.state == State::SynSent;
        self.unasked |= self.speculated && first;
        if let State::SynReceived { peer: known, .. } = self.state
            && known.irs == peer.irs
        {
            peer.options = both(known.options, peer.options);
        }
        let tcb = self.tcb(peer.irs, segment, self.agree(&peer.options), 0);
        // The peer may have missed our SYN-ACK, or never been sent one, and without it takes no ACK.
        // It goes first, and once: when our ACK has left, our router lets no SYN-ACK out any more,
        // or worse, lets it out untranslated.
        let again = (first && !self.heard_syn).then(|| self.syn_ack(&peer, tsval));
        let answers = again.into_iter().chain([self.ack(&peer, tsval)]).collect();
        self.state = State::SynReceived { peer, closed: false, since: tsval, proven: true };
        Reaction::Answered { tcb, answers, window: segment.window, what: "peer's SYN-ACK" }
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
        let mut agreed = self.agree(&peer.options);
        // RFC 7323 section 3.2: once agreed, timestamps stand in every segment.
        agreed.timestamps &= segment.options.timestamps.is_some();
        let shift = agreed.window_scale.map_or(0, |scale| scale.send);
        self.state = State::Established;
        let tcb = self.tcb(peer.irs, segment, agreed, shift);
        Reaction::Completed { tcb, what: "peer's ACK" }
    }

    /// The connection as `segment` leaves it; its window is shifted by `shift`.
    fn tcb(&self, irs: Seq, segment: &Segment, agreed: Agreed, shift: u8) -> EstablishedTcb {
        let rounded = agreed.window_scale.map_or(0, |scale| scale.receive);
        EstablishedTcb {
            tuple: self.tuple,
            snd_nxt: self.iss + 1,
            rcv_nxt: irs + 1,
            snd_wnd: u32::from(segment.window) << shift,
            snd_wl1: segment.seq,
            rcv_wnd: u32::from(self.offer.window >> rounded << rounded),
            agreed,
        }
    }

    fn syn_ack(&self, peer: &PeerSyn, tsval: u32) -> Segment {
        let mut segment = self.syn(tsval);
        segment.ack = Some(peer.irs + 1);
        // As a listener does (RFC 7323 section 2.2): offer back what was offered.
        segment.options.window_scale = peer.options.window_scale.and(segment.options.window_scale);
        segment.options.sack_permitted &= peer.options.sack_permitted;
        if let (Some((_, echo)), None) = (&mut segment.options.timestamps, self.expected_irs) {
            *echo = peer.options.timestamps.map_or(0, |(theirs, _)| theirs);
        }
        segment.options.timestamps = peer.options.timestamps.and(segment.options.timestamps);
        segment
    }

    fn ack(&self, peer: &PeerSyn, tsval: u32) -> Segment {
        let syn_ack = self.syn_ack(peer, tsval);
        let shift = syn_ack.options.window_scale.unwrap_or(0);
        let timestamps = peer.options.timestamps.map(|(theirs, _)| (tsval, theirs));
        let options = Options { timestamps, ..Options::default() };
        let (seq, window) = (self.iss + 1, self.offer.window >> shift);
        Segment { seq, syn: false, window, options, ..syn_ack }
    }

    fn agree(&self, theirs: &Options) -> Agreed {
        Agreed {
            // RFC 9293 section 3.7.1: 536 (IPv6: 1220) where the option is missing. Linux takes
            // nothing below 88 (TCP_MIN_MSS).
            mss: theirs.mss.unwrap_or(if self.tuple.is_ipv6() { 1220 } else { 536 }).max(88),
            window_scale: theirs
                .window_scale
                .map(|send| WindowScale { send, receive: self.offer.window_scale }),
            sack: theirs.sack_permitted,
            timestamps: theirs.timestamps.is_some(),
        }
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

/// What the peer's SYN says of middleboxes.
fn remark(options: &Options, rewritten: bool) -> Option<&'static str> {
    let Options { window_scale, sack_permitted, timestamps, .. } = options;
    if rewritten {
        Some("a middlebox rewrites the peer's sequence numbers")
    } else if window_scale.is_none() || !sack_permitted || timestamps.is_none() {
        Some(
            "TCP options are missing from the peer's SYN: a middlebox strips them, or the peer sends none",
        )
    } else {
        None
    }
}

/// The options that both segments of the peer carried.
fn both(one: Options, other: Options) -> Options {
    Options {
        mss: one.mss.min(other.mss),
        window_scale: one.window_scale.and(other.window_scale),
        sack_permitted: one.sack_permitted && other.sack_permitted,
        timestamps: one.timestamps.and(other.timestamps),
    }
}

impl Agreed {
    fn and(self, other: Self) -> Self {
        Self {
            mss: self.mss.min(other.mss),
            window_scale: self.window_scale.and(other.window_scale),
            sack: self.sack && other.sack,
            timestamps: self.timestamps && other.timestamps,
        }
    }
}

impl From<&Segment> for PeerSyn {
    fn from(syn: &Segment) -> Self {
        Self { irs: syn.seq, window: syn.window, options: syn.options }
    }
}

#[cfg(test)]
mod tests;
