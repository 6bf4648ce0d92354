//! The kernel socket of an attempt: made before the instant, the connection from the peer's SYN on.

use crate::punch::EstablishedTcb;
use crate::sys::{CallFailed, RepairSocket};
use std::net::SocketAddr;

/// The socket as far as it has got.
///
/// A connection is installed when the peer's SYN comes in, before that is answered: the peer can
/// be established by the answer at the earliest, so the kernel hears every byte that it ever
/// sends, and the hand-over has nothing to carry. If the peer's SYN was not its last word, the
/// socket goes without a word (closing in repair sends nothing) and another takes its place.
#[derive(Debug)]
pub(super) struct Installation {
    local: SocketAddr,
    spare: Option<RepairSocket>,
    installed: Option<(EstablishedTcb, RepairSocket)>,
}

impl Installation {
    /// Makes the socket.
    ///
    /// # Errors
    /// As [`RepairSocket::new`].
    pub(super) fn new(local: SocketAddr) -> Result<Self, CallFailed> {
        Ok(Self { local, spare: Some(RepairSocket::new(local)?), installed: None })
    }

    /// Makes it this connection, unless it is already. Returns whether it was.
    ///
    /// # Errors
    /// As [`RepairSocket::establish`].
    pub(super) fn install(&mut self, tcb: &EstablishedTcb, tsval: u32) -> Result<bool, CallFailed> {
        if self.installed.as_ref().is_some_and(|(installed, _)| installed.is_same(tcb)) {
            return Ok(true);
        }
        // The endpoints have to be free before they are taken again.
        self.installed = None;
        let socket = match self.spare.take() {
            Some(spare) => spare,
            None => RepairSocket::new(self.local)?,
        };
        socket.establish(tcb, tsval)?;
        self.installed = Some((tcb.clone(), socket));
        Ok(false)
    }

    /// The socket of the connection, if one is installed.
    pub(super) fn take(&mut self) -> Option<RepairSocket> {
        self.installed.take().map(|(_, socket)| socket)
    }
}
