//! The client's side of one connection to the server: from the greeting to two peers that tell
//! each other what nobody else can read.

use super::{
    Answer, ClockEstimate, ClockExchange, ClockFilter, ClockShift, Code, Exchange, ExchangeError,
    FrameError, Frames, Identity, NotTold, Place, PublicKey, Refusal, Request, Secrets, Taken,
    Ticket, Told, frame, greeting,
};
use crate::wire::{Nonsense, WallTime};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

/// Between two of them: all of a burst are under way before the first is back.
const GAP: Duration = Duration::from_millis(1);
/// Between two bursts while the peer is awaited. It keeps routers' entries alive, too: RFC 5382
/// REQ-5 allows none to forget an idle connection in two hours, but many do in minutes.
const REPEAT: Duration = Duration::from_secs(20);
/// A question without an answer is asked again after this time,
const AGAIN: Duration = Duration::from_secs(1);
/// and so many times in all: then the server has gone. Counted, not measured, so that a clock
/// that is set takes one question's patience at most. Some repetitions of a lost segment fit, which
/// the kernel sends after 0.2, 0.6, 1.4 and 3 s.
const QUESTIONS: u32 = 5;
/// A peer that met us and lets us speak first answers with its opening in this time.
const OPENING: Duration = Duration::from_secs(8);
/// A server has one other address, with two ports.
const OTHERS: usize = 2;

/// What brings us to the server.
#[derive(Debug)]
pub enum Purpose {
    /// Meet whoever has this code.
    Code(Code),
    /// Make a code with words out of these random bits, and wait for who uses it.
    NewCode([u8; 32]),
    /// Call who listens under this name.
    Call(Identity, PublicKey),
    /// Take a call.
    Take(Identity, Ticket),
}

/// What has happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The server is there.
    Welcome {
        /// Our end of this connection as the server sees it.
        observed: SocketAddr,
        /// The server's other port at the same address.
        other_port: Option<SocketAddr>,
        /// Its other address, both ports.
        other_address: Vec<SocketAddr>,
    },
    /// The code to tell the peer.
    Coded(Code),
    /// Peer and keys are there: [`Session::tell`] works from now on.
    Keyed,
    /// The peer told this.
    Told(Told),
    /// The peer has gone.
    Left,
}

