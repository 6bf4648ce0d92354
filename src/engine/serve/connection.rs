//! Carries bytes between one client and the server's states.

use super::hub::{End, Hub, Shared};
use super::probe;
use crate::rendezvous::server::{ConnectionId, Said, Stream};
use crate::sys::clock;
use crate::wire::stun;
use nix::sys::socket::{Shutdown, shutdown};
use std::future::poll_fn;
use std::io;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep, timeout};

/// Nothing more is read from a client while so much waits to be sent to it.
const HIGH_WATER: usize = 8 << 10;
/// How long a client may take to read so much that the kernel takes more for it: a third of what it
/// holds.
const SLOW: Duration = Duration::from_secs(10);
/// After the last answer: a connection that is closed while something unread has come in is reset,
/// and the answer with it.
const LINGER: Duration = Duration::from_secs(1);
/// What is read and thrown away then, at most.
const MAX_LINGERING: usize = 64 << 10;

enum Event {
    Readable,
    Writable,
    Slow,
    End(End),
}

/// Serves one client until the connection ends.
pub(super) async fn serve(stream: TcpStream, id: ConnectionId, shared: Shared) {
    let present = Present { id, shared };
    if talk(&stream, id, &present.shared).await == Some(End::Gently) {
        linger(&stream, &present.shared).await;
    }
    drop(stream);
}

/// A connection that the server's states know, whatever becomes of its task.
struct Present {
    id: ConnectionId,
    shared: Shared,
}

impl Drop for Present {
    fn drop(&mut self) {
        self.shared.lock().disconnect(self.id);
    }
}

/// `None`: the client ended it.
async fn talk(stream: &TcpStream, id: ConnectionId, shared: &Shared) -> Option<End> {
    let mut said = Stream::default();
    let mut patience: Option<Pin<Box<Sleep>>> = None;
    loop {
        match poll_fn(|context| next(stream, id, shared, &mut patience, context)).await {
            Event::Readable => {
                let mut hub = shared.lock();
                let hub = &mut *hub;
                match stream.try_read(&mut hub.buffer[..]) {
                    Ok(0) => return None,
                    Ok(length) => {
                        let received_ns = clock::now().unix_ns();
                        said.extend(&hub.buffer[..length]);
                        listen(&mut said, id, hub, received_ns, stream);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => return None,
                }
                probe::start(hub, shared);
            }
            Event::Writable => match flush(stream, id, &mut shared.lock()) {
                Ok(0) => {}
                // It reads, if slowly.
                Ok(_) => patience = None,
                Err(_) => return None,
            },
            Event::Slow => shared.lock().cut_off(id),
            Event::End(end) => return Some(end),
        }
    }
}

/// What can be done next.
fn next(
    stream: &TcpStream,
    id: ConnectionId,
    shared: &Shared,
    patience: &mut Option<Pin<Box<Sleep>>>,
    context: &mut Context<'_>,
) -> Poll<Event> {
    let mut hub = shared.lock();
    let Some(outbox) = hub.outboxes.get_mut(&id) else {
        return Poll::Ready(Event::End(End::CutOff));
    };
    match outbox.end {
        Some(End::CutOff) => return Poll::Ready(Event::End(End::CutOff)),
        Some(End::Gently) if outbox.bytes.is_empty() => {
            return Poll::Ready(Event::End(End::Gently));
        }
        _ => {}
    }
    if outbox.bytes.is_empty() {
        *patience = None;
    } else {
        if stream.poll_write_ready(context).is_ready() {
            return Poll::Ready(Event::Writable);
        }
        let patience = patience.get_or_insert_with(|| Box::pin(sleep(SLOW)));
        if patience.as_mut().poll(context).is_ready() {
            return Poll::Ready(Event::Slow);
        }
    }
    let reads = outbox.end.is_none() && outbox.bytes.len() < HIGH_WATER;
    if reads && stream.poll_read_ready(context).is_ready() {
        return Poll::Ready(Event::Readable);
    }
    match &mut outbox.waker {
        Some(waker) => waker.clone_from(context.waker()),
        none => *none = Some(context.waker().clone()),
    }
    Poll::Pending
}

/// Takes in everything that has been said, and answers it.
fn listen(said: &mut Stream, id: ConnectionId, hub: &mut Hub, received_ns: i64, to: &TcpStream) {
    let now = hub.now();
    loop {
        // Whoever is told to go is heard no more.
        if hub.outboxes.get(&id).is_none_or(|outbox| outbox.end.is_some()) {
            break;
        }
        match said.take() {
            Ok(Some(Said::Greeting)) => hub.server.greet(id, now),
            Ok(Some(Said::Request(request))) => hub.server.handle(id, request, now),
            Ok(Some(Said::Stun(message))) => {
                if let Some(ends) = hub.server.stun(id, now) {
                    match stun::answer(&message, &ends) {
                        Ok(Some(answer)) => hub.send_bytes(id, &answer),
                        Ok(None) => {}
                        Err(error) => hub.server.handle_nonsense(id, &error.into(), now),
                    }
                }
            }
            Ok(None) => {
                hub.server.unfinished(id, said.unfinished(), now);
                break;
            }
            Err(error) => {
                hub.server.handle_nonsense(id, &error, now);
                hub.pump(received_ns);
                break;
            }
        }
        hub.pump(received_ns);
    }
    // At once, so that the times in answers are true; what does not fit waits for its turn.
    let _ = flush(to, id, hub);
}

/// Sends what waits as far as that is possible now, and says how much it was.
fn flush(stream: &TcpStream, id: ConnectionId, hub: &mut Hub) -> io::Result<usize> {
    let Some(outbox) = hub.outboxes.get_mut(&id) else { return Ok(0) };
    let mut sent = 0;
    while sent < outbox.bytes.len() {
        match stream.try_write(&outbox.bytes[sent..]) {
            Ok(length) => sent += length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    hub.sent(id, sent);
    Ok(sent)
}

/// Waits a moment for the client to close its side.
pub(super) async fn linger(stream: &TcpStream, shared: &Shared) {
    if shutdown(stream.as_raw_fd(), Shutdown::Write).is_err() {
        return;
    }
    let drained = async {
        let mut total = 0;
        while total < MAX_LINGERING && stream.readable().await.is_ok() {
            match stream.try_read(&mut shared.lock().buffer[..]) {
                Ok(0) => return,
                Ok(length) => total += length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    };
    let _ = timeout(LINGER, drained).await;
}
