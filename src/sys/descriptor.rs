//! Descriptors that change hands.

use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    ControlMessage, MsgFlags, SockType, UnixAddr, getpeername, getsockopt, sendmsg, sockopt,
};

/// Sends a copy of `descriptor` over the Unix stream socket `socket` with `SCM_RIGHTS`.
///
/// One zero byte travels with it, as OpenSSH's `mm_send_fd` sends it: a stream carries ancillary
/// data only beside at least one byte.
///
/// # Errors
/// What `sendmsg` or `poll` reported.
pub fn send(socket: BorrowedFd<'_>, descriptor: BorrowedFd<'_>) -> nix::Result<()> {
    let rights = [descriptor.as_raw_fd()];
    loop {
        let sent = sendmsg::<UnixAddr>(
            socket.as_raw_fd(),
            &[IoSlice::new(&[0])],
            &[ControlMessage::ScmRights(&rights)],
            MsgFlags::MSG_NOSIGNAL,
            None,
        );
        match sent {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            // Standard output may be non-blocking by another program's choice.
            Err(Errno::EAGAIN) => {
                let mut writable = [PollFd::new(socket, PollFlags::POLLOUT)];
                match poll(&mut writable, PollTimeout::NONE) {
                    Ok(_) | Err(Errno::EINTR) => {}
                    Err(error) => return Err(error),
                }
            }
            Err(error) => return Err(error),
        }
    }
}

/// Whether `descriptor` is a connected Unix stream socket, which is what [`send`] needs.
#[must_use]
pub fn is_unix_stream(descriptor: BorrowedFd<'_>) -> bool {
    getsockopt(&descriptor, sockopt::SockType) == Ok(SockType::Stream)
        && getpeername::<UnixAddr>(descriptor.as_raw_fd()).is_ok()
}

/// Makes a descriptor what a program expects of one that it is given: blocking.
///
/// # Errors
/// What `fcntl` reported.
pub fn set_blocking(descriptor: impl AsFd) -> nix::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(&descriptor, FcntlArg::F_GETFL)?);
    if flags.contains(OFlag::O_NONBLOCK) {
        fcntl(&descriptor, FcntlArg::F_SETFL(flags.difference(OFlag::O_NONBLOCK)))?;
    }
    Ok(())
}

/// Makes a descriptor return at once rather than wait.
///
/// # Errors
/// What `fcntl` reported.
pub fn set_nonblocking(descriptor: impl AsFd) -> nix::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(&descriptor, FcntlArg::F_GETFL)?);
    fcntl(
        &descriptor,
        FcntlArg::F_SETFL(flags.union(OFlag::O_NONBLOCK)),
    )
    .map(drop)
}

/// Keeps a descriptor out of the programs that we run.
///
/// # Errors
/// What `fcntl` reported.
pub fn set_close_on_exec(descriptor: impl AsFd) -> nix::Result<()> {
    fcntl(&descriptor, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map(drop)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::{FromRawFd, OwnedFd};
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

    use nix::sys::socket::{ControlMessageOwned, recvmsg};

    use super::*;

    /// Receives as `mm_receive_fd` does: one byte and one descriptor.
    #[allow(unsafe_code)]
    fn receive(socket: &UnixStream) -> OwnedFd {
        let mut byte = [0xff];
        let mut iov = [std::io::IoSliceMut::new(&mut byte)];
        let mut space = nix::cmsg_space!([std::os::fd::RawFd; 1]);
        let message =
            recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut iov, Some(&mut space), MsgFlags::empty())
                .unwrap();
        assert_eq!(message.bytes, 1);
        let descriptor = match message.cmsgs().unwrap().next() {
            Some(ControlMessageOwned::ScmRights(descriptors)) => descriptors[0],
            other => panic!("no descriptor came: {other:?}"),
        };
        assert_eq!(byte, [0]);
        // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
        unsafe { OwnedFd::from_raw_fd(descriptor) }
    }

    #[test]
    fn a_descriptor_survives_its_sender() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connection = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut peer, _) = listener.accept().unwrap();

        send(ours.as_fd(), connection.as_fd()).unwrap();
        drop((ours, connection));
        let mut received = TcpStream::from(receive(&theirs));
        received.write_all(b"ping").unwrap();
        drop(received);

        let mut heard = String::new();
        peer.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, "ping");
    }

    #[test]
    fn a_receiver_that_left_is_an_error_and_no_signal() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        assert_eq!(send(ours.as_fd(), ours.as_fd()), Err(Errno::EPIPE));
    }

    #[test]
    fn only_connected_unix_stream_sockets_count() {
        let (stream, _other) = UnixStream::pair().unwrap();
        assert!(is_unix_stream(stream.as_fd()));

        let (datagram, _other) = UnixDatagram::pair().unwrap();
        assert!(!is_unix_stream(datagram.as_fd()));
        let directory = tempfile::tempdir().unwrap();
        let listening = UnixListener::bind(directory.path().join("socket")).unwrap();
        assert!(!is_unix_stream(listening.as_fd()));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(!is_unix_stream(tcp.as_fd()));
        let file = tempfile::tempfile().unwrap();
        assert!(!is_unix_stream(file.as_fd()));
    }

    #[test]
    fn non_blocking_is_undone() {
        let (stream, _other) = UnixStream::pair().unwrap();
        set_nonblocking(&stream).unwrap();
        set_blocking(&stream).unwrap();
        let flags = OFlag::from_bits_retain(fcntl(&stream, FcntlArg::F_GETFL).unwrap());
        assert!(!flags.contains(OFlag::O_NONBLOCK));
    }
}
