//! The server's states: who waits where, who met whom, who listens under which name, and how much
//! of it is granted to whom.
//!
//! The caller accepts connections, reads what they say ([`Stream`]), tells it
//! ([`Server::connect`], [`Server::handle`]) and does what [`Server::poll`] says. Time is counted
//! from when the server started.
//!
//! Servers can be joined by a bus ([`Server::join_bus`]): then each number and each ticket has one
//! server that keeps its place, and a client is known by its [`Seat`], whichever server that is on.

mod abroad;
mod addresses;
mod bus;
mod calls;
mod connection;
mod counts;
mod deadlines;
mod limits;
mod meetings;
mod members;
mod output;
mod places;
mod probes;
mod quota;
mod stream;

pub use addresses::Addresses;
pub use bus::{Audience, BUS_VERSION, BusMessage, Node, NotUnderstood, Seat, Word};
pub use connection::ConnectionId;
pub use counts::Counts;
pub use limits::{
    AddressLimits, Limits, MAX_CALLS, MAX_OPENING, MAX_RELAYED_BYTES, MAX_RELAYED_MESSAGES,
};
pub use members::SHARES;
pub use output::Output;
pub use stream::{Said, Stream, StreamError};

use super::{Answer, PublicKey, Refusal, Request};
use crate::wire::stun::Ends;
use abroad::Away;
use connection::{Connection, Met, Stage};
use members::Members;
use places::Places;
use quota::Quotas;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

/// The server.
#[derive(Debug)]
pub struct Server {
    limits: Limits,
    addresses: Addresses,
    /// Tickets and challenges are drawn from it.
    seed: [u8; 32],
    drawn: u64,
    connections: HashMap<ConnectionId, Connection>,
    next_id: u64,
    /// How many connections come from each endpoint: one may lead to either port.
    endpoints: HashMap<SocketAddr, u32>,
    deadlines: BTreeSet<(Duration, ConnectionId)>,
    places: Places,
    listeners: HashMap<PublicKey, ConnectionId>,
    quotas: Quotas,
    counts: Counts,
    outputs: VecDeque<Output>,
    members: Members,
    /// Clients that wait at places that other servers keep.
    away: HashMap<ConnectionId, Away>,
    /// How many calls from each other server each listener was told of.
    rung: HashMap<(Node, ConnectionId), u16>,
}

impl Server {
    /// A server that nobody knows yet. Who knows `seed` can go to every call.
    pub fn new(addresses: Addresses, limits: Limits, seed: [u8; 32]) -> Self {
        let mut server = Self {
            addresses,
            seed,
            drawn: 0,
            connections: HashMap::new(),
            next_id: 0,
            endpoints: HashMap::new(),
            deadlines: BTreeSet::new(),
            places: Places::new(limits.resting),
            listeners: HashMap::new(),
            quotas: Quotas::new(limits.address),
            counts: Counts::default(),
            outputs: VecDeque::new(),
            members: Members::new(Node::default()),
            away: HashMap::new(),
            rung: HashMap::new(),
            limits,
        };
        let [a, b, c, d, e, f, g, h, ..] = server.draw("node");
        server.members = Members::new(Node(u64::from_be_bytes([a, b, c, d, e, f, g, h])));
        server
    }

    /// A connection was accepted.
    ///
    /// # Errors
    /// Why it is one too many. The caller may say so before it closes it.
    pub fn connect(
        &mut self,
        remote: SocketAddr,
        local: SocketAddr,
        now: Duration,
    ) -> Result<ConnectionId, Refusal> {
        let (remote, local) = (canonical(remote), canonical(local));
        self.counts.connections += 1;
        let refusal = if self.connections.len() >= self.limits.connections {
            Some(Refusal::Full)
        } else if !self.quotas.connect(remote.ip()) {
            Some(Refusal::TooMany)
        } else {
            None
        };
        if let Some(refusal) = refusal {
            self.counts.turned_away += 1;
            self.counts.refused(refusal);
            return Err(refusal);
        }
        let id = ConnectionId(self.next_id);
        self.next_id += 1;
        let connection = Connection {
            remote,
            local,
            stage: Stage::Silent,
            deadline: None,
            message_deadline: None,
        };
        self.connections.insert(id, connection);
        *self.endpoints.entry(remote).or_default() += 1;
        self.counts.open += 1;
        self.set_deadline(id, Some(now + self.limits.unfinished));
        Ok(id)
    }

