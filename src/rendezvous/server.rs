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
mod connection;
mod counts;
mod limits;
mod members;
mod places;
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
pub use stream::{Said, Stream, StreamError};

use super::{Answer, Challenge, Origin, Place, PublicKey, Reaction, Refusal, Request, Ticket};
use crate::wire::stun::Ends;
use abroad::Away;
use connection::{Called, Connection, Met, Stage};
use members::Members;
use places::{Coming, Places, Waiter};
use quota::Quotas;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

/// What the caller has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send this.
    Answer {
        /// To whom.
        to: ConnectionId,
        /// What.
        answer: Answer,
    },
    /// Send [`Answer::Clock`], with the times of just before and just after.
    Clock {
        /// To whom.
        to: ConnectionId,
        /// The client's clock, as it said.
        sent_ns: i64,
    },
    /// End the connection when everything is sent.
    Close(ConnectionId),
    /// Open a connection, see what comes of it, reset it, and tell [`Server::probed`].
    Probe {
        /// Who asked.
        asked_by: ConnectionId,
        /// Its name for the probe.
        id: u32,
        /// From here.
        from: SocketAddr,
        /// To here.
        to: SocketAddr,
    },
    /// Say this on the bus.
    Publish {
        /// To whom.
        to: Audience,
        /// What.
        word: Word,
    },
    /// Say [`Word::AskClock`] on the bus with the time of just before, and tell
    /// [`Server::measured`] when the answer is there.
    AskClock(Node),
}

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

    /// Whether a message of this connection has begun and is not over: it may take so long and no
    /// longer.
    pub fn unfinished(&mut self, id: ConnectionId, unfinished: bool, now: Duration) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if unfinished == connection.message_deadline.is_some()
            || matches!(connection.stage, Stage::Silent | Stage::Over)
        {
            return;
        }
        let before = connection.timeout();
        connection.message_deadline = unfinished.then_some(now + self.limits.unfinished);
        let after = connection.timeout();
        self.reschedule(id, before, after);
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

    /// What came of a probe.
    pub fn probed(&mut self, asked_by: ConnectionId, id: u32, reaction: Reaction, after: Duration) {
        self.counts.probed(reaction);
        if self.is_open(asked_by) {
            let after_ms = u32::try_from(after.as_millis()).unwrap_or(u32::MAX);
            self.answer(asked_by, Answer::Probed { id, reaction, after_ms });
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

    /// When [`Server::handle_timeout`] wants to be called, at the latest.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let connection = self.deadlines.first().map(|(at, _)| *at);
        let others =
            [self.places.poll_timeout(), self.quotas.poll_timeout(), self.members.poll_timeout()];
        connection.into_iter().chain(others.into_iter().flatten()).min()
    }

    /// Ends what has taken too long.
    pub fn handle_timeout(&mut self, now: Duration) {
        let change = self.members.handle_timeout(now);
        self.apply(change, now);
        self.places.handle_timeout(now);
        self.quotas.handle_timeout(now);
        while let Some((at, id)) = self.deadlines.first().copied()
            && at <= now
        {
            self.deadlines.pop_first();
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            connection.deadline = None;
            connection.message_deadline = None;
            self.counts.timeouts += 1;
            match connection.stage {
                Stage::Waiting { called: None, .. } => {
                    self.refuse(id, Refusal::WaitedTooLong, now);
                }
                Stage::Waiting { .. } => self.refuse(id, Refusal::NobodyThere, now),
                _ => {
                    self.vacate(id, now);
                    self.close(id);
                }
            }
        }
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

    fn allocate(&mut self, id: ConnectionId, now: Duration) {
        if let Err(refusal) = self.may_wait(id, &[], now) {
            return self.refuse(id, refusal, now);
        }
        let who = self.seat(id);
        let number = match self.gives_numbers() {
            true => self.places.allocate(Waiter { who, opening: Vec::new() }),
            false => None,
        };
        match number {
            Some(number) => {
                self.answer(id, Answer::Allocated(number));
                self.wait(id, Place::Number(number), None, now + self.limits.waiting);
            }
            None => {
                self.stop_waiting(id);
                self.refuse(id, Refusal::Full, now);
            }
        }
    }

    fn join(&mut self, id: ConnectionId, place: Place, opening: Vec<u8>, now: Duration) {
        // Who was given this number waits there already, and has had nothing to say yet.
        let speaks = opening.len() <= MAX_OPENING;
        if speaks
            && (self.places.speak(place, self.seat(id), &opening)
                || self.speak_abroad(id, place, &opening))
        {
            return;
        }
        // Or did when this left, and has been met meanwhile.
        if let Some(Connection { stage: Stage::Met(met), .. }) = self.connections.get_mut(&id)
            && opening.len() <= MAX_OPENING
            && std::mem::take(&mut met.opening_owed)
        {
            return self.relay(id, opening, now);
        }
        if let Err(refusal) = self.may_wait(id, &opening, now) {
            return self.refuse(id, refusal, now);
        }
        self.go(id, place, opening, now);
    }

    /// Goes to a place, whoever keeps it.
    fn go(&mut self, id: ConnectionId, place: Place, opening: Vec<u8>, now: Duration) {
        if let Some(keeper) = self.members.keeper(place) {
            let patience = match place {
                Place::Number(_) => self.limits.waiting,
                Place::Ticket(_) => self.limits.calling,
            };
            self.wait(id, place, None, now + patience);
            return self.go_abroad(id, keeper, place, opening);
        }
        match self.places.come(place, self.seat(id), &opening, now) {
            Coming::Waits => self.wait(id, place, None, now + self.limits.waiting),
            Coming::Meets(waiter) => {
                self.stop_waiting(id);
                self.meet(id, opening, waiter, now);
            }
            Coming::Occupied => {
                self.stop_waiting(id);
                self.refuse(id, Refusal::Occupied, now);
            }
            Coming::Unknown => {
                self.stop_waiting(id);
                self.refuse(id, Refusal::NoSuchPlace, now);
            }
        }
    }

    /// `id` came, and does not wait.
    fn meet(&mut self, id: ConnectionId, opening: Vec<u8>, waiter: Waiter, now: Duration) {
        let seat = self.seat(id);
        if waiter.who.node != seat.node {
            return self.meet_abroad(id, opening, waiter, now);
        }
        self.counts.meetings += 1;
        let said = self.stop_waiting_to_meet(waiter.who.id, now);
        let theirs = if waiter.opening.is_empty() { said } else { waiter.opening };
        let owed = [theirs.is_empty(), opening.is_empty()];
        self.introduce(waiter.who.id, seat, opening, owed[0], now);
        self.introduce(id, waiter.who, theirs, owed[1], now);
    }

    /// One who waited is found, not always where it waits now. What it had to say there.
    fn stop_waiting_to_meet(&mut self, id: ConnectionId, now: Duration) -> Vec<u8> {
        self.answered(id);
        let said = self.withdraw(id, now);
        self.stop_waiting(id);
        said
    }

    /// Takes one of ours from where it waits, and gives what it had to say there.
    fn withdraw(&mut self, id: ConnectionId, now: Duration) -> Vec<u8> {
        let Some(Connection { stage: Stage::Waiting { place, .. }, .. }) =
            self.connections.get(&id)
        else {
            return Vec::new();
        };
        let place = *place;
        if let Some(Away { keeper, opening }) = self.away.remove(&id) {
            self.publish(Audience::One(keeper), Word::Leave { place, who: id });
            return opening;
        }
        self.places.leave(place, self.seat(id), now).unwrap_or_default()
    }

    /// The first word about its peer, to one who does not wait any more.
    fn introduce(
        &mut self,
        who: ConnectionId,
        peer: Seat,
        opening: Vec<u8>,
        opening_owed: bool,
        now: Duration,
    ) {
        if let Some(connection) = self.connections.get_mut(&who) {
            let met = Met { peer: Some(peer), opening_owed, messages: 0, bytes: 0 };
            connection.stage = Stage::Met(met);
        }
        self.answer(who, Answer::Met { opening });
        self.set_deadline(who, Some(now + self.limits.idle));
    }

    /// Everything that a client has to fulfil before it goes to a place. It then counts as one who
    /// waits.
    fn may_wait(&mut self, id: ConnectionId, opening: &[u8], now: Duration) -> Result<(), Refusal> {
        let Some(connection) = self.connections.get(&id) else {
            return Err(Refusal::NotUnderstood);
        };
        let ip = connection.remote.ip();
        if !matches!(connection.stage, Stage::Greeted) || opening.len() > MAX_OPENING {
            return Err(Refusal::NotUnderstood);
        }
        if !self.quotas.meeting(ip, now) || !self.quotas.wait(ip) {
            return Err(Refusal::TooMany);
        }
        self.counts.waiting += 1;
        Ok(())
    }

    fn wait(&mut self, id: ConnectionId, place: Place, called: Option<Called>, until: Duration) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.stage = Stage::Waiting { place, called };
        }
        self.set_deadline(id, Some(until));
    }

    fn stop_waiting(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get(&id) {
            self.quotas.wait_over(connection.remote.ip());
            self.counts.waiting -= 1;
        }
    }

    fn relay(&mut self, id: ConnectionId, bytes: Vec<u8>, now: Duration) {
        let Some(Connection { stage: Stage::Met(met), .. }) = self.connections.get_mut(&id) else {
            return self.refuse(id, Refusal::NotUnderstood, now);
        };
        met.messages += 1;
        met.bytes = met.bytes.saturating_add(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        if met.messages > MAX_RELAYED_MESSAGES || met.bytes > MAX_RELAYED_BYTES {
            return self.refuse(id, Refusal::TooMany, now);
        }
        // Without a peer it was told that the peer has left.
        if let Some(peer) = met.peer {
            self.counts.relayed_bytes += bytes.len() as u64;
            if peer.node == self.members.us() {
                self.answer(peer.id, Answer::Relayed(bytes));
            } else {
                let word = Word::Relay { to: peer.id, from: id, bytes };
                self.publish(Audience::One(peer.node), word);
            }
        }
    }

    fn listen(&mut self, id: ConnectionId, name: PublicKey, now: Duration) {
        let random = self.draw("challenge");
        match self.connections.get_mut(&id) {
            Some(Connection { stage: stage @ Stage::Greeted, .. }) => {
                let challenge = Challenge::new(random);
                let public = challenge.public();
                *stage = Stage::Challenged(Box::new((name, challenge)));
                self.answer(id, Answer::Challenge(public));
                self.set_deadline(id, Some(now + self.limits.unfinished));
            }
            _ => self.refuse(id, Refusal::NotUnderstood, now),
        }
    }

    fn prove(&mut self, id: ConnectionId, mac: [u8; 32], now: Duration) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let Stage::Challenged(question) = &connection.stage else {
            return self.refuse(id, Refusal::NotUnderstood, now);
        };
        let (name, challenge) = &**question;
        let name = *name;
        if !challenge.check(name, &mac) {
            return self.refuse(id, Refusal::NotYours, now);
        }
        if !self.quotas.wait(connection.remote.ip()) {
            return self.refuse(id, Refusal::TooMany, now);
        }
        connection.stage = Stage::Listening { name, calls: 0 };
        self.set_deadline(id, None);
        // After a change of network the old connection may look alive for long.
        if let Some(before) = self.listeners.insert(name, id) {
            self.refuse(before, Refusal::Replaced, now);
        }
        self.answer(id, Answer::Listening);
        self.publish(Audience::All, Word::Listening(name));
    }

    fn call(&mut self, id: ConnectionId, name: PublicKey, opening: Vec<u8>, now: Duration) {
        if let Err(refusal) = self.may_wait(id, &opening, now) {
            return self.refuse(id, refusal, now);
        }
        let listener = self.listeners.get(&name).copied();
        if listener.is_none() && self.members.others().next().is_some() {
            return self.call_abroad(id, name, opening, now);
        }
        let refusal = match listener.and_then(|it| self.connections.get_mut(&it)) {
            Some(Connection { stage: Stage::Listening { calls, .. }, .. })
                if *calls < MAX_CALLS =>
            {
                *calls += 1;
                None
            }
            Some(_) => Some(Refusal::TooMany),
            None => Some(Refusal::NobodyThere),
        };
        let (Some(listener), None) = (listener, refusal) else {
            self.stop_waiting(id);
            return self.refuse(id, refusal.unwrap_or(Refusal::NobodyThere), now);
        };
        let ticket = self.ticket();
        let told = Answer::Called { ticket, opening: opening.clone() };
        self.places.open(ticket, Waiter { who: self.seat(id), opening });
        let called = Called::Told(self.seat(listener));
        self.wait(id, Place::Ticket(ticket), Some(called), now + self.limits.calling);
        self.counts.calls += 1;
        self.answer(listener, told);
    }

    /// A new place for a call. Whoever hears of it can tell from it who keeps it.
    fn ticket(&mut self) -> Ticket {
        let [mut ticket @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = self.draw("ticket");
        if let Some(share) = self.members.share() {
            ticket[0] = share;
        }
        Ticket(ticket)
    }

    /// A caller waits no longer: the listener may be told of one more.
    fn answered(&mut self, caller: ConnectionId) {
        let listener = match self.connections.get(&caller).map(|connection| &connection.stage) {
            Some(Stage::Waiting { called: Some(Called::Told(listener)), .. }) => *listener,
            _ => return,
        };
        if listener.node == self.members.us() {
            self.call_is_over(listener.id);
        } else {
            let word = Word::CallOver { listener: listener.id };
            self.publish(Audience::One(listener.node), word);
        }
    }

    fn call_is_over(&mut self, listener: ConnectionId) {
        let listener = self.connections.get_mut(&listener);
        if let Some(Connection { stage: Stage::Listening { calls, .. }, .. }) = listener {
            *calls = calls.saturating_sub(1);
        }
    }

    /// Only towards the address that asks, and only to a port from which it has connected: nobody
    /// can have the server knock at somebody else's door. Since its TCP handshake is over, the
    /// address is not forged, and it has sent more bytes than a probe has.
    fn probe(
        &mut self,
        id: ConnectionId,
        probe: u32,
        from: Origin,
        mapping: SocketAddr,
        now: Duration,
    ) {
        let Some(connection) = self.connections.get(&id) else { return };
        let (remote, local) = (connection.remote, connection.local);
        let mapping = canonical(mapping);
        if mapping.ip() != remote.ip() || !self.endpoints.contains_key(&mapping) {
            return self.refuse(id, Refusal::NotYours, now);
        }
        if !self.quotas.probe(remote.ip(), now) {
            return self.refuse(id, Refusal::TooMany, now);
        }
        match self.addresses.origin(local, from) {
            Some(from) => {
                self.outputs.push_back(Output::Probe {
                    asked_by: id,
                    id: probe,
                    from,
                    to: mapping,
                });
            }
            None => self.probed(id, probe, Reaction::NotSent, Duration::ZERO),
        }
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

    /// Tells one that its peer has gone, if it still has that peer.
    fn leave(&mut self, id: ConnectionId, peer: Seat) {
        if let Some(Connection { stage: Stage::Met(met), .. }) = self.connections.get_mut(&id)
            && met.peer == Some(peer)
        {
            met.peer = None;
            self.answer(id, Answer::Left);
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

    /// Also ends the wait for the rest of a message.
    fn set_deadline(&mut self, id: ConnectionId, deadline: Option<Duration>) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let before = connection.timeout();
        connection.deadline = deadline;
        connection.message_deadline = None;
        let after = connection.timeout();
        self.reschedule(id, before, after);
    }

    fn reschedule(&mut self, id: ConnectionId, before: Option<Duration>, after: Option<Duration>) {
        if before == after {
            return;
        }
        if let Some(at) = before {
            self.deadlines.remove(&(at, id));
        }
        if let Some(at) = after {
            self.deadlines.insert((at, id));
        }
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
