//! Two streams joined, each direction ending by itself.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{Shutdown, setsockopt, shutdown, sockopt};
use nix::unistd::{read, write};

use crate::sys::descriptor::set_nonblocking;

/// Large enough that the system calls cost little beside the copying.
const BUFFER_BYTES: usize = 128 * 1024;

/// What the connection is joined to.
#[derive(Debug)]
pub enum Local {
    /// Two one-way streams, a program's standard input and output.
    Streams {
        /// Its bytes go to the peer.
        input: OwnedFd,
        /// The peer's bytes go here. Dropping it should close the stream: hold no copy.
        output: OwnedFd,
    },
    /// A socket, both ways.
    Socket(OwnedFd),
}

/// Why a join ended before both directions had.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The peer reset the connection, or the network gave it up.
    #[error("connection lost: {0}")]
    Connection(#[source] io::Error),
    /// The local stream failed.
    #[error("local stream lost: {0}")]
    Local(#[source] io::Error),
    /// Whoever had it joined wants no more of it.
    #[error("ended from here")]
    Ended,
    /// A resource for joining could not be had.
    #[error("{0}")]
    Setup(#[source] io::Error),
}

/// Carries bytes both ways until both directions have ended, as `nc -N` does: the end of one
/// direction is passed on as the end of that direction alone.
///
/// A local output that nobody reads any more ends the join, and is no error. A lost connection
/// reaches a local socket as a reset, never as an ordinary end, and the other way round.
///
/// # Errors
/// [`JoinError`]. What had arrived before was written out.
pub fn join(connection: OwnedFd, local: Local) -> Result<(), JoinError> {
    let stop = EventFd::from_flags(EfdFlags::EFD_CLOEXEC)
        .map_err(|error| JoinError::Setup(error.into()))?;
    join_until(connection, local, &stop)
}

/// Likewise, until something is written to `stop`, which nothing else may use: both ends then see a
/// reset.
///
/// # Errors
/// As [`join`].
pub fn join_until(connection: OwnedFd, local: Local, stop: &EventFd) -> Result<(), JoinError> {
    // What was read at once should leave at once. A socket of another family has no such option.
    let _ = setsockopt(&connection, sockopt::TcpNoDelay, &true);
    let (sent_all, received_all) = (AtomicBool::new(false), AtomicBool::new(false));
    let (input, mut output) = match local {
        Local::Streams { input, output } => (End::Stream(input), Some(End::Stream(output))),
        Local::Socket(socket) => {
            let _ = setsockopt(&socket, sockopt::TcpNoDelay, &true);
            let twin = socket.try_clone().map_err(JoinError::Setup)?;
            (End::Socket(socket), Some(End::Socket(twin)))
        }
    };
    let connection = End::Socket(connection);
    for end in [&connection, &input] {
        end.never_block().map_err(|error| JoinError::Setup(error.into()))?;
    }

    let (sending, receiving) = std::thread::scope(|scope| {
        let sending = std::thread::Builder::new()
            .name("to peer".into())
            .spawn_scoped(scope, || {
                let ended = carry(&input, &connection, stop, &received_all)
                    .and_then(|()| finish(&connection, &sent_all));
                // A lost connection ends the other direction by itself, after what had arrived.
                if matches!(ended, Err(Stopped::Source(_))) {
                    stop_all(stop);
                }
                ended
            })
            .map_err(JoinError::Setup)?;
        let receiving = match &output {
            Some(end) => {
                carry(&connection, end, stop, &sent_all).and_then(|()| finish(end, &received_all))
            }
            None => Ok(()),
        };
        match receiving {
            // Dropping it is what closes a stream that is no socket.
            Ok(()) => output = None,
            Err(_) => stop_all(stop),
        }
        let sending = sending.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok::<_, JoinError>((sending, receiving))
    })?;
    tracing::debug!(?sending, ?receiving, "join ended");

    let outcome = match (receiving, sending) {
        (Err(Stopped::Source(error)), _) | (_, Err(Stopped::Sink(error))) => {
            Err(JoinError::Connection(error))
        }
        (Err(Stopped::Sink(error)), _)
            if error.kind() == ErrorKind::BrokenPipe && !input.is_socket() =>
        {
            return Ok(());
        }
        (Err(Stopped::Sink(error)), _) | (_, Err(Stopped::Source(error))) => {
            Err(JoinError::Local(error))
        }
        // Neither direction asked the other to end.
        (Err(Stopped::Asked), _) | (_, Err(Stopped::Asked)) => Err(JoinError::Ended),
        (Ok(()), Ok(())) => return Ok(()),
    };
    // Closed like this the sockets answer with a reset: a cut stream must not look complete.
    for end in [&connection, &input] {
        end.close_with_reset();
    }
    outcome
}

/// One end of one direction.
#[derive(Debug)]
enum End {
    Stream(OwnedFd),
    Socket(OwnedFd),
}

impl End {
    fn is_socket(&self) -> bool {
        matches!(self, Self::Socket(_))
    }

    /// So that a stop also reaches a direction that waits to write. Only sockets: these are ours
    /// alone, where a terminal's or a pipe's mode would change for other programs too.
    fn never_block(&self) -> nix::Result<()> {
        match self {
            Self::Socket(socket) => set_nonblocking(socket),
            Self::Stream(_) => Ok(()),
        }
    }

    fn close_with_reset(&self) {
        if let Self::Socket(socket) = self {
            let at_once = libc::linger { l_onoff: 1, l_linger: 0 };
            let _ = setsockopt(socket, sockopt::Linger, &at_once);
        }
    }
}

impl AsFd for End {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Stream(descriptor) | Self::Socket(descriptor) => descriptor.as_fd(),
        }
    }
}

