//! A router: mappings, filters, and the states of each connection as nf_conntrack_proto_tcp.c
//! follows them, or not at all.

use crate::behaviour::{Behaviour, Dependence, OutOfTurn, Pool, Ports, SynIn, Unsolicited};
use crate::random::Random;
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use tcp_punch::wire::{Options, Segment, Seq, WallTime};

/// What the router holds of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    SynSent,
    SynSent2,
    SynReceived,
    Established,
    /// One FIN was seen; as left by a connection whose other FIN it overlooked.
    CloseWait,
    Closed,
    /// The peer's SYN made it.
    PeerSyn,
}

/// Where an inbound segment goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Inbound {
    Translated(Segment),
    Dropped,
    /// The router itself answers with a reset.
    Reset,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Syn,
    SynAck,
    Ack,
    Rst,
}

#[derive(Debug)]
struct Connection {
    internal: SocketAddr,
    state: State,
    /// A SYN of ours that it ignored: the answer to it shows that the connection is a new one.
    ignored_syn_end: Option<Seq>,
    /// Added to our sequence numbers.
    offset: u32,
    /// The end of what our side has sent.
    sent_end: Option<Seq>,
}

/// One router of one host.
#[derive(Debug)]
pub(crate) struct Router {
    pub(crate) behaviour: Behaviour,
    pub(crate) address: IpAddr,
    /// By external port and remote endpoint.
    connections: HashMap<(u16, SocketAddr), Connection>,
    /// External port by internal and remote endpoint.
    outbound: HashMap<(SocketAddr, SocketAddr), u16>,
    /// External port by internal endpoint and what its mapping depends on.
    mappings: HashMap<(SocketAddr, Option<IpAddr>, Option<u16>), u16>,
    /// Internal endpoint behind each external port.
    owners: HashMap<u16, SocketAddr>,
    /// What each external port has sent to, by address.
    contacts: HashSet<(u16, IpAddr)>,
    /// A sequential router's last port, as a place in its pool, and when it was handed out.
    counter: (u32, WallTime),
    random: Random,
    /// Segments out of turn that were lost behind it.
    pub(crate) leaked: u32,
}

impl Router {
    pub(crate) fn new(behaviour: Behaviour, address: IpAddr, start: WallTime, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let counter = match behaviour.ports {
            Ports::Sequential { pool, .. } => random.below(size(pool)),
            _ => 0,
        };
        Self {
            behaviour,
            address,
            connections: HashMap::new(),
            outbound: HashMap::new(),
            mappings: HashMap::new(),
            owners: HashMap::new(),
            contacts: HashSet::new(),
            counter: (counter, start),
            random,
            leaked: 0,
        }
    }

    /// Leaves what an earlier connection did, or makes a mapping that a STUN server has seen.
    pub(crate) fn remember(&mut self, internal: SocketAddr, remote: SocketAddr, state: State) {
        if let Some(external) = self.map(internal, remote, self.counter.1) {
            let connection =
                Connection { internal, state, ignored_syn_end: None, offset: 0, sent_end: None };
            self.connections.insert((external, remote), connection);
        }
    }

    /// The external port of a mapping.
    pub(crate) fn external(&self, internal: SocketAddr, remote: SocketAddr) -> Option<u16> {
        self.outbound.get(&(internal, remote)).copied()
    }

    /// The port that a sequential router hands out next.
    pub(crate) fn next_port(&self) -> u16 {
        let Ports::Sequential { step, pool, .. } = self.behaviour.ports else { return 0 };
        port(pool, stepped(self.counter.0, step, 1, pool))
    }

    /// When it was measured.
    pub(crate) fn counted_at(&self) -> WallTime {
        self.counter.1
    }

    /// Where a connection stands outside, and what is added to its sequence numbers.
    pub(crate) fn translation(
        &self,
        internal: SocketAddr,
        remote: SocketAddr,
    ) -> Option<(SocketAddr, u32)> {
        let external = self.external(internal, remote)?;
        let connection = self.connections.get(&(external, remote))?;
        Some((SocketAddr::new(self.address, external), connection.offset))
    }

    /// The first external port at which this connection stands, for the ladder.
    pub(crate) fn state(&self, internal: SocketAddr, remote: SocketAddr) -> Option<State> {
        let external = self.external(internal, remote)?;
        self.connections.get(&(external, remote)).map(|connection| connection.state)
    }

