//! The connection to the server.

use super::error::MeetError;
use crate::engine::stream::Stream;
use crate::rendezvous::{Purpose, Session};
use crate::sys::{CallFailed, clock};
use crate::wire::WallTime;
use nix::errno::Errno;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};

/// Of 4 KiB each, read in a row: a server that sends without end does not keep us from all else.
const PIECES: usize = 16;

/// A session and the socket that carries it.
pub(super) struct Line {
    /// Just before the SYN left: no later mapping may seem to be earlier.
    pub(super) began: WallTime,
    stream: Stream,
    /// What for; taken when it is connected.
    pub(super) purpose: Option<Purpose>,
    session: Option<Box<Session>>,
}

impl Line {
    /// Begins to connect, from `local`.
    pub(super) fn open(local: SocketAddr, server: SocketAddr) -> Result<Self, MeetError> {
        let began = clock::now();
        Ok(Self { began, stream: Stream::open(local, server)?, purpose: None, session: None })
    }

    /// Our end.
    pub(super) fn local(&self) -> Result<SocketAddr, MeetError> {
        self.stream.local()
    }

    pub(super) fn session(&mut self) -> Option<&mut Session> {
        self.session.as_deref_mut()
    }

    /// Whether it waits for room to send, or to be connected.
    pub(super) fn wants_to_write(&self) -> bool {
        self.stream.wants_to_write()
    }

    /// When [`Line::proceed`] has to be called though nothing has come in.
    pub(super) fn poll_timeout(&self) -> Option<WallTime> {
        match &self.session {
            None => Some(clock::now().after(self.stream.until_given_up())),
            Some(session) => Some(session.poll_timeout()),
        }
    }

    /// Does what the socket is ready for.
    pub(super) fn proceed(&mut self) -> Result<(), MeetError> {
        if self.session.is_none() {
            if !self.stream.is_connected()? {
                return Ok(());
            }
            let Some(purpose) = self.purpose.take() else { return Ok(()) };
            let mut random = [0; 32];
            getrandom::fill(&mut random)
                .map_err(|_| CallFailed { call: "getrandom", errno: Errno::ENOSYS })?;
            self.session = Some(Box::new(Session::new(purpose, random, clock::now())?));
        }
        let Some(session) = &mut self.session else { return Ok(()) };
        let mut piece = [0; 4096];
        for _ in 0..PIECES {
            let Some(length) = self.stream.read(&mut piece)? else { break };
            if let Err(error) = session.handle(&piece[..length], clock::now()) {
                // It need not arrive: the session is over either way.
                let _ = self.stream.send(session.output(clock::now()));
                return Err(error.into());
            }
        }
        session.handle_timeout(clock::now())?;
        self.flush()
    }

    /// Sends what there is to be said, and reads nothing: what has come in is to wake who waits.
    pub(super) fn flush(&mut self) -> Result<(), MeetError> {
        let Some(session) = &mut self.session else { return Ok(()) };
        self.stream.send(session.output(clock::now()))
    }
}

impl AsFd for Line {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::io::Write;
    use std::net::TcpListener;

    /// Who waits for the socket to become readable would not hear of what a flush has read.
    #[test]
    fn flushing_leaves_what_has_come_in_where_it_wakes_who_waits() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let local = "127.0.0.1:0".parse().unwrap();
        let mut line = Line::open(local, server.local_addr().unwrap()).unwrap();
        line.purpose = Some(Purpose::NewCode([7; 32]));
        let (mut accepted, _) = server.accept().unwrap();
        while line.session().is_none() {
            line.proceed().unwrap();
        }
        accepted.write_all(b"no frame").unwrap();
        let readable = |line: &Line, patience: u16| {
            let mut waiting = [PollFd::new(line.as_fd(), PollFlags::POLLIN)];
            poll(&mut waiting, PollTimeout::from(patience)) == Ok(1)
        };
        assert!(readable(&line, 5_000));
        line.flush().unwrap();
        assert!(readable(&line, 0));
        let _ = line.proceed();
        assert!(!readable(&line, 0));
    }
}
