//! A search over many tuples: no state for any of them until the peer is heard on it.

use crate::wire::{Tuple, WallTime};
use std::net::IpAddr;
use std::ops::Range;
use std::time::Duration;

/// All tuples of a search, and when what leaves on them.
///
/// First an opener on every one, then a SYN on every one (or a probe, where no SYN is sent): a SYN
/// that comes before the peer's opener draws a reset, and that closes what it hits. What the
/// budget leaves repeats them, or sends the SYN-ACKs that nobody asked for.
#[derive(Clone, Debug)]
pub struct Search {
    local: IpAddr,
    remote: IpAddr,
    sources: Vec<u16>,
    targets: Vec<u16>,
    is_source: PortSet,
    is_target: PortSet,
    tuples: u32,
    peer_tuples: u32,
    rate: u32,
    at: WallTime,
    lead: Duration,
    /// What is still to leave, the next first.
    waves: Vec<(Wave, WallTime, Range<u32>)>,
    /// The first of them has begun.
    underway: bool,
}

/// What leaves on every tuple.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wave {
    /// What leaves first, with this hop limit.
    Opener(u8),
    /// What leaves first: SYNs, or probes.
    First,
    /// SYN-ACKs for SYNs that did not come in.
    UnaskedSynAck,
}

/// Tuples on which the same leaves now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// What leaves.
    pub wave: Wave,
    /// On which tuples, by their place: see [`Search::tuple`].
    pub tuples: Range<u32>,
}

/// What a search is made of: a [`Plan`](super::Plan) and where it is carried out.
#[derive(Clone, Debug)]
pub struct SearchConfig {
    /// This host's address.
    pub local: IpAddr,
    /// The peer's.
    pub remote: IpAddr,
    /// Local ports, in the order of the plan.
    pub sources: Vec<u16>,
    /// Ports of the peer, in the order of the plan.
    pub targets: Vec<u16>,
    /// On so many tuples the peer sends, for as long as that takes it at the same rate.
    pub peer_tuples: u32,
    /// Packets a second.
    pub rate: u32,
    /// Packets in all.
    pub packets: u32,
    /// Whether SYNs leave at the instant; in large searches one end opens and listens only.
    pub fires: bool,
    /// Whether SYN-ACKs follow unasked.
    pub speculates: bool,
    /// The instant.
    pub at: WallTime,
    /// The last opener leaves so long before it.
    pub lead: Duration,
}

/// Packets that are no part of any wave: the probes of the path, and the handshake.
const HANDSHAKE: u32 = 32;
/// The last SYN of either end has arrived so long after it left, if nothing better is known.
const ARRIVAL: Duration = Duration::from_millis(150);
/// Clocks differ by as much, or a batch is late.
const GRACE: Duration = Duration::from_millis(10);
/// A wave that begins later than this is paced from then on instead of catching up.
const LATE: Duration = Duration::from_millis(5);
/// At most so many tuples at once, so that what comes in is not kept waiting.
const LARGEST_BATCH: u32 = 256;

impl Search {
    /// A search that has sent nothing yet.
    pub fn new(config: SearchConfig) -> Self {
        let SearchConfig { local, remote, sources, targets, rate, packets, at, lead, .. } = config;
        let peer_tuples = config.peer_tuples;
        let tuples = u32::try_from(sources.len() * targets.len()).unwrap_or(u32::MAX);
        let mut search = Self {
            local,
            remote,
            is_source: PortSet::of(&sources),
            is_target: PortSet::of(&targets),
            sources,
            targets,
            tuples,
            peer_tuples,
            rate: rate.max(1),
            at,
            lead,
            waves: Vec::new(),
            underway: false,
        };
        if config.fires {
            search.waves.push((Wave::First, at, 0..tuples));
            let spent = tuples.saturating_mul(2).saturating_add(HANDSHAKE);
            let rest = packets.saturating_sub(spent).min(tuples);
            let last = if config.speculates { Wave::UnaskedSynAck } else { Wave::First };
            let after = search.after_the_first(ARRIVAL);
            search.waves.push((last, after, 0..rest));
        }
        search.waves.retain(|(.., tuples)| !tuples.is_empty());
        search
    }

