//! What each address has of the server: connections, places, and how much it asked lately.

use super::limits::AddressLimits;
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

/// Addresses that are remembered at once; more are refused. Each takes about a hundred bytes.
const MAX_ADDRESSES: usize = 1 << 20;

/// What counts as one address: an IPv6 host has a whole /64 to itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Subnet {
    V4([u8; 4]),
    V6([u8; 8]),
}

impl Subnet {
    pub(super) fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(v4) => Self::V4(v4.octets()),
            IpAddr::V6(v6) => {
                let [a, b, c, d, e, f, g, h, ..] = v6.octets();
                Self::V6([a, b, c, d, e, f, g, h])
            }
        }
    }
}

/// So many in a span of time, all of them at once if need be: the time at which a bucket that
/// drips evenly would have let the last one through (the virtual scheduling algorithm of ITU-T
/// I.371).
#[derive(Clone, Copy, Debug, Default)]
struct Bucket(Duration);

impl Bucket {
    fn take(&mut self, limit: u32, span: Duration, now: Duration) -> bool {
        if limit == 0 {
            return false;
        }
        let next = self.0.max(now) + span / limit;
        let allowed = next <= now + span;
        if allowed {
            self.0 = next;
        }
        allowed
    }

    fn is_full(self, now: Duration) -> bool {
        self.0 <= now
    }
}

const MINUTE: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, Default)]
struct Usage {
    connections: u32,
    waiting: u32,
    meetings: Bucket,
    probes: Bucket,
    requests: Bucket,
}

/// The accounts of all addresses.
#[derive(Debug)]
pub(super) struct Quotas {
    limits: AddressLimits,
    addresses: HashMap<Subnet, Usage>,
    /// Those without a connection, and when all their buckets are full again.
    leaving: VecDeque<(Duration, Subnet)>,
}

impl Quotas {
    pub(super) fn new(limits: AddressLimits) -> Self {
        Self { limits, addresses: HashMap::new(), leaving: VecDeque::new() }
    }

    /// Whether one more connection is within bounds; then it is counted.
    pub(super) fn connect(&mut self, ip: IpAddr) -> bool {
        let subnet = Subnet::of(ip);
        if self.addresses.len() >= MAX_ADDRESSES && !self.addresses.contains_key(&subnet) {
            return false;
        }
        let usage = self.addresses.entry(subnet).or_default();
        let allowed = usage.connections < self.limits.connections;
        usage.connections += u32::from(allowed);
        allowed
    }

    pub(super) fn disconnect(&mut self, ip: IpAddr, now: Duration) {
        let subnet = Subnet::of(ip);
        let Some(usage) = self.addresses.get_mut(&subnet) else { return };
        usage.connections = usage.connections.saturating_sub(1);
        if usage.connections == 0 {
            self.leaving.push_back((now + MINUTE, subnet));
        }
    }

    pub(super) fn request(&mut self, ip: IpAddr, now: Duration) -> bool {
        let limit = self.limits.requests;
        self.usage(ip).requests.take(limit, SECOND, now)
    }

    pub(super) fn meeting(&mut self, ip: IpAddr, now: Duration) -> bool {
        let limit = self.limits.meetings;
        self.usage(ip).meetings.take(limit, MINUTE, now)
    }

    pub(super) fn probe(&mut self, ip: IpAddr, now: Duration) -> bool {
        let limit = self.limits.probes;
        self.usage(ip).probes.take(limit, MINUTE, now)
    }

    /// Whether one more may wait; then it is counted.
    pub(super) fn wait(&mut self, ip: IpAddr) -> bool {
        let limit = self.limits.waiting;
        let usage = self.usage(ip);
        let allowed = usage.waiting < limit;
        usage.waiting += u32::from(allowed);
        allowed
    }

    pub(super) fn wait_over(&mut self, ip: IpAddr) {
        let usage = self.usage(ip);
        usage.waiting = usage.waiting.saturating_sub(1);
    }

    /// When there is something to forget.
    pub(super) fn poll_timeout(&self) -> Option<Duration> {
        self.leaving.front().map(|(at, _)| *at)
    }

    /// Forgets addresses that have nothing any more.
    pub(super) fn handle_timeout(&mut self, now: Duration) {
        while let Some((at, subnet)) = self.leaving.front().copied()
            && at <= now
        {
            self.leaving.pop_front();
            let idle = |usage: &Usage| {
                let buckets = [usage.meetings, usage.probes, usage.requests];
                usage.connections == 0 && buckets.iter().all(|bucket| bucket.is_full(now))
            };
            // One that came back meanwhile leaves again later.
            if self.addresses.get(&subnet).is_some_and(idle) {
                self.addresses.remove(&subnet);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.addresses.len()
    }

    /// Only for an address with a connection, so that nothing is left behind.
    fn usage(&mut self, ip: IpAddr) -> &mut Usage {
        self.addresses.entry(Subnet::of(ip)).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quotas() -> Quotas {
        Quotas::new(AddressLimits {
            connections: 2,
            waiting: 1,
            meetings: 3,
            probes: 1,
            requests: 2,
        })
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn each_address_has_its_own_and_an_ipv6_network_one() {
        let mut quotas = quotas();
        let (one, other) = (ip("198.51.100.1"), ip("198.51.100.2"));
        assert_eq!([(); 3].map(|()| quotas.connect(one)), [true, true, false]);
        assert!(quotas.connect(other));
        assert!(!quotas.connect(ip("::ffff:198.51.100.1")), "the same address, written otherwise");
        assert!(quotas.connect(ip("2001:db8::1")) && quotas.connect(ip("2001:db8::2")));
        assert!(!quotas.connect(ip("2001:db8:0:0:ffff::3")));
        assert!(quotas.connect(ip("2001:db8:0:1::1")));
    }

    #[test]
    fn what_was_used_comes_back_with_time() {
        let mut quotas = quotas();
        let one = ip("198.51.100.1");
        let at = Duration::from_secs;
        assert_eq!([(); 4].map(|()| quotas.meeting(one, at(5))), [true, true, true, false]);
        assert!(!quotas.meeting(one, at(24)));
        assert!(quotas.meeting(one, at(25)));
        assert!(!quotas.meeting(one, at(26)));
    }

    #[test]
    fn an_address_that_left_is_forgotten_but_not_what_it_used() {
        let mut quotas = quotas();
        let one = ip("198.51.100.1");
        let at = Duration::from_secs;
        assert!(quotas.connect(one) && quotas.probe(one, at(0)));
        quotas.disconnect(one, at(0));
        assert!(quotas.connect(one) && !quotas.probe(one, at(59)), "a new connection, old account");
        quotas.disconnect(one, at(59));
        quotas.handle_timeout(at(118));
        assert_eq!(quotas.len(), 0, "the bucket is full at 60, the first look after it forgets");
        quotas.handle_timeout(at(119));
        assert_eq!((quotas.len(), quotas.poll_timeout()), (0, None));
    }
}
