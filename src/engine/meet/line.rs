//! The connection to the server.

use super::error::MeetError;
use crate::rendezvous::{Purpose, Session};
use crate::sys::{CallFailed, Dial, clock};
use crate::wire::WallTime;
use nix::errno::Errno;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// A server that has not answered in this time is not there.
const CONNECTING: Duration = Duration::from_secs(5);

/// A session and the socket that carries it.
pub(super) struct Line {
    server: SocketAddr,
    dial: Dial,
    began: Instant,
    /// What for; taken when it is connected.
    pub(super) purpose: Option<Purpose>,
    session: Option<Box<Session>>,
    outgoing: Vec<u8>,
}

impl Line {
    /// Begins to connect, from `local`.
    pub(super) fn open(local: SocketAddr, server: SocketAddr) -> Result<Self, MeetError> {
        let dial = Dial::new(local, server).map_err(|error| MeetError::of_dial(local, error))?;
        let (began, outgoing) = (Instant::now(), Vec::new());
        Ok(Self { server, dial, began, purpose: None, session: None, outgoing })
    }

    /// Our end.
    pub(super) fn local(&self) -> Result<SocketAddr, MeetError> {
        self.dial.local().map_err(|error| self.lost(&error))
    }

    pub(super) fn session(&mut self) -> Option<&mut Session> {
        self.session.as_deref_mut()
    }

    /// Whether it waits for room to send, or to be connected.
    pub(super) fn wants_to_write(&self) -> bool {
        self.session.is_none() || !self.outgoing.is_empty()
    }

    /// When [`Line::proceed`] has to be called though nothing has come in.
    pub(super) fn poll_timeout(&self) -> Option<WallTime> {
        match &self.session {
            None => Some(clock::now().after(CONNECTING.saturating_sub(self.began.elapsed()))),
            Some(session) => session.poll_timeout(),
        }
    }

    /// Does what the socket is ready for.
    pub(super) fn proceed(&mut self) -> Result<(), MeetError> {
        match self.try_proceed() {
            Ok(()) => Ok(()),
            Err(Stopped::Meet(error)) => Err(error),
            Err(Stopped::Io(error)) => Err(self.lost(&error)),
        }
    }

    fn try_proceed(&mut self) -> Result<(), Stopped> {
        if self.session.is_none() {
            if self.began.elapsed() >= CONNECTING {
                let server = self.server;
                return Err(MeetError::Silent { server, within: CONNECTING }.into());
            }
            if !self.dial.is_connected()? {
                return Ok(());
            }
            let Some(purpose) = self.purpose.take() else { return Ok(()) };
            let mut random = [0; 32];
            getrandom::fill(&mut random).map_err(|_| io::Error::from(Errno::ENOSYS))?;
            let session = Session::new(purpose, random, clock::now()).map_err(MeetError::from)?;
            self.session = Some(Box::new(session));
        }
        self.read()?;
        self.flush()
    }

    fn read(&mut self) -> Result<(), Stopped> {
        let Some(session) = &mut self.session else { return Ok(()) };
        let mut piece = [0; 4096];
        loop {
            match self.dial.read(&mut piece) {
                Ok(0) => return Err(MeetError::Closed(self.server).into()),
                Ok(length) => {
                    session.handle(&piece[..length], clock::now()).map_err(MeetError::from)?;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends what the session has to say.
    fn flush(&mut self) -> Result<(), Stopped> {
        let Some(session) = &mut self.session else { return Ok(()) };
        self.outgoing.extend(session.output(clock::now()));
        while !self.outgoing.is_empty() {
            match self.dial.write(&self.outgoing) {
                Ok(length) => drop(self.outgoing.drain(..length)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn lost(&self, error: &io::Error) -> MeetError {
        let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
        match errno {
            Errno::ECONNREFUSED => MeetError::NobodyListens(self.server),
            Errno::ETIMEDOUT => {
                MeetError::Silent { server: self.server, within: self.began.elapsed() }
            }
            Errno::ECONNRESET | Errno::EPIPE => MeetError::Closed(self.server),
            errno => MeetError::Call(CallFailed { call: "connect(SOCK_STREAM)", errno }),
        }
    }
}

impl AsFd for Line {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dial.as_fd()
    }
}

/// Why nothing more can be done.
enum Stopped {
    Meet(MeetError),
    Io(io::Error),
}

impl From<MeetError> for Stopped {
    fn from(error: MeetError) -> Self {
        Self::Meet(error)
    }
}

impl From<io::Error> for Stopped {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}
