//! The client's side of one connection to the server: from the greeting to two peers that tell
//! each other what nobody else can read.

use super::{
    Answer, ClockEstimate, ClockExchange, ClockFilter, ClockShift, Code, Exchange, ExchangeError,
    FrameError, Frames, Identity, NotTold, Place, PublicKey, Refusal, Request, Secrets, Taken,
    Ticket, Told, frame, greeting,
};
use crate::wire::WallTime;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

/// Exchanges of clocks in a row: the least delayed of so many is hardly delayed at all.
const BURST: u32 = 8;
/// Between two of them: all of a burst are under way before the first is back.
const GAP: Duration = Duration::from_millis(1);
/// Between two bursts while the peer is awaited. It keeps routers' entries alive, too: RFC 5382
/// REQ-5 allows none to forget an idle connection in two hours, but many do in minutes.
const REPEAT: Duration = Duration::from_secs(20);

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
    /// If the clock of the meeting is another server's.
    shift: Option<(ClockShift, WallTime)>,
    /// Exchanges left of this burst, and when the next one is due.
    burst: u32,
    due: Option<WallTime>,
    events: VecDeque<Event>,
}

impl Session {
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
            shift: None,
            burst: BURST,
            due: Some(now),
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

    /// Bytes for the server, which leave at `now`: a clock's question is stamped with it.
    pub fn output(&mut self, now: WallTime) -> Vec<u8> {
        if self.due.is_some_and(|due| due <= now) {
            // Cannot fail: the message is short.
            let _ = self.request(&Request::Clock { sent_ns: now.unix_ns() });
            self.burst = self.burst.saturating_sub(1);
            self.due = Some(now.after(if self.burst > 0 { GAP } else { REPEAT }));
            if self.burst == 0 {
                self.burst = BURST;
            }
        }
        std::mem::take(&mut self.outgoing)
    }

    /// When [`Session::output`] has something, if nothing happens before.
    pub fn poll_timeout(&self) -> Option<WallTime> {
        self.due
    }

    /// Asks the server for its clock some times from `now` on.
    pub fn ask_clock(&mut self, now: WallTime) {
        self.burst = BURST;
        self.due = Some(now);
    }

    /// How this clock stands to the meeting's: the server's, or that of the peer's server.
    pub fn clock(&self, now: WallTime) -> Option<ClockEstimate> {
        let ours = self.clock.estimate(now)?;
        Some(self.shift.map_or(ours, |(shift, since)| ours.shifted(shift, since)))
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
    /// [`SessionError`]; the session is over then.
    pub fn handle(&mut self, bytes: &[u8], now: WallTime) -> Result<(), SessionError> {
        self.frames.extend(bytes);
        while let Some(answer) = self.frames.take::<Answer>()? {
            self.handle_answer(answer, now)?;
        }
        Ok(())
    }

    fn handle_answer(&mut self, answer: Answer, now: WallTime) -> Result<(), SessionError> {
        match answer {
            Answer::Welcome { observed, other_port, other_address } => {
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
            // The other end has to hear us before it can answer.
            Answer::Met { opening } if opening.is_empty() => {}
            Answer::Met { opening } => self.handle_opening(&opening, now)?,
            Answer::Relayed(opening) if self.exchange.is_some() => {
                self.handle_opening(&opening, now)?;
            }
            Answer::Relayed(sealed) => {
                let secrets = self.secrets.as_mut().ok_or(SessionError::OutOfTurn)?;
                let plain = secrets.open(&sealed).map_err(|_| match self.by_code {
                    true => SessionError::WrongCode,
                    false => SessionError::Altered,
                })?;
                self.events.push_back(Event::Told(Told::from_bytes(&plain)?));
            }
            Answer::Shifted(shift) => self.shift = Some((shift, now)),
            Answer::Left => self.events.push_back(Event::Left),
            Answer::Refused(refusal) => return Err(refusal.into()),
            Answer::Challenge(_)
            | Answer::Listening
            | Answer::Called(_)
            | Answer::Probed { .. } => return Err(SessionError::OutOfTurn),
        }
        Ok(())
    }

    fn handle_opening(&mut self, opening: &[u8], now: WallTime) -> Result<(), SessionError> {
        let exchange = self.exchange.take().ok_or(SessionError::OutOfTurn)?;
        let (ours, secrets) = exchange.complete(opening)?;
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
mod tests {
    use super::*;
    use crate::rendezvous::ClockTimes;

    #[test]
    fn the_clock_of_a_meeting_is_that_of_the_peers_server_once_it_is_told() {
        let at = |ms: i64| WallTime::from_unix_ns(1_800_000_000_000_000_000 + ms * 1_000_000);
        let mut session = Session::new(Purpose::NewCode([1; 32]), [2; 32], at(0)).unwrap();
        let times = |sent: WallTime, ahead_ns| ClockTimes {
            sent_ns: sent.unix_ns(),
            received_ns: sent.unix_ns() + 5_000_000 + ahead_ns,
            answered_ns: sent.unix_ns() + 5_000_000 + ahead_ns,
        };
        let clock = Answer::Clock(times(at(0), 40));
        session.handle(&frame(&clock).unwrap(), at(10)).unwrap();
        let before = session.clock(at(10)).unwrap();
        assert_eq!(before.offset_ns, 40);
        let shift = ClockShift { ahead_ns: 7_000_000_000, bound_ns: 1_000, likely_ns: 10 };
        session.handle(&frame(&Answer::Shifted(shift)).unwrap(), at(10)).unwrap();
        let after = session.clock(at(10)).unwrap();
        assert_eq!(after.offset_ns, 7_000_000_040);
        assert_eq!(after.bound, before.bound + Duration::from_nanos(1_000));
        assert_eq!(after.likely, before.likely + Duration::from_nanos(10));
        // The servers' clocks drift apart, and ours from the server's: 0.2 ms a second each.
        let later = session.clock(at(1_010)).unwrap();
        assert_eq!(later.bound - after.bound, Duration::from_micros(400));
        // What the server says of its own clock is still said of that one.
        session.handle(&frame(&Answer::Clock(times(at(1_000), 40))).unwrap(), at(1_010)).unwrap();
        assert_eq!(session.clock(at(1_010)).unwrap().offset_ns, 7_000_000_040);
    }
}
