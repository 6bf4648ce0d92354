//! The NATs between a router's namespace and the backbone, from inside to outside.

use std::time::Instant;

use crate::nat::{Nat, Verdict};
use crate::packet::Packet;

/// The side on which a packet leaves the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Inside,
    Outside,
}

/// Any number of NATs in a row.
#[derive(Default)]
pub(crate) struct Chain(Vec<Nat>);

impl Chain {
    pub(crate) fn new(nats: Vec<Nat>) -> Self {
        Self(nats)
    }

    /// Every NAT is switched off and on again.
    pub(crate) fn restart(&mut self, now: Instant) {
        self.0.iter_mut().for_each(|nat| nat.restart(now));
    }

    /// A packet enters from a side. Where it leaves, if it does.
    pub(crate) fn pass(&mut self, from: Side, packet: &mut Packet, now: Instant) -> Option<Side> {
        let (place, towards) = match from {
            Side::Inside => (0, Side::Outside),
            Side::Outside => (self.0.len(), Side::Inside),
        };
        self.walk(place, towards, packet, now)
    }

    /// `place` counts the NATs that are further inside than the packet.
    fn walk(
        &mut self,
        mut place: usize,
        mut towards: Side,
        packet: &mut Packet,
        now: Instant,
    ) -> Option<Side> {
        loop {
            let (verdict, next) = match towards {
                Side::Outside => match self.0.get_mut(place) {
                    Some(nat) => (nat.outbound(packet, now), place + 1),
                    None => return Some(Side::Outside),
                },
                Side::Inside => match place.checked_sub(1) {
                    Some(next) => (self.0[next].inbound(packet, now), next),
                    None => return Some(Side::Inside),
                },
            };
            match verdict {
                Verdict::Onward => place = next,
                Verdict::Back => towards = towards.other(),
                Verdict::Drop => return None,
            }
        }
    }

    /// When a NAT says something by itself.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.0.iter().filter_map(Nat::next_due).min()
    }

    /// What the NATs say by themselves, each to its outside: where it leaves, if there was any.
    pub(crate) fn poll(&mut self, packet: &mut Packet, now: Instant) -> Option<Side> {
        (0..self.0.len()).find_map(|place| {
            self.0[place].poll(packet, now).then_some(())?;
            self.walk(place + 1, Side::Outside, packet, now)
        })
    }
}

impl Side {
    fn other(self) -> Self {
        match self {
            Self::Inside => Self::Outside,
            Self::Outside => Self::Inside,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::packet::syn;

    const CARRIER: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 1);

    fn two_in_a_row(now: Instant) -> Chain {
        let nat = |external: [u8; 4], hop, spec: &str| {
            Nat::new(spec.parse().unwrap(), external.into(), hop, 1, now)
        };
        Chain::new(vec![
            nat([100, 64, 0, 2], None, ""),
            nat([198, 51, 100, 1], Some(CARRIER), "unsolicited=rst"),
        ])
    }

    const HOST: [u8; 4] = [192, 168, 1, 2];
    const PEER: [u8; 4] = [203, 0, 113, 1];
    const PUBLIC: [u8; 4] = [198, 51, 100, 1];

    #[test]
    fn a_packet_is_translated_twice_and_a_carriers_nat_is_a_hop() {
        let now = Instant::now();
        let mut chain = two_in_a_row(now);
        let mut packet = syn(HOST, PEER, 63);
        assert_eq!(chain.pass(Side::Inside, &mut packet, now), Some(Side::Outside));
        let summary = packet.summary().unwrap();
        assert_eq!((summary.source, summary.hop_limit), (IpAddr::from(PUBLIC), 62));
        let mut answer = syn(PEER, PUBLIC, 60);
        assert_eq!(chain.pass(Side::Outside, &mut answer, now), Some(Side::Inside));
        let summary = answer.summary().unwrap();
        assert_eq!((summary.destination, summary.hop_limit), (IpAddr::from(HOST), 59));
    }

    #[test]
    fn answers_of_the_outer_nat_reach_the_host_and_the_world() {
        let now = Instant::now();
        let mut chain = two_in_a_row(now);
        let mut dying = syn(HOST, PEER, 1);
        assert_eq!(chain.pass(Side::Inside, &mut dying, now), Some(Side::Inside));
        let summary = dying.summary().unwrap();
        assert_eq!(summary.source, IpAddr::from(CARRIER));
        assert_eq!(summary.destination, IpAddr::from(HOST));
        let mut stray = syn(PEER, PUBLIC, 9);
        assert_eq!(chain.pass(Side::Outside, &mut stray, now), Some(Side::Outside));
        assert_eq!(stray.summary().unwrap().destination, IpAddr::from(PEER));
    }
}