    /// The client's greeting has come.
    pub fn greet(&mut self, id: ConnectionId, now: Duration) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if !matches!(connection.stage, Stage::Silent) {
            return;
        }
        connection.stage = Stage::Greeted;
        let (observed, local) = (connection.remote, connection.local);
        let welcome = Answer::Welcome {
            observed,
            other_port: self.addresses.other_port(local),
            other_address: self.addresses.other_address(local),
        };
        self.answer(id, welcome);
        self.set_deadline(id, Some(now + self.limits.idle));
    }

    /// A STUN message has come. The ends of its connection, or `None` if it is not to be answered.
    pub fn stun(&mut self, id: ConnectionId, now: Duration) -> Option<Ends> {
        let connection = self.connections.get_mut(&id)?;
        if !matches!(connection.stage, Stage::Silent | Stage::Stun) {
            return None;
        }
        connection.stage = Stage::Stun;
        let (remote, local) = (connection.remote, connection.local);
        if !self.quotas.request(remote.ip(), now) {
            self.counts.refused(Refusal::TooMany);
            self.close(id);
            return None;
        }
        self.counts.stun += 1;
        self.set_deadline(id, Some(now + self.limits.idle));
        Some(self.addresses.ends(local, remote))
    }

    /// A client asks something.
    pub fn handle(&mut self, id: ConnectionId, request: Request, now: Duration) {
        let Some(connection) = self.connections.get(&id) else { return };
        let remote = connection.remote;
        match connection.stage {
            Stage::Over => return,
            Stage::Silent | Stage::Stun => return self.refuse(id, Refusal::NotUnderstood, now),
            _ => {}
        }
        self.counts.requests += 1;
        if !self.quotas.request(remote.ip(), now) {
            return self.refuse(id, Refusal::TooMany, now);
        }
        if matches!(connection.stage, Stage::Greeted | Stage::Met(_)) {
            self.set_deadline(id, Some(now + self.limits.idle));
        }
        match request {
            Request::Clock { sent_ns } => self.outputs.push_back(Output::Clock { to: id, sent_ns }),
            Request::Allocate => self.allocate(id, now),
            Request::Join { place, opening } => self.join(id, place, opening, now),
            Request::Relay(bytes) => self.relay(id, bytes, now),
            Request::Listen(name) => self.listen(id, name, now),
            Request::Prove(mac) => self.prove(id, mac, now),
            Request::Call { name, opening } => self.call(id, name, opening, now),
            Request::Probe { id: probe, from, mapping } => {
                self.probe(id, probe, from, mapping, now);
            }
        }
    }

    /// What was said makes no sense.
    pub fn handle_nonsense(&mut self, id: ConnectionId, error: &StreamError, now: Duration) {
        match error {
            // Whoever it is would not understand an answer.
            StreamError::Unknown | StreamError::Stun(_) => {
                self.counts.refused(Refusal::NotUnderstood);
                self.vacate(id, now);
                self.close(id);
            }
            StreamError::OtherVersion | StreamError::Frame(_) => {
                self.refuse(id, Refusal::NotUnderstood, now);
            }
        }
    }

    /// The connection has ended.
    pub fn disconnect(&mut self, id: ConnectionId, now: Duration) {
        self.vacate(id, now);
        let Some(connection) = self.connections.remove(&id) else { return };
        if let Some(at) = connection.timeout() {
            self.deadlines.remove(&(at, id));
        }
        if let Some(count) = self.endpoints.get_mut(&connection.remote) {
            *count -= 1;
            if *count == 0 {
                self.endpoints.remove(&connection.remote);
            }
        }
        self.quotas.disconnect(connection.remote.ip(), now);
        self.counts.open -= 1;
    }

    /// Tells everybody that the server goes down, and ends every connection.
    pub fn shut_down(&mut self) {
        let mut all: Vec<ConnectionId> = self.connections.keys().copied().collect();
        all.sort_unstable();
        for id in all {
            // Without the word that the peer has left: it has not.
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            match std::mem::replace(&mut connection.stage, Stage::Over) {
                Stage::Over => {}
                Stage::Silent | Stage::Stun => self.close(id),
                _ => self.refuse_alone(id, Refusal::GoingDown),
            }
        }
        self.publish(Audience::All, Word::Gone);
    }

    /// What to do next.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// What has been done so far.
    pub fn counts(&self) -> Counts {
        Counts { listening: self.listeners.len() as u64, ..self.counts }
    }

    /// Leaves whatever the connection is part of, and tells its peer.
    fn vacate(&mut self, id: ConnectionId, now: Duration) {
        self.answered(id);
        self.withdraw(id, now);
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let remote = connection.remote;
        match std::mem::replace(&mut connection.stage, Stage::Over) {
            Stage::Waiting { .. } => self.stop_waiting(id),
            Stage::Met(Met { peer: Some(peer), .. }) => {
                if peer.node == self.members.us() {
                    self.leave(peer.id, self.seat(id));
                } else {
                    let word = Word::Left { to: peer.id, from: id };
                    self.publish(Audience::One(peer.node), word);
                }
            }
            Stage::Listening { name, .. } => {
                self.quotas.wait_over(remote.ip());
                if self.listeners.get(&name) == Some(&id) {
                    self.listeners.remove(&name);
                }
            }
            _ => {}
        }
    }

    fn refuse(&mut self, id: ConnectionId, why: Refusal, now: Duration) {
        self.vacate(id, now);
        self.refuse_alone(id, why);
    }

    fn refuse_alone(&mut self, id: ConnectionId, why: Refusal) {
        self.counts.refused(why);
        self.answer(id, Answer::Refused(why));
        self.close(id);
    }

    /// The caller ends it, and calls [`Server::disconnect`] when that is done.
    fn close(&mut self, id: ConnectionId) {
        self.set_deadline(id, None);
        self.outputs.push_back(Output::Close(id));
    }

    fn answer(&mut self, to: ConnectionId, answer: Answer) {
        self.outputs.push_back(Output::Answer { to, answer });
    }

    fn is_open(&self, id: ConnectionId) -> bool {
        self.connections.get(&id).is_some_and(|it| !matches!(it.stage, Stage::Over))
    }

    /// Bits that nobody can foresee who does not know the seed.
    fn draw(&mut self, purpose: &str) -> [u8; 32] {
        self.drawn += 1;
        let mut hasher = blake3::Hasher::new_keyed(&self.seed);
        hasher.update(purpose.as_bytes());
        hasher.update(&self.drawn.to_be_bytes());
        hasher.finalize().into()
    }
}

/// A socket for both IP versions shows IPv4 addresses as IPv4-mapped ones.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests;
