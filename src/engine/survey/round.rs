//! Questions to STUN servers, sent in a known order and answered in any.

use super::error::SurveyError;
use crate::nat::Observation;
use crate::sys::{CallFailed, Dial, clock};
use crate::wire::WallTime;
use crate::wire::stun::{Binding, Response, TransactionId, binding_request};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// Between two SYNs. A router with several queues may take packets that come closer together out
/// of order, and a counter's steps would be read in the wrong order.
const GAP: Duration = Duration::from_millis(2);

/// Once a server has answered, others get so many times as long as the slowest…
const PATIENCE: u32 = 3;
/// …but at least this: longer than TCP takes to repeat a lost request (200 ms), shorter than it
/// takes to repeat a lost SYN (1 s), whose answer would not say when the mapping was made.
const LEAST_PATIENCE: Duration = Duration::from_millis(500);

/// The survey before may have ended a moment ago: its last segments take a round trip.
const CLOSING_PATIENCE: Duration = Duration::from_millis(600);
/// How often to see whether they have come.
const CLOSING_LOOK: Duration = Duration::from_millis(10);

/// One question: a connection from a local port to a server, and what it learnt.
#[derive(Debug)]
pub(super) struct Question {
    /// Just before the SYN left.
    pub(super) at: WallTime,
    /// Our end.
    pub(super) local: SocketAddr,
    /// The server.
    pub(super) destination: SocketAddr,
    /// Whether the SYN had to be sent again, so that `at` may be too early.
    pub(super) repeated: bool,
    /// Open until the survey ends, lest the router forget a mapping that others depend on.
    pub(super) dial: Option<Dial>,
    asked: Instant,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Connecting,
    Waiting(Response),
    Over(Result<(Binding, Duration), SurveyError>),
}

/// A survey's questions so far.
#[derive(Debug)]
pub(super) struct Round {
    pub(super) questions: Vec<Question>,
    began: Instant,
    deadline: Instant,
    timeout: Duration,
}

impl Round {
    pub(super) fn new(timeout: Duration) -> Self {
        let began = Instant::now();
        Self { questions: Vec::new(), began, deadline: began + timeout, timeout }
    }

    /// Asks from each local endpoint to each server, in this order, and waits for the answers.
    pub(super) fn ask(
        &mut self,
        tuples: impl IntoIterator<Item = (SocketAddr, SocketAddr)>,
    ) -> Result<(), SurveyError> {
        self.ask_aloud(tuples, &mut |_, _| {})
    }

    /// Likewise, and tells of each answer as soon as it is there.
    pub(super) fn ask_aloud(
        &mut self,
        tuples: impl IntoIterator<Item = (SocketAddr, SocketAddr)>,
        tell: &mut dyn FnMut(&Question, &Binding),
    ) -> Result<(), SurveyError> {
        let mut queue: VecDeque<_> = tuples.into_iter().collect();
        let mut due = Instant::now();
        loop {
            let now = Instant::now();
            if now >= due
                && let Some((local, destination)) = queue.pop_front()
            {
                let question = Question::ask(local, destination);
                if question.meets_predecessor() && self.began.elapsed() < CLOSING_PATIENCE {
                    queue.push_front((local, destination));
                    due = Instant::now() + CLOSING_LOOK;
                } else {
                    self.questions.push(question);
                    due = Instant::now() + GAP;
                }
            }
            let until = if queue.is_empty() { self.patience() } else { due.min(self.deadline) };
            if self.pending().next().is_none() && queue.is_empty() {
                return Ok(());
            }
            if now >= until && (queue.is_empty() || now >= self.deadline) {
                self.give_up();
                return Ok(());
            }
            self.wait(until.saturating_duration_since(now), tell)?;
        }
    }

    /// What the servers said, in the order of the questions.
    pub(super) fn answers(&self) -> impl Iterator<Item = (&Question, &Binding)> {
        self.questions.iter().filter_map(|question| match &question.stage {
            Stage::Over(Ok((binding, _))) => Some((question, binding)),
            _ => None,
        })
    }

    /// What went wrong with which server, in the order of the questions.
    pub(super) fn errors(&self) -> impl Iterator<Item = (SocketAddr, &SurveyError)> {
        self.questions.iter().filter_map(|question| match &question.stage {
            Stage::Over(Err(error)) => Some((question.destination, error)),
            _ => None,
        })
    }

    fn pending(&mut self) -> impl Iterator<Item = &mut Question> {
        self.questions.iter_mut().filter(|question| !matches!(question.stage, Stage::Over(_)))
    }

    /// How long to wait after the last question.
    fn patience(&self) -> Instant {
        let took = self.questions.iter().filter_map(|question| match question.stage {
            Stage::Over(Ok((_, took))) => Some(took),
            _ => None,
        });
        match (took.max(), self.questions.last()) {
            (Some(slowest), Some(last)) => {
                self.deadline.min(last.asked + LEAST_PATIENCE.max(slowest * PATIENCE))
            }
            _ => self.deadline,
        }
    }

