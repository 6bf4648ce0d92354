//! The connection to a server, as bytes. Nothing here blocks.

use super::MeetError;
use crate::sys::{CallFailed, Dial};
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// A server that has not answered in this time is not there.
const CONNECTING: Duration = Duration::from_secs(5);

/// A socket, and what waits to be sent on it.
#[derive(Debug)]
pub(super) struct Stream {
    server: SocketAddr,
    dial: Dial,
    began: Instant,
    connected: bool,
    outgoing: Vec<u8>,
}

impl Stream {
    /// Begins to connect, from `local`.
    pub(super) fn open(local: SocketAddr, server: SocketAddr) -> Result<Self, MeetError> {
        let dial = Dial::new(local, server).map_err(|error| MeetError::of_dial(local, error))?;
        // Otherwise a clock's second question waits until the first is acknowledged, a round trip.
        setsockopt(&dial, sockopt::TcpNoDelay, &true)
            .map_err(|errno| CallFailed { call: "setsockopt(TCP_NODELAY)", errno })?;
        let (began, outgoing) = (Instant::now(), Vec::new());
        Ok(Self { server, dial, began, connected: false, outgoing })
    }

    /// Our end.
    pub(super) fn local(&self) -> Result<SocketAddr, MeetError> {
        self.dial.local().map_err(|error| self.lost(&error))
    }

    /// Whether it stands.
    pub(super) fn is_connected(&mut self) -> Result<bool, MeetError> {
        if !self.connected {
            if self.until_given_up().is_zero() {
                return Err(MeetError::Silent { server: self.server, within: CONNECTING });
            }
            self.connected = self.dial.is_connected().map_err(|error| self.lost(&error))?;
        }
        Ok(self.connected)
    }

    /// How long it may still take to connect.
    pub(super) fn until_given_up(&self) -> Duration {
        CONNECTING.saturating_sub(self.began.elapsed())
    }

    /// Whether it waits for room to send, or to be connected.
    pub(super) fn wants_to_write(&self) -> bool {
        !self.connected || !self.outgoing.is_empty()
    }

    /// The length of what has come; `None` if there is nothing more now.
    pub(super) fn read(&mut self, into: &mut [u8]) -> Result<Option<usize>, MeetError> {
        loop {
            match self.dial.read(into) {
                Ok(0) => return Err(MeetError::Closed(self.server)),
                Ok(length) => return Ok(Some(length)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.lost(&error)),
            }
        }
    }

    /// Sends this, after what still waits, as far as there is room.
    pub(super) fn send(&mut self, bytes: Vec<u8>) -> Result<(), MeetError> {
        self.outgoing.extend(bytes);
        while !self.outgoing.is_empty() {
            match self.dial.write(&self.outgoing) {
                Ok(length) => drop(self.outgoing.drain(..length)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.lost(&error)),
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

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dial.as_fd()
    }
}
