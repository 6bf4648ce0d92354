//! The server's states, and what is on its way to each client.

use super::bus::Outgoing;
use crate::rendezvous::server::{Audience, BusMessage, ConnectionId, Output, Server, Word};
use crate::rendezvous::{Answer, ClockTimes, frame};
use crate::sys::clock;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

/// What may wait to be sent to one client: all that its peer may have the server relay, and some
/// answers. Who reads so slowly that more gathers is cut off.
const MAX_UNSENT: usize = 128 << 10;

/// Likewise for all clients together, out of the gigabyte that the server is meant to stay in.
const MAX_UNSENT_TOGETHER: usize = 256 << 20;

/// As much as is read at once; one buffer serves all. What is left of it when a message is not
/// whole stays in memory until it is, so it is no more than a message.
const READ: usize = 4 << 10;

/// What is on its way to one client.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    pub(super) bytes: Vec<u8>,
    pub(super) waker: Option<Waker>,
    pub(super) end: Option<End>,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// When everything is sent.
    Gently,
    /// At once: nobody reads.
    CutOff,
}

/// A probe that is to be made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probe {
    pub(super) asked_by: ConnectionId,
    pub(super) id: u32,
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
}

/// Shared by all connections.
#[derive(Debug)]
pub(super) struct Hub {
    pub(super) server: Server,
    pub(super) outboxes: HashMap<ConnectionId, Outbox>,
    /// Bytes in all of them.
    unsent: usize,
    /// Errors of accept(2).
    pub(super) accept_errors: u64,
    /// Clients cut off because they read too slowly.
    pub(super) cut_off: u64,
    pub(super) buffer: Box<[u8; READ]>,
    pub(super) probes: Vec<Probe>,
    /// Probes under way.
    pub(super) probing: usize,
    /// Connections that are being told that they are one too many.
    pub(super) turning_away: usize,
    /// What leaves for other servers.
    pub(super) bus: Option<Outgoing>,
    began: Instant,
}

/// The hub as its users hold it.
#[derive(Clone, Debug)]
pub(super) struct Shared(Arc<Mutex<Hub>>);

impl Shared {
    pub(super) fn new(server: Server) -> Self {
        Self(Arc::new(Mutex::new(Hub {
            server,
            outboxes: HashMap::new(),
            unsent: 0,
            accept_errors: 0,
            cut_off: 0,
            buffer: Box::new([0; READ]),
            probes: Vec::new(),
            probing: 0,
            turning_away: 0,
            bus: None,
            began: Instant::now(),
        })))
    }

    /// One thread runs everything, so that nobody waits here.
    pub(super) fn lock(&self) -> MutexGuard<'_, Hub> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hub {
    /// Since the server started.
    pub(super) fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Does what the server's states say. `received_ns`: when the request came in that led here.
    pub(super) fn pump(&mut self, received_ns: i64) {
        while let Some(output) = self.server.poll() {
            match output {
                Output::Answer { to, answer } => {
                    if let Answer::Refused(why) = answer {
                        tracing::debug!(reason = %why, "refused");
                    }
                    self.send(to, &answer);
                }
                Output::Clock { to, sent_ns } => {
                    let answered_ns = clock::now().unix_ns();
                    let times = ClockTimes { sent_ns, received_ns, answered_ns };
                    self.send(to, &Answer::Clock(times));
                }
                Output::Close(id) => self.end(id, End::Gently),
                Output::Probe { asked_by, id, from, to } => {
                    self.probes.push(Probe { asked_by, id, from, to });
                }
                Output::Publish { to, word } => self.publish(to, word),
                Output::AskClock(node) => {
                    let sent_ns = clock::now().unix_ns();
                    self.publish(Audience::One(node), Word::AskClock(sent_ns));
                }
            }
        }
    }

    /// Says something on the bus, if there is one.
    pub(super) fn publish(&mut self, to: Audience, word: Word) {
        let Some(bus) = &self.bus else { return };
        bus.say(to, &BusMessage { from: self.server.node(), word });
    }

    /// Puts bytes behind what waits already.
    pub(super) fn send_bytes(&mut self, to: ConnectionId, bytes: &[u8]) {
        let Some(outbox) = self.outboxes.get_mut(&to) else { return };
        if outbox.end.is_some() {
            return;
        }
        if outbox.bytes.len() + bytes.len() > MAX_UNSENT
            || self.unsent + bytes.len() > MAX_UNSENT_TOGETHER
        {
            return self.cut_off(to);
        }
        outbox.bytes.extend_from_slice(bytes);
        self.unsent += bytes.len();
        if let Some(waker) = outbox.waker.take() {
            waker.wake();
        }
    }

    /// Takes what was sent off.
    pub(super) fn sent(&mut self, to: ConnectionId, length: usize) {
        let Some(outbox) = self.outboxes.get_mut(&to) else { return };
        self.unsent -= length;
        if length == outbox.bytes.len() {
            // Gives the room back: most connections are silent most of the time.
            outbox.bytes = Vec::new();
        } else {
            outbox.bytes.drain(..length);
        }
    }

    /// The connection is no more.
    pub(super) fn disconnect(&mut self, id: ConnectionId) {
        if let Some(outbox) = self.outboxes.remove(&id) {
            self.unsent -= outbox.bytes.len();
        }
        let now = self.now();
        self.server.disconnect(id, now);
        self.pump(0);
    }

    /// Ends a connection whose client does not read.
    pub(super) fn cut_off(&mut self, id: ConnectionId) {
        self.cut_off += 1;
        self.end(id, End::CutOff);
    }

    fn send(&mut self, to: ConnectionId, answer: &Answer) {
        match frame(answer) {
            Ok(bytes) => self.send_bytes(to, &bytes),
            // No answer is longer than the request that it comes from.
            Err(error) => tracing::error!(%error, "an answer could not be written"),
        }
    }

    fn end(&mut self, id: ConnectionId, how: End) {
        let Some(outbox) = self.outboxes.get_mut(&id) else { return };
        if outbox.end != Some(End::CutOff) {
            outbox.end = Some(how);
        }
        if let Some(waker) = outbox.waker.take() {
            waker.wake();
        }
    }
}