    fn give_up(&mut self) {
        let timeout = (self.answers().next().is_none()).then_some(self.timeout);
        for question in self.pending() {
            let server = question.destination;
            let within = timeout.unwrap_or(question.asked.elapsed());
            question.end(Err(match question.stage {
                Stage::Connecting => SurveyError::Silent { server, within },
                _ => SurveyError::Mute { server, within },
            }));
        }
    }

    /// Waits for the first answers, and takes them.
    fn wait(
        &mut self,
        most: Duration,
        tell: &mut dyn FnMut(&Question, &Binding),
    ) -> Result<(), SurveyError> {
        let mut ready = Vec::new();
        {
            let mut waiting = Vec::new();
            let mut places = Vec::new();
            for (place, question) in self.questions.iter().enumerate() {
                let wanted = match question.stage {
                    Stage::Connecting => PollFlags::POLLOUT,
                    Stage::Waiting(_) => PollFlags::POLLIN,
                    Stage::Over(_) => continue,
                };
                if let Some(dial) = &question.dial {
                    waiting.push(PollFd::new(dial.as_fd(), wanted));
                    places.push(place);
                }
            }
            match ppoll(&mut waiting, Some(TimeSpec::from_duration(most)), None) {
                Ok(_) => {}
                Err(Errno::EINTR) => return Ok(()),
                Err(errno) => return Err(CallFailed { call: "ppoll", errno }.into()),
            }
            for (place, polled) in places.into_iter().zip(&waiting) {
                if polled.any().unwrap_or(true) {
                    ready.push(place);
                }
            }
        }
        for place in ready {
            let question = &mut self.questions[place];
            question.proceed();
            if let Stage::Over(Ok((binding, _))) = &question.stage {
                tell(question, binding);
            }
        }
        Ok(())
    }
}

impl Question {
    fn ask(local: SocketAddr, destination: SocketAddr) -> Self {
        let (at, asked) = (clock::now(), Instant::now());
        let dial = Dial::new(local, destination);
        let (dial, stage) = match dial {
            Ok(dial) => (Some(dial), Stage::Connecting),
            Err(error) => (None, Stage::Over(Err(SurveyError::of_dial(destination, error)))),
        };
        let local = dial.as_ref().and_then(|dial| dial.local().ok()).unwrap_or(local);
        tracing::debug!("asking {destination} from {local}");
        Self { at, local, destination, repeated: false, dial, asked, stage }
    }

    pub(super) fn observation(&self, binding: &Binding) -> Observation {
        let Self { at, local, destination, .. } = *self;
        Observation { at, local, destination, external: binding.external }
    }

    fn meets_predecessor(&self) -> bool {
        matches!(self.stage, Stage::Over(Err(SurveyError::StillClosing(_))))
    }

    /// Does what the socket is ready for.
    fn proceed(&mut self) {
        let received = match &self.stage {
            Stage::Waiting(response) => response.received(),
            _ => 0,
        };
        if let Err(error) = self.try_proceed()
            && error.kind() != io::ErrorKind::WouldBlock
            && error.kind() != io::ErrorKind::Interrupted
        {
            let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
            self.end(Err(SurveyError::of_errno(self.destination, errno, received)));
        }
    }

    fn try_proceed(&mut self) -> io::Result<()> {
        let server = self.destination;
        let Some(dial) = &mut self.dial else { return Ok(()) };
        match &mut self.stage {
            Stage::Connecting => {
                dial.outcome()?;
                self.repeated = dial.repeated();
                let id = transaction_id()?;
                // Twenty bytes always fit into an empty send buffer.
                dial.write_all(&binding_request(id))?;
                self.stage = Stage::Waiting(Response::new(id, server));
            }
            Stage::Waiting(response) => {
                let mut piece = [0; 2048];
                let length = dial.read(&mut piece)?;
                let received = response.received();
                match response.push(&piece[..length]) {
                    Ok(Some(binding)) => self.end(Ok(binding)),
                    Err(why) => self.end(Err(SurveyError::NotABinding { server, why })),
                    Ok(None) if length == 0 => {
                        self.end(Err(SurveyError::ClosedEarly { server, received }));
                    }
                    Ok(None) => {}
                }
            }
            Stage::Over(_) => {}
        }
        Ok(())
    }

    fn end(&mut self, result: Result<Binding, SurveyError>) {
        match &result {
            Ok(binding) => {
                tracing::debug!(
                    "{}: {} seen as {}",
                    self.destination,
                    self.local,
                    binding.external
                );
            }
            Err(error) => tracing::debug!("{error}"),
        }
        self.stage = Stage::Over(result.map(|binding| (binding, self.asked.elapsed())));
    }
}

/// RFC 8489 section 5: one that nobody can guess.
pub(super) fn transaction_id() -> io::Result<TransactionId> {
    let mut random = [0; 12];
    getrandom::fill(&mut random).map_err(|_| io::Error::from(Errno::ENOSYS))?;
    Ok(TransactionId::new(random))
}
