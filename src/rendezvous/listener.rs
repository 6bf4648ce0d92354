//! The client's side of the connection on which it is called: it proves its name, stays, and hears
//! of calls. Each call is then taken on a connection of its own.

use super::{
    Answer, FrameError, Frames, Identity, PublicKey, Refusal, Request, Ticket, frame, greeting,
};
use std::collections::VecDeque;
use std::time::Duration;

/// Between two questions whether the server is still there. RFC 5382 REQ-5 allows no router to
/// forget an idle connection in two hours, but many do in minutes.
const ASKING: Duration = Duration::from_secs(20);
/// A line on which nothing comes back for so long is dead: some repetitions of a lost segment fit,
/// which the kernel sends after 0.2, 0.6, 1.4 and 3 s.
const ANSWERING: Duration = Duration::from_secs(5);

/// What has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Calls come from now on.
    Listening,
    /// Somebody calls: [`Purpose::Take`](super::Purpose::Take) it.
    Called {
        /// Where the caller waits.
        ticket: Ticket,
        /// Its opening: [`Exchange::caller`](super::Exchange::caller) says who it is.
        opening: Vec<u8>,
    },
}

/// Why nobody is heard any more. A new connection may help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListenerError {
    /// The server said no.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// The server does not speak our language.
    #[error("the server sends what this version of tcp-punch does not understand: {0}")]
    Frame(#[from] FrameError),
    /// It said something out of turn.
    #[error("the server speaks out of turn")]
    OutOfTurn,
    /// Nothing comes back.
    #[error("the server has not answered for {0:?}")]
    Silent(Duration),
}

/// One connection to the server on which calls come in. Time is counted from any fixed point, and
/// steps of the wall clock do not count.
#[derive(Debug)]
pub struct Listener {
    identity: Identity,
    frames: Frames,
    outgoing: Vec<u8>,
    stage: Stage,
    /// The oldest question that has no answer.
    asked: Option<Duration>,
    /// When the next question is due.
    due: Duration,
    heard: VecDeque<Heard>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Asked to listen; the question whether the name is ours has to come.
    Asked,
    /// Answered that.
    Proven,
    /// Called under its name.
    Listening,
}

impl Listener {
    /// A connection that stands since `now`.
    ///
    /// # Errors
    /// [`ListenerError::Frame`], which no input causes.
    pub fn new(identity: Identity, now: Duration) -> Result<Self, ListenerError> {
        let mut listener = Self {
            frames: Frames::default(),
            outgoing: greeting(),
            stage: Stage::Asked,
            asked: Some(now),
            due: now + ASKING,
            heard: VecDeque::new(),
            identity,
        };
        listener.request(&Request::Listen(listener.name()))?;
        Ok(listener)
    }

    /// The name under which it is called.
    pub fn name(&self) -> PublicKey {
        self.identity.public()
    }

    fn request(&mut self, request: &Request) -> Result<(), ListenerError> {
        self.outgoing.extend(frame(request)?);
        Ok(())
    }

    /// Bytes for the server.
    ///
    /// # Errors
    /// [`ListenerError::Silent`] once it is late with an answer; the connection is of no more use.
    pub fn output(&mut self, now: Duration) -> Result<Vec<u8>, ListenerError> {
        if let Some(asked) = self.asked
            && now.saturating_sub(asked) >= ANSWERING
        {
            return Err(ListenerError::Silent(ANSWERING));
        }
        if self.due <= now {
            self.ask(now)?;
        }
        Ok(std::mem::take(&mut self.outgoing))
    }

    /// Asks now whether the server is still there: the network has changed, say. A question that
    /// has no answer yet serves, too.
    ///
    /// # Errors
    /// As [`Listener::new`].
    pub fn ask(&mut self, now: Duration) -> Result<(), ListenerError> {
        self.due = now + ASKING;
        if self.asked.is_some() {
            return Ok(());
        }
        self.asked = Some(now);
        // The time comes back to us, and nobody reads it.
        self.request(&Request::Clock { sent_ns: 0 })
    }

    /// When [`Listener::output`] wants to be called, if nothing happens before.
    pub fn poll_timeout(&self) -> Duration {
        self.asked.map_or(self.due, |asked| self.due.min(asked + ANSWERING))
    }

    /// The next thing that has happened.
    pub fn poll(&mut self) -> Option<Heard> {
        self.heard.pop_front()
    }

    /// Takes in what the server sent.
    ///
    /// # Errors
    /// [`ListenerError`]; the connection is of no more use then.
    pub fn handle(&mut self, bytes: &[u8], now: Duration) -> Result<(), ListenerError> {
        self.frames.extend(bytes);
        while let Some(answer) = self.frames.take::<Answer>()? {
            self.handle_answer(answer, now)?;
        }
        Ok(())
    }

