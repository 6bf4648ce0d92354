//! The network itself: routes, hops and links, without interfaces and without a clock.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::hop::{self, Refusal};
use crate::link::{Impairments, Link};
use crate::packet::{Packet, Summary};
use crate::queue::DelayQueue;
use crate::route::{Prefix, Routes};

/// The wide area network between the attached routers, which are known by their index.
pub(crate) struct Backbone {
    routes: Routes,
    hops: u8,
    /// By sender, then by receiver, so that every direction may differ.
    links: Vec<Vec<Link>>,
    /// By receiver.
    queues: Vec<DelayQueue>,
    spare: Vec<Packet>,
}

impl Backbone {
    pub(crate) fn new(
        prefixes: impl IntoIterator<Item = Vec<Prefix>>,
        hops: u8,
        impairments: Impairments,
        seed: u64,
    ) -> Self {
        let prefixes: Vec<_> = prefixes.into_iter().collect();
        let routers = prefixes.len();
        let links = (0..routers)
            .map(|from| {
                (0..routers)
                    .map(|to| {
                        // Far apart, so that no two links draw the same sequence.
                        let stream = ((from * routers + to) as u64) << 40;
                        Link::new(impairments, seed ^ stream)
                    })
                    .collect()
            })
            .collect();
        Self {
            routes: Routes::new(prefixes),
            hops,
            links,
            queues: (0..routers).map(|_| DelayQueue::default()).collect(),
            spare: Vec::new(),
        }
    }

    /// An empty packet to read into.
    pub(crate) fn blank(&mut self) -> Packet {
        self.spare.pop().unwrap_or_else(Packet::new)
    }

    /// Takes a packet's memory back.
    pub(crate) fn recycle(&mut self, packet: Packet) {
        self.spare.push(packet);
    }

    /// When the next packet is to be delivered.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.queues.iter().filter_map(DelayQueue::next_due).min()
    }

    /// The next packet that router `to` should have received by `now`.
    pub(crate) fn pop_due(&mut self, to: usize, now: Instant) -> Option<Packet> {
        self.queues[to].pop_due(now)
    }

    /// A packet comes from router `from` at `now`.
    pub(crate) fn forward(&mut self, from: usize, mut packet: Packet, now: Instant) {
        let Some(summary) = packet.summary().filter(|s| is_routed(s.destination)) else {
            return self.recycle(packet);
        };
        let to = match self.routes.find(summary.destination) {
            Some(to) if to != from => to,
            // Sending it back where it came from would only circle until the hop limit ends it.
            _ => return self.refuse(Refusal::NoRoute, 1, from, from, packet, summary, now),
        };
        let arrivals = self.links[from][to].traverse(now);
        let Some(first) = arrivals.first else {
            return self.recycle(packet);
        };
        // Router number h receives a hop limit lowered by h - 1 and forwards only what is above 1.
        if summary.hop_limit <= self.hops {
            let hop = summary.hop_limit.max(1);
            hop::count_down(&mut packet, hop - 1);
            return self.refuse(Refusal::TimeExceeded, hop, from, to, packet, summary, now);
        }
        hop::count_down(&mut packet, self.hops);
        if let Some(duplicate) = arrivals.duplicate {
            let mut copy = self.blank();
            copy.copy_from(packet.bytes());
            self.enqueue(to, duplicate, copy);
        }
        self.enqueue(to, first, packet);
    }

    /// Router `hop`, counted from the sender, answers with an error, if it may.
    #[expect(clippy::too_many_arguments, reason = "one call with all that is known of a packet")]
    fn refuse(
        &mut self,
        refusal: Refusal,
        hop: u8,
        from: usize,
        to: usize,
        packet: Packet,
        summary: Summary,
        now: Instant,
    ) {
        let mut error = self.blank();
        // Numbers are places: the first router seen from one side is the last seen from the other.
        let number =
            if from < to || from == 0 { hop } else { (self.hops + 1).saturating_sub(hop).max(1) };
        let router = hop::address(number, summary.source);
        let written = summary.may_be_answered
            && hop::answer(refusal, packet.bytes(), router, summary.source, hop, &mut error)
                .is_some();
        self.recycle(packet);
        if written {
            let there = self.share_of_delay(from, to, hop);
            let back = self.share_of_delay(to, from, hop);
            self.enqueue(from, now + there + back, error);
        } else {
            self.recycle(error);
        }
    }

    /// The delay between a router and hop number `hop` from it, hops being evenly spaced.
    fn share_of_delay(&self, from: usize, to: usize, hop: u8) -> Duration {
        self.links[from][to].delay() * u32::from(hop) / (u32::from(self.hops) + 1)
    }

    fn enqueue(&mut self, to: usize, due: Instant, packet: Packet) {
        if let Err(dropped) = self.queues[to].push(due, packet) {
            self.recycle(dropped);
        }
    }
}