    /// Has openers leave with this hop limit, before the instant.
    pub fn set_opener(&mut self, hop_limit: u8) {
        if self.tuples > 0 {
            self.waves.insert(0, (Wave::Opener(hop_limit), self.opens_at(), 0..self.tuples));
        }
    }

    /// So long it takes to the peer, as far as probes tell.
    pub fn set_one_way(&mut self, one_way: Duration) {
        let after = self.after_the_first(one_way * 2 + GRACE);
        for (_, starts, _) in self.waves.iter_mut().filter(|(_, starts, _)| *starts > self.at) {
            *starts = after;
        }
    }

    /// When both ends' first wave is over and its last packet has arrived, which takes so long. A
    /// SYN-ACK that leaves unasked before the peer's SYN is by our router is lost.
    fn after_the_first(&self, arrival: Duration) -> WallTime {
        self.at.after(self.duration(self.tuples.max(self.peer_tuples)) + arrival)
    }

    /// When the first opener leaves.
    pub fn opens_at(&self) -> WallTime {
        self.at.before(self.opening_takes() + self.lead)
    }

    /// How long the openers take.
    pub fn opening_takes(&self) -> Duration {
        self.duration(self.tuples)
    }

    /// The first tuple.
    pub fn first(&self) -> Tuple {
        let (local, remote) = self.tuple(0);
        Tuple { local: (self.local, local).into(), remote: (self.remote, remote).into() }
    }

    /// The local ports.
    pub fn sources(&self) -> &[u16] {
        &self.sources
    }

    /// The ports of the peer.
    pub fn targets(&self) -> &[u16] {
        &self.targets
    }

    /// How many tuples there are.
    pub fn tuples(&self) -> u32 {
        self.tuples
    }

    /// The local port and the peer's of the tuple at this place: all sources to one target, then
    /// the next target.
    pub fn tuple(&self, place: u32) -> (u16, u16) {
        let sources = u32::try_from(self.sources.len()).unwrap_or(1).max(1);
        let at = |ports: &[u16], place: u32| ports.get(place as usize).copied().unwrap_or(0);
        (at(&self.sources, place % sources), at(&self.targets, place / sources))
    }

    /// How many SYNs of the peer's may come in at once: one wave.
    pub fn incoming(&self) -> u32 {
        self.peer_tuples
    }

    /// Whether it may have sent on this tuple.
    pub fn covers(&self, tuple: Tuple) -> bool {
        tuple.local.ip() == self.local
            && tuple.remote.ip() == self.remote
            && self.is_source.contains(tuple.local.port())
            && self.is_target.contains(tuple.remote.port())
    }

    /// What is to leave now.
    pub fn poll(&mut self, now: WallTime) -> Option<Batch> {
        let rate = u64::from(self.rate);
        let (wave, starts, tuples) = self.waves.first_mut()?;
        if now < *starts {
            return None;
        }
        if !self.underway && now > starts.after(LATE) {
            *starts = now;
        }
        self.underway = true;
        let elapsed = u64::try_from(starts.until(now).as_nanos()).unwrap_or(u64::MAX);
        let due = elapsed.saturating_mul(rate) / 1_000_000_000 + 1;
        let end = tuples.end.min(u32::try_from(due).unwrap_or(u32::MAX));
        let end = end.min(tuples.start.saturating_add(LARGEST_BATCH));
        if end <= tuples.start {
            return None;
        }
        let batch = Batch { wave: *wave, tuples: tuples.start..end };
        tuples.start = end;
        if tuples.start >= tuples.end {
            self.underway = false;
            self.waves.remove(0);
        }
        Some(batch)
    }

    /// When [`Search::poll`] has something next; batches of a millisecond's worth.
    pub fn poll_timeout(&self) -> Option<WallTime> {
        let (_, starts, tuples) = self.waves.first()?;
        let quantum = (self.rate / 1000).clamp(1, LARGEST_BATCH);
        let last = tuples.start.saturating_add(quantum).min(tuples.end).saturating_sub(1);
        Some(starts.after(self.duration(last)))
    }

    /// Sends nothing more.
    pub fn stop(&mut self) {
        self.waves.clear();
    }

    fn duration(&self, packets: u32) -> Duration {
        Duration::from_nanos(u64::from(packets) * 1_000_000_000 / u64::from(self.rate))
    }
}

/// A set of ports, one bit for each.
#[derive(Clone)]
struct PortSet(Box<[u64; 1024]>);

