//! Unsolicited SYNs that wait for an answer (RFC 5382 REQ-4).

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

/// REQ-4: no answer for at least six seconds.
pub(crate) const HOLD: Duration = Duration::from_secs(6);

/// SYNs held at a time; others are dropped, as REQ-4 allows a NAT short of memory.
const LIMIT: usize = 4096;

/// What an ICMP error quotes at most.
const QUOTED: usize = 548;

/// Where a SYN came from and the external port that it came to.
type Connection = (SocketAddrV4, u16);

/// The SYNs that wait.
#[derive(Default)]
pub(crate) struct Held {
    packets: HashMap<Connection, (Instant, Box<[u8]>)>,
    order: VecDeque<(Instant, Connection)>,
}

impl Held {
    pub(crate) fn hold(&mut self, remote: SocketAddrV4, port: u16, syn: &[u8], now: Instant) {
        let connection = (remote, port);
        // A repetition does not put the answer off.
        if self.order.len() < LIMIT && !self.packets.contains_key(&connection) {
            let due = now + HOLD;
            self.packets.insert(connection, (due, syn[..syn.len().min(QUOTED)].into()));
            self.order.push_back((due, connection));
        }
    }

    /// The inside's SYN came: the held one is forgotten without a word.
    pub(crate) fn forget(&mut self, remote: SocketAddrV4, port: u16) {
        if !self.packets.is_empty() {
            self.packets.remove(&(remote, port));
        }
    }

    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.order.front().map(|(due, _)| *due)
    }

    /// The next SYN to be answered by now.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<Box<[u8]>> {
        while self.next_due().is_some_and(|due| due <= now) {
            let (due, connection) = self.order.pop_front()?;
            if self.packets.get(&connection).is_some_and(|(held, _)| *held == due) {
                return self.packets.remove(&connection).map(|(_, syn)| syn);
            }
        }
        None
    }
}
