//! Both ends of a connection that stands prove to each other that they are those who met, before
//! any byte of the program flows.
//!
//! Each end says 32 bytes first, which take the key to make and are different for each end and
//! each meeting. The controlling end says them on one connection only: that chooses it. No more
//! than these bytes is read, so that what follows is the program's.

use crate::rendezvous::{Role, Secrets};
use crate::sys::wait_readable;
use nix::sys::socket::{MsgFlags, recv};
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

const LENGTH: usize = 32;
const ABOUT: &[u8] = b"connection";

/// The proofs of one meeting.
#[derive(Clone)]
pub(super) struct Proofs {
    ours: [u8; LENGTH],
    theirs: [u8; LENGTH],
}

/// Why a connection is not the one.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unproven {
    /// Somebody else is at the other end.
    #[error("whoever answered does not hold the key")]
    Stranger,
    /// Nothing came.
    #[error("the connection stood, but the peer said nothing on it within {0:?}")]
    Silent(Duration),
    /// The peer chose another one.
    #[error("another way was faster")]
    NotChosen,
    /// It broke.
    #[error("the connection stood and broke: {0}")]
    Broken(#[from] io::Error),
}

impl Proofs {
    /// As the key makes them.
    pub(super) fn of(secrets: &Secrets) -> Self {
        let (ours, theirs) = match secrets.role() {
            Role::Controlling => (Role::Controlling, Role::Controlled),
            Role::Controlled => (Role::Controlled, Role::Controlling),
        };
        Self { ours: secrets.proof(ours, ABOUT), theirs: secrets.proof(theirs, ABOUT) }
    }

    /// Says ours and waits for theirs, on an established connection, which comes back.
    pub(super) fn exchange(
        &self,
        connection: OwnedFd,
        patience: Duration,
        interrupt: BorrowedFd<'_>,
    ) -> Result<OwnedFd, Unproven> {
        let mut stream = File::from(connection);
        // 32 bytes always fit into an empty send buffer.
        stream.write_all(&self.ours)?;
        let deadline = Instant::now() + patience;
        let mut said = [0; LENGTH];
        let mut length = 0;
        while length < LENGTH {
            let remaining = deadline.saturating_duration_since(Instant::now());
            if remaining.is_zero() {
                return Err(Unproven::Silent(patience));
            }
            match wait_readable(&[stream.as_fd()], Some(interrupt), remaining) {
                Ok(true) => return Err(Unproven::NotChosen),
                Ok(false) => {}
                Err(failed) => return Err(io::Error::from(failed.errno).into()),
            }
            match read_now(&stream, &mut said[length..]) {
                Ok(0) => return Err(Unproven::NotChosen),
                Ok(more) => length += more,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                    return Err(Unproven::NotChosen);
                }
                Err(error) => return Err(error.into()),
            }
        }
        match blake3::Hash::from(said) == blake3::Hash::from(self.theirs) {
            true => Ok(stream.into()),
            false => Err(Unproven::Stranger),
        }
    }
}

/// Reads what is there, and never waits: the socket may be a blocking one, and a call may have been
/// interrupted.
fn read_now(stream: &File, into: &mut [u8]) -> io::Result<usize> {
    recv(stream.as_raw_fd(), into, MsgFlags::MSG_DONTWAIT).map_err(io::Error::from)
}
