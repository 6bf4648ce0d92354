//! Takes connections in.

use super::connection;
use super::hub::{Outbox, Shared};
use crate::rendezvous::{Answer, GREETING, Refusal, frame};
use nix::errno::Errno;
use std::io;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

/// Without a free descriptor or memory: some connection will have ended by then.
const PAUSE: Duration = Duration::from_millis(100);

/// Connections that may be told at once that they are one too many; others are just closed.
const MAX_TURNING_AWAY: usize = 256;
/// How long such a one may take to show that it would understand.
const HEARING: Duration = Duration::from_secs(2);

/// Accepts connections for good.
pub(super) async fn accept(listener: TcpListener, shared: Shared) {
    let mut troubled = false;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                troubled = false;
                if let Err(error) = admit(stream, &shared) {
                    tracing::debug!(%error, "a connection had ended when it was accepted");
                }
            }
            Err(error) => {
                shared.lock().accept_errors += 1;
                if is_shortage(&error) {
                    if !std::mem::replace(&mut troubled, true) {
                        tracing::warn!(%error, "connections cannot be accepted for now");
                    }
                    sleep(PAUSE).await;
                }
                // Else it is an error of that one connection: accept(2), error handling.
            }
        }
    }
}

fn is_shortage(error: &io::Error) -> bool {
    let shortages = [Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::ENOMEM];
    error.raw_os_error().is_some_and(|raw| shortages.contains(&Errno::from_raw(raw)))
}

fn admit(stream: TcpStream, shared: &Shared) -> io::Result<()> {
    let (remote, local) = (stream.peer_addr()?, stream.local_addr()?);
    let mut hub = shared.lock();
    let now = hub.now();
    match hub.server.connect(remote, local, now) {
        Ok(id) => {
            hub.outboxes.insert(id, Outbox::default());
            tokio::spawn(connection::serve(stream, id, shared.clone()));
        }
        Err(refusal) if hub.turning_away < MAX_TURNING_AWAY => {
            hub.turning_away += 1;
            tokio::spawn(turn_away(stream, refusal, shared.clone()));
        }
        Err(_) => {}
    }
    Ok(())
}

/// Says why, if the client speaks our protocol.
async fn turn_away(stream: TcpStream, refusal: Refusal, shared: Shared) {
    let understands = timeout(HEARING, understands(&stream)).await == Ok(true);
    if understands && let Ok(bytes) = frame(&Answer::Refused(refusal)) {
        let _ = stream.try_write(&bytes);
        connection::linger(&stream, &shared).await;
    }
    shared.lock().turning_away -= 1;
}

/// Whether the client begins as ours do.
async fn understands(stream: &TcpStream) -> bool {
    let mut first = [0];
    while stream.readable().await.is_ok() {
        match stream.try_read(&mut first) {
            Ok(length) => return length > 0 && first == GREETING[..1],
            // tokio takes a stream that it has just accepted for readable.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return false,
        }
    }
    false
}
