//! The kernel sockets of a punch: made before the instant, the connection from the peer's SYN on.

use crate::punch::EstablishedTcb;
use crate::sys::{CallFailed, RepairSocket, predecessor};
use crate::wire::Tuple;
use nix::errno::Errno;
use std::net::SocketAddr;

/// The sockets as far as they have got.
///
/// A connection is installed when the peer's SYN comes in, before that is answered: the peer can
/// be established by the answer at the earliest, so the kernel hears every byte that it ever
/// sends, and the hand-over has nothing to carry. If the peer's SYN was not its last word, the
/// socket goes without a word (closing in repair sends nothing) and another takes its place.
#[derive(Debug)]
pub(super) struct Installation {
    spare: Option<(SocketAddr, RepairSocket)>,
    installed: Vec<(EstablishedTcb, RepairSocket)>,
}

/// An end that does not nominate answers wherever it is called, but keeps no more sockets than
/// this; the peer nominates one of the first.
const MOST_INSTALLED: usize = 16;

impl Installation {
    /// Makes a socket on the port that is likeliest to be needed.
    ///
    /// # Errors
    /// As [`RepairSocket::new`].
    pub(super) fn new(local: SocketAddr) -> Result<Self, CallFailed> {
        Ok(Self { spare: Some((local, RepairSocket::new(local)?)), installed: Vec::new() })
    }

    /// Installs this connection, unless it is already. Returns whether it was.
    ///
    /// # Errors
    /// As [`RepairSocket::establish`].
    pub(super) fn install(&mut self, tcb: &EstablishedTcb, tsval: u32) -> Result<bool, CallFailed> {
        if self.installed.iter().any(|(installed, _)| installed.is_same(tcb)) {
            return Ok(true);
        }
        // The endpoints have to be free before they are taken again.
        self.installed.retain(|(installed, _)| installed.tuple != tcb.tuple);
        if self.installed.len() >= MOST_INSTALLED {
            self.installed.remove(0);
        }
        let local = tcb.tuple.local;
        let socket = match self.spare.take_if(|(bound, _)| *bound == local) {
            Some((_, spare)) => spare,
            None => RepairSocket::new(local)?,
        };
        let socket = match socket.establish(tcb, tsval) {
            // Too many tuples to look at beforehand: a search may meet on one that is in TIME_WAIT.
            Err(failed) if failed.errno == Errno::EADDRNOTAVAIL => {
                drop(socket);
                predecessor::clear(tcb.tuple)?;
                let again = RepairSocket::new(local)?;
                again.establish(tcb, tsval)?;
                again
            }
            other => other.map(|()| socket)?,
        };
        self.installed.push((tcb.clone(), socket));
        Ok(false)
    }

    /// The socket of this connection, if it is installed. The others go.
    pub(super) fn take(&mut self, tuple: Tuple) -> Option<RepairSocket> {
        let installed = std::mem::take(&mut self.installed);
        installed.into_iter().find(|(tcb, _)| tcb.tuple == tuple).map(|(_, socket)| socket)
    }
}