    /// A segment from inside, as it leaves if it does.
    pub(crate) fn outbound(&mut self, segment: &Segment, now: WallTime) -> Option<Segment> {
        use State::{CloseWait, Closed, Established, PeerSyn, SynReceived, SynSent, SynSent2};
        let (internal, remote) = (segment.tuple.local, segment.tuple.remote);
        let kind = kind(segment);
        let known = self.external(internal, remote);
        let known = known.filter(|external| self.connections.contains_key(&(*external, remote)));
        let state = known.map(|external| self.connections[&(external, remote)].state);
        let follows = self.behaviour.out_of_turn != OutOfTurn::Unnoticed;
        let next = match (kind, state) {
            (Kind::Syn, None | Some(SynSent | Closed)) => Some(SynSent),
            (Kind::Syn, Some(SynSent2 | PeerSyn)) => Some(SynSent2),
            (Kind::Syn, same @ Some(SynReceived | Established | CloseWait)) => same,
            (Kind::SynAck, Some(SynSent2 | SynReceived | PeerSyn)) => Some(SynReceived),
            (Kind::Ack, same @ Some(CloseWait | Closed)) => same,
            (Kind::Ack, Some(SynReceived | Established)) => Some(Established),
            // Who rewrites numbers has to have seen the first of them.
            (Kind::Ack, None) if self.behaviour.loose && !self.behaviour.rewrites_sequence => {
                Some(Established)
            }
            (Kind::Rst, Some(_)) => Some(Closed),
            (Kind::Rst, None) => None,
            // Out of turn.
            (Kind::SynAck | Kind::Ack, Some(state)) if !follows => Some(state),
            (Kind::SynAck | Kind::Ack, _) => None,
        };
        let Some(next) = next else {
            self.leaked += u32::from(self.behaviour.out_of_turn == OutOfTurn::Leaked);
            return None;
        };
        let external = match known {
            Some(external) => external,
            None => {
                if self.connections.len() >= self.behaviour.entries as usize {
                    return None;
                }
                let external = self.map(internal, remote, now)?;
                let rewritten = self.behaviour.rewrites_sequence && kind == Kind::Syn;
                let offset = if rewritten { self.random.next() as u32 | 1 } else { 0 };
                let connection = Connection {
                    internal,
                    state: next,
                    ignored_syn_end: None,
                    offset,
                    sent_end: None,
                };
                self.connections.insert((external, remote), connection);
                external
            }
        };
        self.contacts.insert((external, remote.ip()));
        let connection = self.connections.get_mut(&(external, remote))?;
        if kind == Kind::Syn && matches!(state, Some(SynReceived | Established | CloseWait)) {
            connection.ignored_syn_end = Some(segment.end() + connection.offset);
        }
        connection.state = next;
        let end = segment.end() + connection.offset;
        // Of a connection that it has picked up it knows no window.
        if connection.sent_end.map_or(kind == Kind::Syn, |last| end.follows(last)) {
            connection.sent_end = Some(end);
        }
        let mut sent = segment.clone();
        sent.seq = sent.seq + connection.offset;
        sent.tuple.local = SocketAddr::new(self.address, external);
        self.strip(&mut sent);
        Some(sent)
    }