    fn handle_answer(&mut self, answer: Answer, now: Duration) -> Result<(), ListenerError> {
        match (answer, self.stage) {
            (Answer::Welcome { .. }, Stage::Asked) => {}
            (Answer::Challenge(challenge), Stage::Asked) => {
                self.stage = Stage::Proven;
                self.asked = Some(now);
                self.request(&Request::Prove(self.identity.prove(challenge)))?;
            }
            (Answer::Listening, Stage::Proven) => {
                self.stage = Stage::Listening;
                self.asked = None;
                self.heard.push_back(Heard::Listening);
            }
            (Answer::Called { ticket, opening }, Stage::Listening) => {
                self.heard.push_back(Heard::Called { ticket, opening });
            }
            (Answer::Clock(_), Stage::Listening) => self.asked = None,
            (Answer::Refused(refusal), _) => return Err(refusal.into()),
            _ => return Err(ListenerError::OutOfTurn),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rendezvous::{Challenge, ClockTimes, GREETING};
    use proptest::prelude::*;

    const TICKET: Ticket = Ticket([7; 16]);

    fn identity() -> Identity {
        Identity::generate([1; 32])
    }

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// A listener and what the server says to it.
    struct Line {
        listener: Listener,
        sent: Frames,
    }

    impl Line {
        fn new() -> Self {
            let mut listener = Listener::new(identity(), s(0)).unwrap();
            let first = listener.output(s(0)).unwrap();
            let mut sent = Frames::default();
            sent.extend(first.strip_prefix(&GREETING).unwrap());
            Self { listener, sent }
        }

        /// One that is listening since the beginning.
        fn listening() -> Self {
            let mut line = Self::new();
            assert_eq!(line.said(s(0)), [Request::Listen(identity().public())]);
            line.hear(&Answer::Challenge(Challenge::new([2; 32]).public()), s(0)).unwrap();
            line.hear(&Answer::Listening, s(0)).unwrap();
            assert!(matches!(line.said(s(0))[..], [Request::Prove(_)]));
            assert_eq!(line.listener.poll(), Some(Heard::Listening));
            line
        }

        fn hear(&mut self, answer: &Answer, now: Duration) -> Result<(), ListenerError> {
            self.listener.handle(&frame(answer).unwrap(), now)
        }

        fn said(&mut self, now: Duration) -> Vec<Request> {
            self.sent.extend(&self.listener.output(now).unwrap());
            std::iter::from_fn(|| self.sent.take().unwrap()).collect()
        }
    }

    fn welcome() -> Answer {
        let observed = "203.0.113.1:4000".parse().unwrap();
        Answer::Welcome { observed, other_port: None, other_address: Vec::new() }
    }

    fn clock() -> Answer {
        Answer::Clock(ClockTimes { sent_ns: 0, received_ns: 1, answered_ns: 2 })
    }

    #[test]
    fn it_proves_its_name_and_is_called() {
        let mut line = Line::new();
        assert_eq!(line.said(s(0)), [Request::Listen(identity().public())]);
        line.hear(&welcome(), s(0)).unwrap();
        let challenge = Challenge::new([2; 32]);
        line.hear(&Answer::Challenge(challenge.public()), s(0)).unwrap();
        let [Request::Prove(proof)] = line.said(s(0))[..] else { panic!("no proof") };
        assert!(challenge.check(identity().public(), &proof));
        assert_eq!(line.listener.poll(), None);
        line.hear(&Answer::Listening, s(0)).unwrap();
        let opening = b"caller".to_vec();
        line.hear(&Answer::Called { ticket: TICKET, opening: opening.clone() }, s(0)).unwrap();
        assert_eq!(line.listener.poll(), Some(Heard::Listening));
        assert_eq!(line.listener.poll(), Some(Heard::Called { ticket: TICKET, opening }));
        assert_eq!(line.listener.poll(), None);
        assert_eq!(line.said(s(0)), []);
    }

    #[test]
    fn it_asks_every_twenty_seconds_whether_the_server_is_there() {
        let mut line = Line::listening();
        for second in [20, 40, 60] {
            assert_eq!(line.listener.poll_timeout(), s(second));
            assert_eq!(line.said(s(second - 1)), []);
            assert_eq!(line.said(s(second)), [Request::Clock { sent_ns: 0 }]);
            assert_eq!(line.listener.poll_timeout(), s(second + 5));
            line.hear(&clock(), s(second + 1)).unwrap();
        }
    }

    #[test]
    fn a_server_that_says_nothing_is_dead_after_five_seconds() {
        let mut line = Line::listening();
        line.said(s(20));
        assert_eq!(line.said(s(24)), []);
        assert_eq!(line.listener.output(s(25)), Err(ListenerError::Silent(ANSWERING)));
        // From the beginning, too.
        assert_eq!(Line::new().listener.poll_timeout(), s(5));
        assert_eq!(Line::new().listener.output(s(5)), Err(ListenerError::Silent(ANSWERING)));
    }

    #[test]
    fn a_second_question_does_not_prolong_the_wait_for_the_first_answer() {
        let mut line = Line::listening();
        line.listener.ask(s(7)).unwrap();
        line.listener.ask(s(9)).unwrap();
        assert_eq!(line.listener.poll_timeout(), s(12));
        assert_eq!(line.said(s(9)), [Request::Clock { sent_ns: 0 }]);
        line.hear(&clock(), s(10)).unwrap();
        assert_eq!(line.listener.poll_timeout(), s(29));
    }

    #[test]
    fn what_comes_out_of_turn_ends_it() {
        let called = Answer::Called { ticket: TICKET, opening: Vec::new() };
        for answer in [Answer::Listening, called, Answer::Left, clock()] {
            assert_eq!(Line::new().hear(&answer, s(0)), Err(ListenerError::OutOfTurn));
        }
        let mut line = Line::listening();
        assert_eq!(line.hear(&Answer::Challenge([3; 32]), s(0)), Err(ListenerError::OutOfTurn));
        let refused = Answer::Refused(Refusal::GoingDown);
        assert_eq!(line.hear(&refused, s(0)), Err(Refusal::GoingDown.into()));
    }

    proptest! {
        #[test]
        fn noise_never_panics(noise in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Line::listening().listener.handle(&noise, s(1));
        }
    }
}
