//! Mappings, and the connections that use them.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use super::rewrite::Protocol;
use super::spec::Dependence;
use super::tcp::{Connection, Phase};

/// RFC 4787 REQ-5.
const UDP_IDLE: Duration = Duration::from_secs(5 * 60);
/// RFC 5508 REQ-2.
const QUERY_IDLE: Duration = Duration::from_secs(60);

/// What one inside endpoint and one remote endpoint have to do with each other.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) protocol: Protocol,
    pub(crate) inside: SocketAddrV4,
    pub(crate) remote: SocketAddrV4,
    pub(crate) port: u16,
    pub(crate) tcp: Connection,
    /// Added to the inside's sequence numbers.
    pub(crate) offset: u32,
    mapping: usize,
    ends: Instant,
}

/// An inside endpoint's external port.
#[derive(Debug)]
struct Mapping {
    protocol: Protocol,
    inside: SocketAddrV4,
    /// The remote endpoint that it was made for.
    remote: SocketAddrV4,
    port: u16,
    sessions: u32,
}

/// All sessions and mappings of a NAT.
pub(crate) struct Table {
    mapping: Dependence,
    filtering: Dependence,
    limit: usize,
    sessions: Slab<Session>,
    mappings: Slab<Mapping>,
    by_inside: Map<usize>,
    by_outside: Map<usize>,
    mapping_by_inside: Map<usize>,
    mapping_by_outside: Map<usize>,
    /// Sessions by mapping and remote address, where those decide on what may come in.
    visited: Map<u32>,
    /// When to look at a session again. What is spoken to meanwhile ends later than that.
    ends: BinaryHeap<Reverse<(Instant, usize, u32)>>,
}

/// Why there is no new session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoRoom {
    Table,
    Ports,
}

impl Table {
    pub(crate) fn new(mapping: Dependence, filtering: Dependence, limit: usize) -> Self {
        Self {
            mapping,
            filtering,
            limit,
            sessions: Slab::default(),
            mappings: Slab::default(),
            by_inside: Map::default(),
            by_outside: Map::default(),
            mapping_by_inside: Map::default(),
            mapping_by_outside: Map::default(),
            visited: Map::default(),
            ends: BinaryHeap::new(),
        }
    }

    pub(crate) fn session(&mut self, id: usize) -> &mut Session {
        self.sessions.get(id)
    }

    pub(crate) fn len(&self) -> usize {
        self.by_inside.len()
    }

    pub(crate) fn by_inside(
        &self,
        protocol: Protocol,
        inside: SocketAddrV4,
        remote: SocketAddrV4,
    ) -> Option<usize> {
        self.by_inside.get(&inside_key(protocol, inside, remote)).copied()
    }

    pub(crate) fn by_outside(
        &self,
        protocol: Protocol,
        port: u16,
        remote: SocketAddrV4,
    ) -> Option<usize> {
        self.by_outside.get(&outside_key(protocol, port, remote)).copied()
    }

    /// A session that the inside begins, by the mapping that there is or by a new one.
    pub(crate) fn begin(
        &mut self,
        protocol: Protocol,
        inside: SocketAddrV4,
        remote: SocketAddrV4,
        now: Instant,
        allocate: impl FnOnce(&dyn Fn(u16) -> bool) -> Option<u16>,
    ) -> Result<usize, NoRoom> {
        self.room()?;
        let by_inside = inside_key(protocol, inside, masked(remote, self.mapping));
        let mapping = match self.mapping_by_inside.get(&by_inside) {
            Some(mapping) => *mapping,
            None => {
                let told_apart = masked(remote, self.told_apart());
                let taken = |port| {
                    self.mapping_by_outside.contains_key(&outside_key(protocol, port, told_apart))
                };
                let port = allocate(&taken).ok_or(NoRoom::Ports)?;
                let mapping =
                    self.mappings.insert(Mapping { protocol, inside, remote, port, sessions: 0 });
                self.mapping_by_inside.insert(by_inside, mapping);
                self.mapping_by_outside.insert(outside_key(protocol, port, told_apart), mapping);
                mapping
            }
        };
        Ok(self.add(mapping, remote, now))
    }

    /// A session that the outside begins, if the filter lets it in.
    pub(crate) fn admit(
        &mut self,
        protocol: Protocol,
        port: u16,
        remote: SocketAddrV4,
        now: Instant,
    ) -> Option<usize> {
        if self.filtering == Dependence::AddressAndPort {
            return None;
        }
        let told_apart = masked(remote, self.told_apart());
        let mapping = *self.mapping_by_outside.get(&outside_key(protocol, port, told_apart))?;
        let known = self.filtering == Dependence::EndpointIndependent
            || self.visited.contains_key(&visit_key(mapping, *remote.ip()));
        (known && self.room().is_ok()).then(|| self.add(mapping, remote, now))
    }

    /// A port may have several mappings as long as what comes in belongs to one of them.
    fn told_apart(&self) -> Dependence {
        self.mapping.min(self.filtering)
    }

    fn room(&self) -> Result<(), NoRoom> {
        if self.len() < self.limit { Ok(()) } else { Err(NoRoom::Table) }
    }