    /// A segment from outside, to this router's address.
    pub(crate) fn inbound(&mut self, segment: &Segment) -> Inbound {
        let (external, remote) = (segment.tuple.remote.port(), segment.tuple.local);
        let kind = kind(segment);
        if kind == Kind::Syn && self.behaviour.syn_in == SynIn::BlockedBeforeTracking {
            return Inbound::Dropped;
        }
        if !self.connections.contains_key(&(external, remote))
            && !self.admit(external, remote, kind)
        {
            return self.unsolicited(kind);
        }
        let Some(connection) = self.connections.get_mut(&(external, remote)) else {
            return Inbound::Dropped;
        };
        let answers_ignored = segment.ack.is_some() && segment.ack == connection.ignored_syn_end;
        let follows = self.behaviour.out_of_turn != OutOfTurn::Unnoticed;
        // tcp_in_window: nobody acknowledges what was not sent, nor what lies far back.
        let in_window =
            segment.ack.zip(connection.sent_end).is_none_or(|(ack, end)| end - ack <= MAXACKWINDOW);
        let next = match kind {
            Kind::SynAck | Kind::Ack if follows && !in_window => Next::OutOfTurn,
            Kind::Rst => reset(connection, segment, answers_ignored, &self.behaviour),
            _ => arrival(kind, connection.state, answers_ignored),
        };
        match next {
            Next::State(state) => connection.state = state,
            Next::Gone => {
                let internal = connection.internal;
                self.connections.remove(&(external, remote));
                self.forget(internal, external, remote);
                return Inbound::Translated(self.translated(segment, internal, 0));
            }
            Next::OutOfTurn if follows => return self.unsolicited(kind),
            Next::OutOfTurn => {}
        }
        if kind == Kind::Syn && self.behaviour.syn_in == SynIn::BlockedAfterTracking {
            return Inbound::Dropped;
        }
        let connection = &self.connections[&(external, remote)];
        Inbound::Translated(self.translated(segment, connection.internal, connection.offset))
    }

    fn translated(&self, segment: &Segment, internal: SocketAddr, offset: u32) -> Segment {
        let mut got = segment.clone();
        got.tuple.remote = internal;
        got.ack = got.ack.map(|ack| Seq(ack.0.wrapping_sub(offset)));
        self.strip(&mut got);
        got
    }

    fn strip(&self, segment: &mut Segment) {
        if self.behaviour.strips_options {
            segment.options = Options { mss: segment.options.mss, ..Options::default() };
        }
    }

    /// What the filter lets in makes a connection.
    fn admit(&mut self, external: u16, remote: SocketAddr, kind: Kind) -> bool {
        let Some(internal) = self.owners.get(&external).copied() else { return false };
        let open = match self.behaviour.filtering {
            Dependence::Endpoint => true,
            Dependence::Address => self.contacts.contains(&(external, remote.ip())),
            Dependence::AddressAndPort => false,
        };
        let state = match kind {
            Kind::Syn => State::PeerSyn,
            _ if self.behaviour.loose => State::Established,
            _ => return false,
        };
        // A session is found by its internal endpoints as well: there is one of them.
        let elsewhere = self.external(internal, remote).is_some_and(|other| other != external);
        if !open || elsewhere || self.connections.len() >= self.behaviour.entries as usize {
            return false;
        }
        let connection =
            Connection { internal, state, ignored_syn_end: None, offset: 0, sent_end: None };
        self.connections.insert((external, remote), connection);
        self.outbound.insert((internal, remote), external);
        true
    }

    fn unsolicited(&self, kind: Kind) -> Inbound {
        match self.behaviour.unsolicited {
            Unsolicited::Reset if kind != Kind::Rst => Inbound::Reset,
            // An ICMP error tells an attempt nothing that it acts on, at once or later.
            _ => Inbound::Dropped,
        }
    }

    /// The mapping, made if it is missing.
    fn map(&mut self, internal: SocketAddr, remote: SocketAddr, now: WallTime) -> Option<u16> {
        let key = self.key(internal, remote);
        let external = match self.mappings.get(&key) {
            Some(external) => *external,
            None => {
                let external = self.allocate(internal.port(), remote, now)?;
                self.mappings.insert(key, external);
                external
            }
        };
        self.owners.insert(external, internal);
        self.outbound.insert((internal, remote), external);
        self.contacts.insert((external, remote.ip()));
        Some(external)
    }

    fn key(
        &self,
        internal: SocketAddr,
        remote: SocketAddr,
    ) -> (SocketAddr, Option<IpAddr>, Option<u16>) {
        let mapping = self.behaviour.mapping;
        let address = (mapping != Dependence::Endpoint).then(|| remote.ip());
        let port = (mapping == Dependence::AddressAndPort).then(|| remote.port());
        (internal, address, port)
    }

    /// The mapping of one connection goes with it; those of several stay.
    fn forget(&mut self, internal: SocketAddr, external: u16, remote: SocketAddr) {
        self.outbound.remove(&(internal, remote));
        if self.behaviour.mapping == Dependence::AddressAndPort {
            self.mappings.remove(&self.key(internal, remote));
            if self.owners.get(&external) == Some(&internal)
                && self.behaviour.filtering == Dependence::AddressAndPort
            {
                self.owners.remove(&external);
            }
        }
    }