/// Why a direction ended other than by the end of its source.
#[derive(Debug)]
enum Stopped {
    Source(io::Error),
    Sink(io::Error),
    /// The other direction failed.
    Asked,
}

/// Copies until the source ends. `opposite_over`: the other direction has ended in good order.
fn carry(
    source: &End,
    sink: &End,
    stop: &EventFd,
    opposite_over: &AtomicBool,
) -> Result<(), Stopped> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        wait(source, PollFlags::POLLIN, Some(sink), stop)?;
        match read(source, &mut buffer) {
            Ok(0) => {
                // A reset is reported once, and the other direction's write may have had it.
                // A socket is closed both ways although we have not closed ours: that is a reset.
                if source.is_socket()
                    && !opposite_over.load(Ordering::Acquire)
                    && hung_up(source).map_err(|error| Stopped::Source(error.into()))?
                {
                    return Err(Stopped::Source(ErrorKind::ConnectionReset.into()));
                }
                return Ok(());
            }
            Ok(count) => write_all(sink, &buffer[..count], stop)?,
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(error) => return Err(Stopped::Source(error.into())),
        }
    }
}

fn write_all(sink: &End, mut bytes: &[u8], stop: &EventFd) -> Result<(), Stopped> {
    while !bytes.is_empty() {
        match write(sink, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => wait(sink, PollFlags::POLLOUT, None, stop)?,
            Err(error) => return Err(Stopped::Sink(error.into())),
        }
    }
    Ok(())
}

/// Tells the sink that no more comes.
fn finish(sink: &End, over: &AtomicBool) -> Result<(), Stopped> {
    over.store(true, Ordering::Release);
    match shutdown_writing(sink) {
        Ok(()) => Ok(()),
        Err(Errno::ENOTSOCK) => Ok(()),
        // It was reset meanwhile.
        Err(Errno::ENOTCONN) if sink.is_socket() => {
            Err(Stopped::Sink(ErrorKind::ConnectionReset.into()))
        }
        Err(Errno::ENOTCONN) => Ok(()),
        Err(error) => Err(Stopped::Sink(error.into())),
    }
}

fn shutdown_writing(sink: &End) -> nix::Result<()> {
    use std::os::fd::AsRawFd;
    shutdown(sink.as_fd().as_raw_fd(), Shutdown::Write)
}

/// Waits until `end` is ready for `wanted`, `watched` is beyond use, or a stop is asked for.
fn wait(
    end: &End,
    wanted: PollFlags,
    watched: Option<&End>,
    stop: &EventFd,
) -> Result<(), Stopped> {
    let mut waiting =
        vec![PollFd::new(stop.as_fd(), PollFlags::POLLIN), PollFd::new(end.as_fd(), wanted)];
    // Without a wanted event poll reports only errors and hang-ups.
    waiting.extend(watched.map(|end| PollFd::new(end.as_fd(), PollFlags::empty())));
    loop {
        match poll(&mut waiting, PollTimeout::NONE) {
            Ok(_) => break,
            Err(Errno::EINTR) => {}
            Err(error) => return Err(Stopped::Source(error.into())),
        }
    }
    let happened = |index: usize| waiting.get(index).is_some_and(|it| it.any().unwrap_or(true));
    if happened(0) {
        Err(Stopped::Asked)
    } else if happened(2) && !happened(1) {
        let kind = match watched {
            Some(End::Socket(_)) => ErrorKind::ConnectionReset,
            _ => ErrorKind::BrokenPipe,
        };
        Err(Stopped::Sink(kind.into()))
    } else {
        Ok(())
    }
}

/// Whether a socket is closed in both directions.
fn hung_up(end: &End) -> nix::Result<bool> {
    let mut asked = [PollFd::new(end.as_fd(), PollFlags::empty())];
    poll(&mut asked, PollTimeout::ZERO)?;
    Ok(asked[0].revents().is_some_and(|it| it.intersects(PollFlags::POLLHUP | PollFlags::POLLERR)))
}

fn stop_all(stop: &EventFd) {
    // The counter cannot overflow: each direction adds one.
    let _ = stop.write(1);
}
