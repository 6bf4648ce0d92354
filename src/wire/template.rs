//! One segment for many tuples of two addresses: built once, and only its ports change.

use super::Segment;
use std::ops::Range;

/// A segment's packet of which only the two ports, and with them the TCP checksum, change. The
/// same segment with another hop limit is another template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    packet: Box<[u8]>,
    /// Where the TCP header starts; 0 where there is no packet.
    tcp: usize,
    /// One's complement sum of everything the TCP checksum covers but the ports.
    sum: u32,
}

const CHECKSUM: Range<usize> = 16..18;

impl Template {
    /// The template of this segment, whose own ports do not matter.
    pub fn new(segment: &Segment) -> Self {
        let packet = segment.to_packet().into_boxed_slice();
        let tcp = match packet.first() {
            Some(first) if first >> 4 == 4 => 20, // to_packet gives IPv4 no options
            Some(_) => 40,
            None => return Self { packet, tcp: 0, sum: 0 },
        };
        let word = |at: usize| u16::from_be_bytes([packet[tcp + at], packet[tcp + at + 1]]);
        // RFC 1624 equation 3, HC' = ~(~HC + ~m + m'), but for the m' of each tuple.
        let sum = [CHECKSUM.start, 0, 2].into_iter().map(|at| u32::from(!word(at))).sum();
        Self { packet, tcp, sum }
    }

    /// Length of the packet in bytes.
    #[allow(clippy::len_without_is_empty, reason = "only endpoints of unlike versions give none")]
    pub fn len(&self) -> usize {
        self.packet.len()
    }

    /// Whether the packet is an IPv6 one.
    pub fn is_ipv6(&self) -> bool {
        self.tcp == 40
    }

    /// Writes the packet of these ports to the first [`Template::len`] bytes, checksums finished:
    /// what [`Segment::to_packet`] would give. Allocates nothing.
    ///
    /// # Panics
    /// If `into` is shorter than that.
    pub fn write(&self, local_port: u16, remote_port: u16, into: &mut [u8]) {
        into[..self.packet.len()].copy_from_slice(&self.packet);
        let Some(tcp) = into[..self.packet.len()].get_mut(self.tcp..self.tcp + CHECKSUM.end) else {
            return;
        };
        // Five 16-bit words: two folds leave no carry.
        let sum = self.sum + u32::from(local_port) + u32::from(remote_port);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        tcp[..2].copy_from_slice(&local_port.to_be_bytes());
        tcp[2..4].copy_from_slice(&remote_port.to_be_bytes());
        tcp[CHECKSUM].copy_from_slice(&(!sum as u16).to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Options, Seq, Tuple};
    use proptest::prelude::*;

    fn segment(local: &str, remote: &str) -> Segment {
        let tuple = Tuple { local: local.parse().unwrap(), remote: remote.parse().unwrap() };
        Segment {
            syn: true,
            window: 64240,
            options: Options { mss: Some(1460), timestamps: Some((1000, 0)), ..Options::default() },
            ..Segment::new(tuple, Seq(0x0102_0304))
        }
    }

    fn v4() -> Segment {
        segment("192.168.1.2:40000", "203.0.113.1:40001")
    }

    fn v6() -> Segment {
        segment("[2001:db8:a::2]:40000", "[2001:db8:b::2]:40001")
    }

    fn at_ports(segment: &Segment, local: u16, remote: u16) -> Segment {
        let mut other = segment.clone();
        other.tuple.local.set_port(local);
        other.tuple.remote.set_port(remote);
        other
    }

    fn assert_writes_what_the_segment_gives(segment: &Segment, local: u16, remote: u16) {
        let template = Template::new(segment);
        let mut written = vec![0xa5; template.len()];
        template.write(local, remote, &mut written);
        assert_eq!(written, at_ports(segment, local, remote).to_packet(), "{local} > {remote}");
    }

    #[test]
    fn every_port_gives_the_segments_own_packet() {
        for segment in [v4(), v6()] {
            for port in 0..=u16::MAX {
                assert_writes_what_the_segment_gives(&segment, port, !port.rotate_left(5));
            }
        }
    }

    #[test]
    fn more_room_than_needed_is_left_alone() {
        let template = Template::new(&v4());
        let mut into = vec![7; template.len() + 2];
        template.write(1, 2, &mut into);
        assert_eq!(into[template.len()..], [7, 7]);
    }

    #[test]
    fn endpoints_of_unlike_versions_give_nothing() {
        let mut mixed = v4();
        mixed.tuple.remote = v6().tuple.remote;
        let template = Template::new(&mixed);
        assert_eq!(template.len(), 0);
        template.write(1, 2, &mut []);
    }

    proptest! {
        #[test]
        fn any_segment_and_ports_give_the_segments_own_packet(
            seq: u32,
            ack: Option<u32>,
            syn: bool,
            hop_limit: u8,
            mss: Option<u16>,
            payload in prop::collection::vec(any::<u8>(), 0..40),
            built: (u16, u16),
            written: (u16, u16),
            ipv6: bool,
        ) {
            let base = at_ports(&if ipv6 { v6() } else { v4() }, built.0, built.1);
            let options = Options { mss, ..base.options };
            let (seq, ack) = (Seq(seq), ack.map(Seq));
            let segment = Segment { seq, ack, syn, hop_limit, options, payload, ..base };
            assert_writes_what_the_segment_gives(&segment, written.0, written.1);
        }
    }
}