/// Multicast and link-local packets, such as those of neighbour discovery, stay on their link.
fn is_routed(destination: IpAddr) -> bool {
    match destination {
        IpAddr::V4(v4) => !(v4.is_multicast() || v4.is_broadcast() || v4.is_link_local()),
        IpAddr::V6(v6) => !(v6.is_multicast() || v6.is_unicast_link_local()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::syn;

    const DELAY: Duration = Duration::from_millis(20);

    fn backbone(impairments: Impairments) -> Backbone {
        let prefixes = ["198.51.100.0/24", "203.0.113.0/24"];
        Backbone::new(prefixes.map(|prefix| vec![prefix.parse().unwrap()]), 3, impairments, 1)
    }

    fn calm() -> Backbone {
        backbone(Impairments { delay: DELAY, ..Impairments::default() })
    }

    const A: [u8; 4] = [198, 51, 100, 1];
    const B: [u8; 4] = [203, 0, 113, 1];

    #[test]
    fn a_packet_arrives_after_the_delay_with_its_hop_limit_lowered() {
        let now = Instant::now();
        let mut wan = calm();
        wan.forward(0, syn(A, B, 64), now);
        assert_eq!(wan.next_due(), Some(now + DELAY));
        assert!(wan.pop_due(0, now + DELAY).is_none());
        let arrived = wan.pop_due(1, now + DELAY).unwrap();
        assert_eq!(arrived.summary().unwrap().hop_limit, 61);
        assert_eq!(wan.next_due(), None);
    }

    #[test]
    fn hops_answer_in_the_senders_order() {
        for (from, source, destination, numbers) in [(0, A, B, [1, 2, 3]), (1, B, A, [3, 2, 1])] {
            for (ttl, number) in (1..).zip(numbers) {
                let now = Instant::now();
                let mut wan = calm();
                wan.forward(from, syn(source, destination, ttl), now);
                assert_eq!(
                    wan.next_due(),
                    Some(now + DELAY * u32::from(ttl) / 4 * 2),
                    "as far back as there"
                );
                let error = wan.pop_due(from, now + DELAY * 2).unwrap();
                let summary = error.summary().unwrap();
                assert_eq!(summary.source, IpAddr::from([192, 0, 2, number]));
                assert_eq!(summary.destination, IpAddr::from(source));
            }
        }
        let mut wan = calm();
        wan.forward(0, syn(A, B, 4), Instant::now());
        let arrived = wan.pop_due(1, Instant::now() + DELAY).unwrap();
        assert_eq!(arrived.summary().unwrap().hop_limit, 1);
    }

    #[test]
    fn without_a_route_the_first_hop_says_so() {
        let nowhere = [9, 9, 9, 9];
        for (from, source, destination, number) in
            [(0, A, nowhere, 1), (0, A, A, 1), (1, B, nowhere, 3)]
        {
            let mut wan = calm();
            wan.forward(from, syn(source, destination, 64), Instant::now());
            let error = wan.pop_due(from, Instant::now() + DELAY).unwrap();
            assert_eq!(error.summary().unwrap().source, IpAddr::from([192, 0, 2, number]));
        }
    }

    #[test]
    fn errors_about_errors_and_multicast_are_not_sent() {
        let mut wan = calm();
        let now = Instant::now();
        wan.forward(0, syn(A, B, 1), now);
        let error = wan.pop_due(0, now + DELAY).unwrap();
        // The error leaves towards a place that does not exist.
        wan.forward(1, error, now);
        wan.forward(0, syn(A, [224, 0, 0, 1], 1), now);
        let mut nonsense = Packet::new();
        nonsense.copy_from(&[0x45, 0]);
        wan.forward(0, nonsense, now);
        let late = now + DELAY * 4;
        assert!(wan.pop_due(0, late).is_some_and(|p| !p.summary().unwrap().may_be_answered));
        assert!(wan.pop_due(0, late).is_none());
        assert!(wan.pop_due(1, late).is_none());
    }

    #[test]
    fn reordered_and_repeated_packets() {
        let now = Instant::now();
        let mut wan = backbone(Impairments {
            delay: DELAY,
            duplicate: "100".parse().unwrap(),
            reorder: "100".parse().unwrap(),
            ..Impairments::default()
        });
        wan.forward(0, syn(A, B, 64), now);
        assert!(wan.pop_due(1, now + DELAY).is_some());
        assert!(wan.pop_due(1, now + DELAY).is_none());
        assert!(wan.pop_due(1, now + DELAY * 2).is_some());
    }
}
