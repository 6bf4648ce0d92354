//! A connection to a tcp-punch server: it tells where it comes from, and has the server send SYNs.

use crate::engine::survey::SurveyError;
use crate::rendezvous::{Answer, Frames, Origin, Reaction, Request, frame, greeting};
use crate::sys::{CallFailed, Dial, Guard, GuardError};
use crate::wire::Nonsense;
use nix::errno::Errno;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// What the server says of itself and of us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Welcome {
    pub(super) observed: SocketAddr,
    pub(super) other_port: Option<SocketAddr>,
    pub(super) other_address: Option<SocketAddr>,
}

/// What came of a SYN that the server was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Probed {
    pub(super) id: u32,
    pub(super) reaction: Reaction,
    pub(super) after: Duration,
}

/// One connection from a port of its own.
#[derive(Debug)]
pub(super) struct Line {
    dial: Dial,
    server: SocketAddr,
    pub(super) local: SocketAddr,
    stage: Stage,
    frames: Frames,
    began: Instant,
    /// How long the TCP handshake took.
    pub(super) round_trip: Option<Duration>,
    pub(super) welcome: Option<Welcome>,
    pub(super) probed: Vec<Probed>,
    guard: Option<Guard>,
}

#[derive(Debug)]
enum Stage {
    Connecting,
    Talking,
    /// `None`: the server speaks something else, or ended it.
    Over(Option<SurveyError>),
}

impl Line {
    /// Connects from `local`, whose port may be 0 for any.
    pub(super) fn open(local: SocketAddr, server: SocketAddr) -> Result<Self, SurveyError> {
        let began = Instant::now();
        let dial = Dial::new(local, server).map_err(|error| SurveyError::of_dial(server, error))?;
        let local = dial.local().map_err(|error| failed("getsockname", &error))?;
        Ok(Self {
            dial,
            server,
            local,
            stage: Stage::Connecting,
            frames: Frames::default(),
            began,
            round_trip: None,
            welcome: None,
            probed: Vec::new(),
            guard: None,
        })
    }

    /// When its SYN left.
    pub(super) fn began(&self) -> Instant {
        self.began
    }

    /// Whether it is connected, or still may be.
    pub(super) fn is_open(&self) -> bool {
        !matches!(self.stage, Stage::Over(_))
    }

    /// Why it never stood.
    pub(super) fn error(&self) -> Option<&SurveyError> {
        match &self.stage {
            Stage::Over(error) => error.as_ref(),
            _ => None,
        }
    }

    /// Whether it waits to be connected, rather than for something to read.
    pub(super) fn is_connecting(&self) -> bool {
        matches!(self.stage, Stage::Connecting)
    }

    /// SYNs to this port are let pass by the kernel unanswered from now on.
    pub(super) fn guard(&mut self) -> Result<(), GuardError> {
        if self.guard.is_none() {
            self.guard = Some(Guard::new(self.local)?);
        }
        Ok(())
    }

    /// Asks for a SYN to the mapping of this connection.
    pub(super) fn probe(&mut self, id: u32, from: Origin) {
        let Some(Welcome { observed: mapping, .. }) = self.welcome else { return };
        let sent = frame(&Request::Probe { id, from, mapping })
            .map_err(|_| io::Error::from(Errno::EMSGSIZE))
            .and_then(|bytes| self.dial.write_all(&bytes));
        if let Err(error) = sent {
            tracing::debug!("{}: {error}", self.server);
            self.stage = Stage::Over(None);
        }
    }

    /// Does what the socket is ready for.
    pub(super) fn proceed(&mut self) {
        let connecting = self.is_connecting();
        match self.try_proceed() {
            Ok(()) => {}
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) => {}
            Err(error) => {
                let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
                let error = SurveyError::of_errno(self.server, errno, 0);
                tracing::debug!("{error}");
                self.stage = Stage::Over(connecting.then_some(error));
            }
        }
    }

    fn try_proceed(&mut self) -> io::Result<()> {
        match self.stage {
            Stage::Connecting => {
                self.dial.outcome()?;
                self.round_trip = Some(self.began.elapsed());
                self.dial.write_all(&greeting())?;
                self.stage = Stage::Talking;
            }
            Stage::Talking => {
                let mut piece = [0; 2048];
                let length = self.dial.read(&mut piece)?;
                if length == 0 {
                    self.stage = Stage::Over(None);
                }
                self.frames.extend(&piece[..length]);
                loop {
                    match self.frames.take::<Answer>() {
                        Ok(Some(answer)) => self.take(answer),
                        Ok(None) => break,
                        Err(error) => {
                            tracing::debug!("{}: {error}", self.server);
                            self.stage = Stage::Over(None);
                            break;
                        }
                    }
                }
            }
            Stage::Over(_) => {}
        }
        Ok(())
    }

    fn take(&mut self, answer: Answer) {
        match answer {
            Answer::Welcome { observed, other_port, other_address } => {
                let usable = |at: &SocketAddr| Nonsense::of(*at, self.server).is_none();
                if !usable(&observed) {
                    tracing::warn!("{} says that we come from {observed}", self.server);
                    self.stage = Stage::Over(None);
                    return;
                }
                // The server's other port has to be at its own address, and its other address to
                // be another one: a SYN is sent to the one and awaited from both.
                let ip = self.server.ip();
                self.welcome = Some(Welcome {
                    observed,
                    other_port: other_port.filter(|at| at.ip() == ip && *at != self.server),
                    other_address: other_address
                        .into_iter()
                        .find(|at| at.ip() != ip && at.port() == self.server.port())
                        .filter(usable)
                        .filter(|at| at.is_ipv4() == self.server.is_ipv4()),
                });
            }
            Answer::Probed { id, reaction, after_ms } => {
                let after = Duration::from_millis(after_ms.into());
                tracing::debug!("{}: SYN {id} {reaction:?} after {after_ms} ms", self.server);
                self.probed.push(Probed { id, reaction, after });
            }
            Answer::Refused(refusal) => {
                tracing::warn!("{}: {refusal}", self.server);
                self.stage = Stage::Over(None);
            }
            _ => {}
        }
    }

    /// Ends it with a reset, which leaves nothing behind here or in the router.
    pub(super) fn end(self) {
        drop(self.guard);
        self.dial.reset();
    }
}

impl AsFd for Line {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dial.as_fd()
    }
}

fn failed(call: &'static str, error: &io::Error) -> SurveyError {
    let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
    SurveyError::Call(CallFailed { call, errno })
}
