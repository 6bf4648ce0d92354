//! One packet in a buffer that is used again.

use std::net::IpAddr;

use etherparse::{IpNumber, Ipv4HeaderSlice, Ipv6HeaderSlice};

/// Largest packet carried; the interfaces keep the usual MTU of 1500.
pub(crate) const CAPACITY: usize = 2048;

/// A packet and the room it lies in.
#[derive(Clone)]
pub(crate) struct Packet {
    room: Box<[u8; CAPACITY]>,
    len: usize,
}

/// What routing needs to know of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) hop_limit: u8,
    /// Whether RFC 1122 section 3.2.2 and RFC 4443 section 2.4 let a router answer with an error.
    pub(crate) may_be_answered: bool,
}

impl Packet {
    pub(crate) fn new() -> Self {
        Self { room: Box::new([0; CAPACITY]), len: 0 }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.room[..self.len]
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.room[..self.len]
    }

    /// The whole buffer, to be written by a read; [`Packet::set_len`] follows.
    pub(crate) fn room_mut(&mut self) -> &mut [u8] {
        &mut self.room[..]
    }

    pub(crate) fn set_len(&mut self, len: usize) {
        self.len = len.min(CAPACITY);
    }

    pub(crate) fn copy_from(&mut self, bytes: &[u8]) {
        self.set_len(bytes.len());
        let len = self.len;
        self.room[..len].copy_from_slice(&bytes[..len]);
    }

    /// `None` for what is not an IP packet.
    pub(crate) fn summary(&self) -> Option<Summary> {
        let bytes = self.bytes();
        match bytes.first()? >> 4 {
            4 => {
                let header = Ipv4HeaderSlice::from_slice(bytes).ok()?;
                let payload = &bytes[header.slice().len()..];
                // Errors have types 3, 4, 5, 11 and 12; questions and answers the rest.
                let error = header.protocol() == IpNumber::ICMP
                    && matches!(payload.first(), None | Some(3 | 4 | 5 | 11 | 12));
                Some(Summary {
                    source: header.source_addr().into(),
                    destination: header.destination_addr().into(),
                    hop_limit: header.ttl(),
                    may_be_answered: !error && header.fragments_offset().value() == 0,
                })
            }
            6 => {
                let header = Ipv6HeaderSlice::from_slice(bytes).ok()?;
                let error = header.next_header() == IpNumber::IPV6_ICMP
                    && bytes.get(40).is_none_or(|kind| *kind < 128);
                Some(Summary {
                    source: header.source_addr().into(),
                    destination: header.destination_addr().into(),
                    hop_limit: header.hop_limit(),
                    may_be_answered: !error,
                })
            }
            _ => None,
        }
    }
}

/// A SYN for tests.
#[cfg(test)]
pub(crate) fn syn(source: [u8; 4], destination: [u8; 4], ttl: u8) -> Packet {
    let mut bytes = Vec::new();
    etherparse::PacketBuilder::ipv4(source, destination, ttl)
        .tcp(40_000, 40_000, 1, 65_535)
        .syn()
        .write(&mut bytes, &[])
        .unwrap();
    let mut packet = Packet::new();
    packet.copy_from(&bytes);
    packet
}
