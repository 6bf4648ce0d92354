//! What the engine and the programs in `ebpf/` share: a mirror of `ebpf/abi.h`, which says what
//! everything means.
#![allow(unsafe_code)]

use std::net::IpAddr;

/// A port set: port P is bit P % 8 of byte P / 8.
pub(super) type PortSet = [u8; 8192];

/// With a key the peer may start at one of so many numbers.
pub(super) const MOST_EXPECTED: usize = 8;

#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ends {
    pub(super) local: [u8; 16],
    pub(super) peer: [u8; 16],
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Rule {
    pub(super) ends: Ends,
    pub(super) flags: u32,
    pub(super) unused: u32,
    pub(super) locals: PortSet,
    pub(super) remotes: PortSet,
}

impl Rule {
    pub(super) const RESETS: u32 = 1;
    pub(super) const PROBES: u32 = 2;
    pub(super) const ERRORS: u32 = 4;
    pub(super) const HOST_TRACKS: u32 = 8;
}

#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ExactTuple {
    pub(super) ends: Ends,
    pub(super) local_port: u16,
    pub(super) peer_port: u16,
}

impl ExactTuple {
    pub(super) const ANSWER: u32 = 1;
    pub(super) const LET_IN: u32 = 2;
    pub(super) const RELEASED: u32 = 4;
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) wall_offset_ns: i64,
    pub(super) armed: u32,
    pub(super) iss: u32,
    pub(super) expected: [u32; MOST_EXPECTED],
    pub(super) expected_count: u32,
    pub(super) everywhere: u32,
    pub(super) window: u16,
    pub(super) mss: u16,
    pub(super) window_scale: u8,
    pub(super) mark: u8,
    pub(super) unused: u16,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) at_ns: u64,
    pub(super) length: u32,
    pub(super) captured: u32,
    pub(super) reply_tsval: u32,
    pub(super) flags: u32,
}

impl Event {
    pub(super) const STOLEN: u32 = 1;
    pub(super) const ANSWERED: u32 = 2;
    pub(super) const CHECKSUM_SETTLED: u32 = 4;

    /// The event and its packet, from what the ring holds.
    pub(super) fn read(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (head, rest) = bytes.split_at_checked(size_of::<Self>())?;
        // SAFETY: as many bytes as the struct has, read unaligned; any bytes are a value of it.
        let event = unsafe { head.as_ptr().cast::<Self>().read_unaligned() };
        let captured = usize::try_from(event.captured).ok()?;
        Some((event, rest.get(..captured)?))
    }
}

// SAFETY: integers and arrays of them, without padding.
unsafe impl aya::Pod for Rule {}
// SAFETY: as above.
unsafe impl aya::Pod for ExactTuple {}
// SAFETY: as above.
unsafe impl aya::Pod for Reply {}

/// An address as the programs compare it: IPv4 mapped (RFC 4291 section 2.5.5.2).
pub(super) fn mapped(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
    .octets()
}

/// The ports as a bitmap.
pub(super) fn port_set(ports: &[u16]) -> PortSet {
    let mut set = [0; _];
    for port in ports {
        let byte: &mut u8 = &mut set[usize::from(port >> 3)];
        *byte |= 1 << (port & 7);
    }
    set
}