    fn add(&mut self, id: usize, remote: SocketAddrV4, now: Instant) -> usize {
        let mapping = self.mappings.get(id);
        mapping.sessions += 1;
        let (protocol, inside, port) = (mapping.protocol, mapping.inside, mapping.port);
        let session = self.sessions.insert(Session {
            protocol,
            inside,
            remote,
            port,
            tcp: Connection::default(),
            offset: 0,
            mapping: id,
            ends: now,
        });
        self.by_inside.insert(inside_key(protocol, inside, remote), session);
        self.by_outside.insert(outside_key(protocol, port, remote), session);
        if self.filtering == Dependence::Address {
            *self.visited.entry(visit_key(id, *remote.ip())).or_default() += 1;
        }
        session
    }

    /// The session has been used: it ends later now, or earlier if it is closing. `before` is the
    /// phase that it was in; `None` if it is new.
    pub(crate) fn touch(&mut self, id: usize, before: Option<Phase>, now: Instant) {
        let session = self.sessions.get(id);
        let phase = session.tcp.phase();
        let idle = match session.protocol {
            Protocol::Tcp => phase.idle_time(),
            Protocol::Udp => UDP_IDLE,
            Protocol::Query => QUERY_IDLE,
        };
        let prolongs = session.protocol != Protocol::Tcp || phase != Phase::Unanswered;
        if !prolongs && before == Some(phase) {
            return;
        }
        let watched = before.is_some() && now + idle >= session.ends;
        session.ends = now + idle;
        if !watched {
            self.ends.push(Reverse((now + idle, id, self.sessions.generation(id))));
        }
    }

    /// Ends what has been idle for too long.
    pub(crate) fn expire(&mut self, now: Instant) {
        while let Some(Reverse((due, id, generation))) = self.ends.peek().copied() {
            if due > now {
                break;
            }
            self.ends.pop();
            if self.sessions.generation(id) != generation {
                continue;
            }
            let ends = self.sessions.get(id).ends;
            if ends > now {
                self.ends.push(Reverse((ends, id, generation)));
            } else {
                self.remove(id);
            }
        }
    }

    pub(crate) fn remove(&mut self, id: usize) {
        let Some(session) = self.sessions.remove(id) else { return };
        let Session { protocol, inside, remote, port, .. } = session;
        self.by_inside.remove(&inside_key(protocol, inside, remote));
        self.by_outside.remove(&outside_key(protocol, port, remote));
        if self.filtering == Dependence::Address {
            let key = visit_key(session.mapping, *remote.ip());
            let left = self.visited.get_mut(&key).map_or(0, |count| {
                *count -= 1;
                *count
            });
            if left == 0 {
                self.visited.remove(&key);
            }
        }
        let mapping = self.mappings.get(session.mapping);
        mapping.sessions -= 1;
        if mapping.sessions == 0
            && let Some(mapping) = self.mappings.remove(session.mapping)
        {
            let inside = inside_key(protocol, inside, masked(mapping.remote, self.mapping));
            self.mapping_by_inside.remove(&inside);
            let outside = outside_key(protocol, port, masked(mapping.remote, self.told_apart()));
            self.mapping_by_outside.remove(&outside);
        }
    }
}

/// What of a remote endpoint counts.
fn masked(remote: SocketAddrV4, dependence: Dependence) -> SocketAddrV4 {
    match dependence {
        Dependence::EndpointIndependent => SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0),
        Dependence::Address => SocketAddrV4::new(*remote.ip(), 0),
        Dependence::AddressAndPort => remote,
    }
}

fn inside_key(protocol: Protocol, inside: SocketAddrV4, remote: SocketAddrV4) -> u128 {
    u128::from(inside.ip().to_bits()) << 72 | outside_key(protocol, inside.port(), remote)
}

fn outside_key(protocol: Protocol, port: u16, remote: SocketAddrV4) -> u128 {
    (protocol as u128) << 64
        | u128::from(port) << 48
        | u128::from(remote.ip().to_bits()) << 16
        | u128::from(remote.port())
}

fn visit_key(mapping: usize, remote: Ipv4Addr) -> u128 {
    (mapping as u128) << 32 | u128::from(remote.to_bits())
}

type Map<T> = HashMap<u128, T, BuildHasherDefault<Mixer>>;

/// A hash for keys of one number: two multiplications, since nobody attacks this NAT and it is to
/// be fast.
#[derive(Default)]
struct Mixer(u64);

impl Hasher for Mixer {
    fn write(&mut self, _: &[u8]) {
        unreachable!("keys are u128");
    }

    fn write_u128(&mut self, key: u128) {
        // The constants of splitmix64.
        let low = (key as u64).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let high = ((key >> 64) as u64).wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = ((low ^ (low >> 32)) ^ high).wrapping_mul(0x94d0_49bb_1331_11eb);
        self.0 = mixed ^ (mixed >> 32);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Values at places that are used again, each time as another generation.
struct Slab<T> {
    places: Vec<(u32, Option<T>)>,
    free: Vec<usize>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { places: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    fn insert(&mut self, value: T) -> usize {
        let id = self.free.pop().unwrap_or_else(|| {
            self.places.push((0, None));
            self.places.len() - 1
        });
        self.places[id].1 = Some(value);
        id
    }

    fn get(&mut self, id: usize) -> &mut T {
        self.places[id].1.as_mut().expect("whoever has its number knows that it is there")
    }

    fn generation(&self, id: usize) -> u32 {
        self.places[id].0
    }

    fn remove(&mut self, id: usize) -> Option<T> {
        let place = &mut self.places[id];
        let value = place.1.take()?;
        place.0 = place.0.wrapping_add(1);
        self.free.push(id);
        Some(value)
    }
}
