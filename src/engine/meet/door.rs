//! A way that needs no punch: a router leads a port of its own to one end, because it was asked to.
//! That end listens there, and the other one connects as any client does.

use super::attempts::Fault;
use crate::engine::Connection;
use crate::engine::error::{Failure, PunchError};
use crate::engine::report::Report;
use crate::sys::{CallFailed, clock, wait_readable};
use crate::wire::{Tuple, WallTime};
use nix::errno::Errno;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// Where to connect, or to be connected to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Door {
    /// Our end.
    pub(super) local: SocketAddr,
    /// The peer's, as we reach it.
    pub(super) remote: SocketAddr,
    /// Whether the peer comes to us.
    pub(super) is_ours: bool,
    /// The agreed instant, from which times are counted.
    pub(super) at: WallTime,
    /// How long to try.
    pub(super) patience: Duration,
}

/// Between two tries: the other end may not listen yet.
const PAUSE: Duration = Duration::from_millis(25);
/// One try: a SYN that is lost is sent again after a second.
const TRY: Duration = Duration::from_millis(1500);

impl Door {
    /// Calls `take` with each connection until it keeps one.
    pub(super) fn open(
        &self,
        interrupt: BorrowedFd<'_>,
        take: &mut dyn FnMut(Connection) -> Result<Box<Connection>, Fault>,
    ) -> Result<Box<Connection>, Fault> {
        let deadline = Instant::now() + self.patience;
        let mut last = None;
        let listener = self.is_ours.then(|| TcpListener::bind(self.local)).transpose();
        let listener = listener.map_err(|error| fault(&error, "bind(SOCK_STREAM)"))?;
        if let Some(listener) = &listener {
            listener.set_nonblocking(true).map_err(|error| fault(&error, "fcntl"))?;
        }
        while Instant::now() < deadline {
            let stream = match &listener {
                Some(listener) => accept(listener),
                None => TcpStream::connect_timeout(&self.remote, TRY),
            };
            match stream {
                Ok(stream) => match take(self.connection(stream)) {
                    Ok(connection) => return Ok(connection),
                    // Somebody else may have found the door; the peer is still to come.
                    Err(other) => last = Some(other),
                },
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => last = Some(fault(&error, "connect(SOCK_STREAM)")),
            }
            let (sockets, most) = match &listener {
                Some(listener) => (vec![listener.as_fd()], deadline - Instant::now().min(deadline)),
                None => (vec![], PAUSE),
            };
            match wait_readable(&sockets, Some(interrupt), most) {
                Ok(false) => {}
                Ok(true) => return Err(failed(PunchError::Interrupted)),
                Err(error) => return Err(failed(PunchError::Call(error))),
            }
        }
        let nobody = CallFailed { call: "connect(SOCK_STREAM)", errno: Errno::ETIMEDOUT };
        Err(last.unwrap_or_else(|| failed(PunchError::Call(nobody))))
    }

    fn connection(&self, stream: TcpStream) -> Connection {
        let local = stream.local_addr().unwrap_or(self.local);
        let remote = stream.peer_addr().unwrap_or(self.remote);
        let _ = stream.set_nonblocking(false);
        let established = clock::now().ns_since(self.at);
        let report = Report::without_punch(Tuple { local, remote }, self.at, established);
        Connection { fd: OwnedFd::from(stream), report }
    }
}

fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    listener.accept().map(|(stream, _)| stream)
}

fn fault(error: &io::Error, call: &'static str) -> Fault {
    let errno = error.raw_os_error().map_or(Errno::ETIMEDOUT, Errno::from_raw);
    failed(PunchError::Call(CallFailed { call, errno }))
}

fn failed(error: PunchError) -> Fault {
    Fault::Punch(Failure { error, report: None })
}