impl PortSet {
    fn of(ports: &[u16]) -> Self {
        let mut set = Self(Box::new([0; 1024]));
        for port in ports {
            set.0[usize::from(port / 64)] |= 1 << (port % 64);
        }
        set
    }

    fn contains(&self, port: u16) -> bool {
        self.0[usize::from(port / 64)] & 1 << (port % 64) != 0
    }
}

impl std::fmt::Debug for PortSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PortSet({})", self.0.iter().map(|word| word.count_ones()).sum::<u32>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: i64 = 10_000;

    fn ms(at: i64) -> WallTime {
        WallTime::from_unix_ns(at * 1_000_000)
    }

    fn search(packets: u32, fires: bool) -> Search {
        Search::new(SearchConfig {
            local: [192, 168, 1, 2].into(),
            remote: [203, 0, 113, 1].into(),
            sources: vec![600, 700],
            targets: (1000..1075).collect(),
            peer_tuples: 0,
            rate: 1000,
            packets,
            fires,
            speculates: false,
            at: ms(AT),
            lead: Duration::from_millis(250),
        })
    }

    /// When what left, one line a wave, as `wave from-to tuples`.
    fn run(mut search: Search) -> Vec<(String, i64, i64, u32)> {
        let mut waves: Vec<(String, i64, i64, u32)> = Vec::new();
        while let Some(now) = search.poll_timeout() {
            let Some(batch) = search.poll(now) else { panic!("nothing at {now}") };
            let name = format!("{:?}", batch.wave);
            let at = now.unix_ns() / 1_000_000 - AT;
            let count = u32::try_from(batch.tuples.len()).unwrap();
            match waves.last_mut() {
                Some((last, _, end, sum)) if *last == name && at - *end < 100 => {
                    (*end, *sum) = (at, *sum + count);
                }
                _ => waves.push((name, at, at, count)),
            }
        }
        waves
    }

    #[test]
    fn every_opener_has_left_before_the_first_syn_does() {
        let mut search = search(300, true);
        search.set_opener(2);
        let waves = run(search);
        assert_eq!(waves[0], ("Opener(2)".into(), -400, -251, 150));
        assert_eq!(waves[1], ("First".into(), 0, 149, 150));
        assert_eq!(waves.len(), 2, "the budget allows no third wave");
    }

    #[test]
    fn unasked_syn_acks_wait_for_the_last_syn_of_a_peer_that_has_more_to_send() {
        let mut search = search(4000, true);
        search.peer_tuples = 400;
        search.set_one_way(Duration::from_millis(10));
        let waves = run(search);
        assert_eq!(waves[0], ("First".into(), 0, 149, 150));
        assert_eq!(waves[1].1, 400 + 20 + 10);
    }

    #[test]
    fn what_the_budget_leaves_over_repeats_syns() {
        assert_eq!(run(search(372, true))[1], ("First".into(), 300, 339, 40));
    }

    #[test]
    fn one_end_of_a_large_search_only_opens() {
        let mut search = search(300, false);
        search.set_opener(2);
        assert_eq!(run(search).len(), 1);
    }

    #[test]
    fn a_late_start_is_paced_and_a_late_batch_catches_up() {
        let mut search = search(300, true);
        assert_eq!(search.poll(ms(AT - 1)), None);
        let batch = search.poll(ms(AT + 5_000)).unwrap();
        assert_eq!(batch, Batch { wave: Wave::First, tuples: 0..1 });
        let batch = search.poll(ms(AT + 5_100)).unwrap();
        assert_eq!(batch, Batch { wave: Wave::First, tuples: 1..101 });
    }

    #[test]
    fn its_tuples_are_known_without_a_table() {
        let search = search(300, true);
        assert_eq!(search.tuple(0), (600, 1000));
        assert_eq!(search.tuple(1), (700, 1000));
        assert_eq!(search.tuple(149), (700, 1074));
        let tuple = |local: u16, remote: u16| Tuple {
            local: ([192, 168, 1, 2], local).into(),
            remote: ([203, 0, 113, 1], remote).into(),
        };
        assert!(search.covers(tuple(700, 1074)));
        assert!(!search.covers(tuple(701, 1074)));
        assert!(!search.covers(tuple(700, 1075)));
    }
}