/// Why a session is over.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The server said no.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// The server does not speak our language.
    #[error("the server sends what this version of tcp-punch does not understand: {0}")]
    Frame(#[from] FrameError),
    /// It said something out of turn.
    #[error("the server speaks out of turn")]
    OutOfTurn,
    /// It told an address that nobody has.
    #[error("the server says that this host appears as {observed}, which {why}")]
    Observed {
        /// The address.
        observed: SocketAddr,
        /// What is wrong with it.
        why: Nonsense,
    },
    /// It answers nothing any more.
    #[error("the server has not answered for {0:?}")]
    Silent(Duration),
    /// The peer came and did not begin the key exchange.
    #[error("the peer came, and said nothing within {0:?}")]
    PeerSilent(Duration),
    /// The key exchange failed.
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
    /// The peer's message is not sealed with our key.
    #[error("whoever is there does not have the same code")]
    WrongCode,
    /// Somebody has changed what the peer sent.
    #[error("what comes from the peer was altered on the way")]
    Altered,
    /// The peer's message makes no sense, or ours does not.
    #[error(transparent)]
    Told(#[from] NotTold),
}

/// One connection to the server. Feed it with [`Session::handle`], ask it for
/// [`Session::output`], [`Session::poll`] and [`Session::poll_timeout`].
#[derive(Debug)]
pub struct Session {
    purpose: Option<Purpose>,
    random: [u8; 32],
    frames: Frames,
    outgoing: Vec<u8>,
    exchange: Option<Exchange>,
    secrets: Option<Secrets>,
    /// By a code, not by key pairs.
    by_code: bool,
    clock: ClockFilter,
    /// Exchanges left of this burst.
    burst: usize,
    /// Bursts and questions that have ended without an answer to anything.
    unanswered: u32,
    /// When the next exchange is due, or the answer to the last one.
    due: WallTime,
    welcomed: bool,
    /// The peer's opening has to come until then.
    opening_due: Option<WallTime>,
    /// If the clock of the meeting is another server's.
    shift: Option<(ClockShift, WallTime)>,
    events: VecDeque<Event>,
}

impl Session {
    /// Exchanges of clocks in a row: the least delayed of so many is hardly delayed at all.
    pub const BURST: usize = 8;

    /// A connection that stands since `now`. `random` serves for this session alone.
    ///
    /// # Errors
    /// [`SessionError::Exchange`] for a key that is no key.
    pub fn new(purpose: Purpose, random: [u8; 32], now: WallTime) -> Result<Self, SessionError> {
        let mut session = Self {
            purpose: None,
            random,
            frames: Frames::default(),
            outgoing: greeting(),
            exchange: None,
            secrets: None,
            by_code: false,
            clock: ClockFilter::default(),
            burst: Self::BURST,
            unanswered: 0,
            due: now,
            welcomed: false,
            opening_due: None,
            shift: None,
            events: VecDeque::new(),
        };
        match purpose {
            Purpose::NewCode(_) => {
                session.request(&Request::Allocate)?;
                session.purpose = Some(purpose);
            }
            Purpose::Code(code) => session.join_by(&code)?,
            Purpose::Call(ours, theirs) => {
                let exchange = Exchange::as_caller(&ours, theirs, random)?;
                let opening = exchange.opening().map(<[u8]>::to_vec).unwrap_or_default();
                session.request(&Request::Call { name: theirs, opening })?;
                session.exchange = Some(exchange);
            }
            Purpose::Take(ours, ticket) => {
                session.exchange = Some(Exchange::as_listener(&ours, random)?);
                let place = Place::Ticket(ticket);
                session.request(&Request::Join { place, opening: Vec::new() })?;
            }
        }
        Ok(session)
    }

    fn join_by(&mut self, code: &Code) -> Result<(), SessionError> {
        self.by_code = true;
        let exchange = Exchange::by_code(code, self.random);
        let opening = exchange.opening().map(<[u8]>::to_vec).unwrap_or_default();
        self.exchange = Some(exchange);
        self.request(&Request::Join { place: Place::Number(code.number()), opening })
    }

    fn request(&mut self, request: &Request) -> Result<(), SessionError> {
        self.outgoing.extend(frame(request)?);
        Ok(())
    }

    /// Takes in that it is `now`, after all that had come in by then.
    ///
    /// # Errors
    /// [`SessionError::Silent`], [`SessionError::PeerSilent`]; the session is over then.
    pub fn handle_timeout(&mut self, now: WallTime) -> Result<(), SessionError> {
        if self.opening_due.is_some_and(|due| due <= now) {
            return Err(SessionError::PeerSilent(OPENING));
        }
        // Further ahead than anything is ever put: the clock was set back.
        if now.until(self.due) > REPEAT {
            self.due = now;
        }
        if self.burst > 0 || self.due > now {
            return Ok(());
        }
        match self.unanswered {
            0 => self.burst = Self::BURST,
            QUESTIONS.. => return Err(SessionError::Silent(AGAIN * QUESTIONS)),
            _ => self.burst = 1,
        }
        Ok(())
    }

    /// Bytes for the server, which leave at `now`: a clock's question is stamped with it.
    pub fn output(&mut self, now: WallTime) -> Vec<u8> {
        if self.burst > 0 && self.due <= now {
            // Cannot fail: the message is short.
            let _ = self.request(&Request::Clock { sent_ns: now.unix_ns() });
            self.burst -= 1;
            self.due = now.after(GAP);
            if self.burst == 0 {
                self.unanswered += 1;
                self.due = now.after(AGAIN);
            }
        }
        std::mem::take(&mut self.outgoing)
    }

    /// When [`Session::handle_timeout`] and [`Session::output`] have something to do, if nothing
    /// happens before.
    pub fn poll_timeout(&self) -> WallTime {
        self.opening_due.map_or(self.due, |due| due.min(self.due))
    }

    /// Asks the server for its clock some times from `now` on.
    pub fn ask_clock(&mut self, now: WallTime) {
        self.burst = Self::BURST;
        self.due = now;
    }

    /// This clock was set, as its owner knows: all that is known of the server's is asked anew.
    pub fn reset_clock(&mut self, now: WallTime) {
        self.clock.clear();
        self.ask_clock(now);
    }

    /// How this clock stands to the meeting's: the server's, or that of the peer's server.
    pub fn clock(&self, now: WallTime) -> Option<ClockEstimate> {
        let ours = self.clock.estimate(now)?;
        Some(self.shift.map_or(ours, |(shift, since)| ours.shifted(shift, since)))
    }

    /// How many answers the estimate of the server's clock rests on.
    pub fn exchanges(&self) -> usize {
        self.clock.len()
    }

    /// What both peers hold, once [`Event::Keyed`] has come.
    pub fn secrets(&self) -> Option<&Secrets> {
        self.secrets.as_ref()
    }

    /// The next thing that has happened.
    pub fn poll(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Tells the peer.
    ///
    /// # Errors
    /// [`SessionError::OutOfTurn`] before there are keys, [`SessionError::Frame`] for a message
    /// that is too long.
    pub fn tell(&mut self, told: &Told) -> Result<(), SessionError> {
        let secrets = self.secrets.as_mut().ok_or(SessionError::OutOfTurn)?;
        let sealed = secrets.seal(&told.to_bytes()?);
        self.request(&Request::Relay(sealed))
    }

    /// Takes in what the server sent and this host read at `now`.
    ///
    /// # Errors
    /// [`SessionError`]; the session is over then. What [`Session::output`] still has is for the
    /// peer to learn it.
    pub fn handle(&mut self, bytes: &[u8], now: WallTime) -> Result<(), SessionError> {
        self.frames.extend(bytes);
        while let Some(answer) = self.frames.take::<Answer>()? {
            self.unanswered = 0;
            if self.burst == 0 {
                self.due = now.after(REPEAT);
            }
            self.handle_answer(answer, now)?;
        }
        Ok(())
    }

    fn handle_answer(&mut self, answer: Answer, now: WallTime) -> Result<(), SessionError> {
        match answer {
            // Whoever is told of addresses connects to them: once is enough.
            Answer::Welcome { .. } if self.welcomed => return Err(SessionError::OutOfTurn),
            Answer::Welcome { observed, other_port, mut other_address } => {
                self.welcomed = true;
                if let Some(why) = Nonsense::of(observed, observed) {
                    return Err(SessionError::Observed { observed, why });
                }
                other_address.truncate(OTHERS);
                self.events.push_back(Event::Welcome { observed, other_port, other_address });
            }
            Answer::Clock(times) => {
                if self.clock.push(ClockExchange::of(&times, now)) == Taken::Stepped {
                    self.ask_clock(now);
                }
            }
            Answer::Allocated(number) => {
                let Some(Purpose::NewCode(random)) = self.purpose.take() else {
                    return Err(SessionError::OutOfTurn);
                };
                let code = Code::new(number, random);
                self.join_by(&code)?;
                self.events.push_back(Event::Coded(code));
            }
            // The other end has to hear us before it can answer, or its opening is under way.
            Answer::Met { opening } if opening.is_empty() => {
                self.opening_due = Some(now.after(OPENING));
            }
            Answer::Met { opening } => self.handle_opening(&opening, now)?,
            Answer::Relayed(opening) if self.exchange.is_some() => {
                self.handle_opening(&opening, now)?;
            }
            Answer::Relayed(sealed) => {
                let secrets = self.secrets.as_mut().ok_or(SessionError::OutOfTurn)?;
                let Ok(plain) = secrets.open(&sealed) else { return Err(self.not_sealed()) };
                match Told::from_bytes(&plain)? {
                    Told::NotLetIn if self.by_code => return Err(SessionError::WrongCode),
                    told => self.events.push_back(Event::Told(told)),
                }
            }
            Answer::Shifted(shift) => self.shift = Some((shift, now)),
            Answer::Left => self.events.push_back(Event::Left),
            Answer::Refused(refusal) => return Err(refusal.into()),
            Answer::Challenge(_)
            | Answer::Listening
            | Answer::Called { .. }
            | Answer::Probed { .. } => return Err(SessionError::OutOfTurn),
        }
        Ok(())
    }

    /// What does not open was sealed by who has another code, or altered. With codes the peer finds
    /// the same in our last word, which is sent when nothing else of ours may have been.
    fn not_sealed(&mut self) -> SessionError {
        if !self.by_code {
            return SessionError::Altered;
        }
        match self.tell(&Told::NotLetIn) {
            Ok(()) => SessionError::WrongCode,
            Err(error) => error,
        }
    }

    fn handle_opening(&mut self, opening: &[u8], now: WallTime) -> Result<(), SessionError> {
        let exchange = self.exchange.take().ok_or(SessionError::OutOfTurn)?;
        let (ours, secrets) = exchange.complete(opening)?;
        self.opening_due = None;
        // Who takes a call can only now make its own.
        if let Some(ours) = ours {
            self.request(&Request::Relay(ours))?;
        }
        self.secrets = Some(secrets);
        self.ask_clock(now);
        self.events.push_back(Event::Keyed);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