    fn allocate(&mut self, internal: u16, remote: SocketAddr, now: WallTime) -> Option<u16> {
        let (pool, every, first) = match self.behaviour.ports {
            Ports::Preserving => return Some(internal),
            Ports::Sequential { step, rate, pool } => {
                let (last, at) = self.counter;
                let others = self.random.poisson(rate * at.until(now).as_secs_f64());
                let place = stepped(last, step, others + 1, pool);
                self.counter = (place, now);
                return Some(port(pool, place));
            }
            Ports::Parity(pool) => (pool, 2, (internal ^ pool.0) & 1),
            Ports::Random(pool) => (pool, 1, 0),
            Ports::LinuxRandom => match internal {
                0..=511 => ((1, 511), 1, 0),
                512..=1023 => ((600, 1023), 1, 0),
                1024.. => ((1024, 65_535), 1, 0),
            },
        };
        let count = (size(pool) - u32::from(first)).div_ceil(every);
        let start = self.random.below(count);
        // A port serves each remote endpoint once; one that serves them all serves nobody else.
        let shared = self.behaviour.mapping == Dependence::AddressAndPort;
        (0..count).map(|nth| port(pool, u32::from(first) + (start + nth) % count * every)).find(
            |port| match shared {
                true => !self.connections.contains_key(&(*port, remote)),
                false => !self.owners.contains_key(port),
            },
        )
    }
}

/// As netfilter has it: the largest window without scaling, and some more.
const MAXACKWINDOW: u32 = 66_000;

enum Next {
    State(State),
    Gone,
    OutOfTurn,
}

fn arrival(kind: Kind, state: State, answers_ignored: bool) -> Next {
    use State::{Established, PeerSyn, SynReceived, SynSent, SynSent2};
    match (kind, state) {
        (Kind::Syn, SynSent | SynSent2) => Next::State(SynSent2),
        (Kind::Syn, PeerSyn) => Next::State(PeerSyn),
        (Kind::Syn, _) => Next::OutOfTurn,
        (Kind::SynAck, SynSent | SynSent2) => Next::State(SynReceived),
        (Kind::SynAck, _) if answers_ignored => Next::State(SynReceived),
        (Kind::Ack, SynReceived) => Next::State(Established),
        _ => Next::State(state),
    }
}

fn reset(
    connection: &Connection,
    segment: &Segment,
    answers_ignored: bool,
    behaviour: &Behaviour,
) -> Next {
    use State::{CloseWait, Closed, Established, PeerSyn, SynReceived, SynSent, SynSent2};
    let state = connection.state;
    if !behaviour.reset_kills {
        return Next::State(state);
    }
    match state {
        // An entry that never saw an answer is deleted at once.
        SynSent | PeerSyn => Next::Gone,
        Closed => Next::State(Closed),
        // The answer to a SYN that it ignored: the old connection is over; a living one stays, in
        // case the other end would rather challenge the reset.
        CloseWait if answers_ignored => Next::State(Closed),
        Established if answers_ignored => Next::State(state),
        // A reset that answers a segment with an ACK has the right number, one that answers a SYN
        // has number 0, which lies outside of the window.
        SynSent2 | SynReceived if segment.seq != Seq(0) => Next::State(Closed),
        _ => Next::OutOfTurn,
    }
}

fn kind(segment: &Segment) -> Kind {
    match (segment.rst, segment.syn, segment.ack) {
        (true, ..) => Kind::Rst,
        (false, true, None) => Kind::Syn,
        (false, true, Some(_)) => Kind::SynAck,
        (false, false, _) => Kind::Ack,
    }
}

fn size((first, last): Pool) -> u32 {
    u32::from(last - first) + 1
}

fn port((first, _): Pool, place: u32) -> u16 {
    first + u16::try_from(place).unwrap_or(0)
}

fn stepped(place: u32, step: i16, times: u32, pool: Pool) -> u32 {
    let place = i64::from(place) + i64::from(step) * i64::from(times);
    u32::try_from(place.rem_euclid(i64::from(size(pool)))).unwrap_or(0)
}
