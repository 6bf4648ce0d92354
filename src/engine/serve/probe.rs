//! Connections that the server opens towards a client, to see what the routers there make of them.

use super::hub::{Hub, Probe, Shared};
use crate::rendezvous::Reaction;
use crate::sys::{CallFailed, Dial, DialError};
use nix::errno::Errno;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A router that holds a SYN says so after six seconds (RFC 5382 REQ-4), and the first SYN may
/// have been lost and its repetition, a second later, be the one that it holds.
const PATIENCE: Duration = Duration::from_millis(7500);

/// Probes under way at once: each is a descriptor.
const MAX_PROBING: usize = 1024;

/// Starts the probes that were asked for.
pub(super) fn start(hub: &mut Hub, shared: &Shared) {
    for probe in std::mem::take(&mut hub.probes) {
        if hub.probing >= MAX_PROBING {
            hub.server.probed(probe.asked_by, probe.id, Reaction::NotSent, Duration::ZERO);
            hub.pump(0);
        } else {
            hub.probing += 1;
            tokio::spawn(run(probe, shared.clone()));
        }
    }
}

async fn run(probe: Probe, shared: Shared) {
    let began = Instant::now();
    let reaction = reaction(probe.from, probe.to).await;
    let mut hub = shared.lock();
    hub.probing -= 1;
    hub.server.probed(probe.asked_by, probe.id, reaction, began.elapsed());
    hub.pump(0);
}

async fn reaction(from: SocketAddr, to: SocketAddr) -> Reaction {
    let dial = match Dial::from_listening_port(from, to) {
        Ok(dial) => dial,
        // Over the loopback interface the answer is there before connect(2) returns.
        Err(DialError::Call(CallFailed { call: "connect(SOCK_STREAM)", errno })) => {
            return if errno == Errno::ECONNREFUSED { Reaction::Reset } else { Reaction::NotSent };
        }
        Err(error) => {
            tracing::debug!(%error, "a probe could not be sent");
            return Reaction::NotSent;
        }
    };
    let Ok(stream) = TcpStream::from_std(dial.into()) else { return Reaction::NotSent };
    if timeout(PATIENCE, stream.writable()).await.is_err() {
        return Reaction::Silent;
    }
    let Ok(stream) = stream.into_std() else { return Reaction::NotSent };
    let dial = Dial::from(stream);
    match dial.outcome() {
        Ok(()) => {
            dial.reset();
            Reaction::Answered
        }
        Err(_) if dial.ended_by_icmp() => Reaction::Unreachable,
        Err(error) => match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ECONNREFUSED | Errno::ECONNRESET) => Reaction::Reset,
            Some(Errno::ETIMEDOUT) => Reaction::Silent,
            _ => Reaction::Unreachable,
        },
    }
}
