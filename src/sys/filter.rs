//! Classic BPF socket filters: which packets a socket is shown.
#![allow(unsafe_code)]

use super::call::{CallFailed, Named};
use nix::errno::Errno;
use nix::libc;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd};

/// A filter program: a packet passes if any of its rules matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter(Vec<libc::sock_filter>);

/// One step of a rule.
#[derive(Clone, Copy)]
enum Step {
    /// Load so many bytes at this offset, keep these bits; they must equal the value.
    Equal { size: u32, offset: u32, mask: u32, value: u32 },
    /// As `Equal`, behind the IPv4 header whose length [`Step::MeasureHeader`] found.
    EqualPast { size: u32, offset: u32, value: u32 },
    /// Remember the length of the IPv4 header.
    MeasureHeader,
}

const BYTE: u32 = libc::BPF_B;
const HALF: u32 = libc::BPF_H;
const WORD: u32 = libc::BPF_W;
/// The RST bit of a TCP header's byte 13.
const RST: u32 = 4;
/// The kernel charges a filter to the socket's option memory, of which there were 20 KiB
/// (net.core.optmem_max) until Linux 6.7; so many ranges take two thirds of it.
const MOST_RANGES: usize = 512;
/// Boundaries among which 8-bit jumps reach from one end to the other.
const NEAR: usize = 250;

impl Filter {
    /// Shows nothing.
    pub fn nothing() -> Self {
        Self::any_of(&[])
    }

    /// Everything but resets, on segments that start at their TCP header as a TCP socket's do.
    pub fn no_reset() -> Self {
        Self::any_of(&[&[Step::Equal { size: BYTE, offset: 13, mask: RST, value: 0 }]])
    }

    /// What concerns a punch to `peer`, on packets that start at their IP header: TCP from the
    /// peer's address to one of our ports, and ICMP that answers our probes or quotes a packet of
    /// ours to the peer.
    pub fn punch(ports: &[u16], peer: IpAddr) -> Self {
        let rules: Vec<Vec<Step>> = match peer {
            IpAddr::V4(peer) => {
                let peer = u32::from(peer);
                let from_peer = equal(WORD, 12, peer);
                let segment = |port: &u16| {
                    vec![
                        equal(BYTE, 9, 6),
                        from_peer,
                        // Not a fragment but the first, which has the ports.
                        Step::Equal { size: HALF, offset: 6, mask: 0x1fff, value: 0 },
                        Step::MeasureHeader,
                        Step::EqualPast { size: HALF, offset: 2, value: (*port).into() },
                    ]
                };
                let echo_reply =
                    vec![equal(BYTE, 9, 1), Step::MeasureHeader, past(BYTE, 0, 0), from_peer];
                // Unreachable and time exceeded: the quoted packet's destination follows 8 bytes
                // of ICMP and 16 of the quoted header.
                let quote = |kind| {
                    let about = past(WORD, 24, peer);
                    vec![equal(BYTE, 9, 1), Step::MeasureHeader, past(BYTE, 0, kind), about]
                };
                ports.iter().map(segment).chain([echo_reply, quote(3), quote(11)]).collect()
            }
            IpAddr::V6(peer) => {
                let with = |head: &[Step], offset| {
                    head.iter().copied().chain(address(peer, offset)).collect::<Vec<_>>()
                };
                let segment =
                    |port: &u16| with(&[equal(BYTE, 6, 6), equal(HALF, 42, (*port).into())], 8);
                let icmp =
                    |kind, offset| with(&[equal(BYTE, 6, 58), equal(BYTE, 40, kind)], offset);
                let others = [icmp(129, 8), icmp(1, 72), icmp(3, 72)];
                ports.iter().map(segment).chain(others).collect()
            }
        };
        Self::any_of(&rules.iter().map(Vec::as_slice).collect::<Vec<_>>())
    }

    /// What a search for the peer's port may find, on packets that start at their IP header: TCP
    /// segments from the peer's address to one of these ports of ours, resets excepted. No ICMP:
    /// a search draws thousands. Ports that lie side by side count as one range; of more than 512
    /// ranges the nearest are joined, and the ports between them pass as well.
    pub fn search(locals: &[u16], peer: IpAddr) -> Self {
        let mut checks = Vec::new();
        let port = match peer {
            IpAddr::V4(peer) => {
                equal(BYTE, 9, 6).assemble(&mut checks);
                equal(WORD, 12, peer.into()).assemble(&mut checks);
                // Neither an offset nor more fragments: whole segments only.
                Step::Equal { size: HALF, offset: 6, mask: 0x3fff, value: 0 }.assemble(&mut checks);
                Step::MeasureHeader.assemble(&mut checks);
                checks.push((instruction(libc::BPF_LD | BYTE | libc::BPF_IND, 13), false));
                instruction(libc::BPF_LD | HALF | libc::BPF_IND, 2)
            }
            IpAddr::V6(peer) => {
                equal(BYTE, 6, 6).assemble(&mut checks);
                address(peer, 8).for_each(|step| step.assemble(&mut checks));
                checks.push((instruction(libc::BPF_LD | BYTE | libc::BPF_ABS, 53), false));
                instruction(libc::BPF_LD | HALF | libc::BPF_ABS, 42)
            }
        };
        checks.push((instruction(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, RST), false));
        checks.push((instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0), true));
        checks.push((port, false));
        checks.push((instruction(libc::BPF_JMP | libc::BPF_JA, 1), false));
        // What fails a check lands on the return behind them, which the last check jumps over.
        let mut program: Vec<_> = Self::rule(checks).collect();
        program.push(verdict(false));
        program.extend(search_tree(&boundaries(locals), false));
        Self(program)
    }

    /// What leaves for the peer, on frames that packet sockets overhear.
    pub(super) fn departing(peer: IpAddr) -> Self {
        let network = libc::SKF_NET_OFF as u32;
        let kind = (libc::SKF_AD_OFF + libc::SKF_AD_PKTTYPE) as u32;
        let mut steps = vec![equal(BYTE, kind, libc::PACKET_OUTGOING.into())];
        match peer {
            IpAddr::V4(peer) => steps.push(equal(WORD, network + 16, peer.into())),
            IpAddr::V6(peer) => steps.extend(address(peer, network + 24)),
        }
        Self::any_of(&[&steps])
    }

    /// A step that fails jumps to the next rule; a rule whose steps all pass accepts.
    fn any_of(rules: &[&[Step]]) -> Self {
        let mut program = Vec::new();
        for rule in rules {
            let mut body: Vec<(libc::sock_filter, bool)> = Vec::new();
            for step in *rule {
                step.assemble(&mut body);
            }
            body.push((verdict(true), false));
            program.extend(Self::rule(body));
        }
        program.push(verdict(false));
        Self(program)
    }

    /// Every test that fails jumps past the rule's last instruction.
    fn rule(body: Vec<(libc::sock_filter, bool)>) -> impl Iterator<Item = libc::sock_filter> {
        let last = body.len() - 1;
        body.into_iter().enumerate().map(move |(at, (mut code, is_test))| {
            if is_test {
                // Rules are two dozen instructions long.
                code.jf = u8::try_from(last - at).unwrap_or(u8::MAX);
            }
            code
        })
    }

    /// SO_ATTACH_FILTER.
    ///
    /// # Errors
    /// The kernel's; EPERM where a filter was locked.
    pub fn attach(&self, socket: impl AsFd) -> Result<(), CallFailed> {
        let program =
            libc::sock_fprog { len: self.0.len() as u16, filter: self.0.as_ptr().cast_mut() };
        // SAFETY: the kernel copies the program, which lives until then.
        let result = unsafe {
            libc::setsockopt(
                socket.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ATTACH_FILTER,
                (&raw const program).cast(),
                size_of::<libc::sock_fprog>() as libc::socklen_t,
            )
        };
        Errno::result(result).map(drop).named("setsockopt(SO_ATTACH_FILTER)")
    }

    /// SO_DETACH_FILTER.
    ///
    /// # Errors
    /// The kernel's; ENOENT where there is no filter.
    pub fn detach(socket: impl AsFd) -> Result<(), CallFailed> {
        let (level, option) = (libc::SOL_SOCKET, libc::SO_DETACH_FILTER);
        super::call::set_option(socket, level, option, &0i32, "setsockopt(SO_DETACH_FILTER)")
    }
}

impl Step {
    fn assemble(self, body: &mut Vec<(libc::sock_filter, bool)>) {
        let (load, mask, value) = match self {
            Self::MeasureHeader => {
                // X = 4 * (first byte & 15)
                body.push((instruction(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, 0), false));
                return;
            }
            Self::Equal { size, offset, mask, value } => {
                (instruction(libc::BPF_LD | size | libc::BPF_ABS, offset), mask, value)
            }
            Self::EqualPast { size, offset, value } => {
                (instruction(libc::BPF_LD | size | libc::BPF_IND, offset), u32::MAX, value)
            }
        };
        body.push((load, false));
        if mask != u32::MAX {
            body.push((instruction(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, mask), false));
        }
        body.push((instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, value), true));
    }
}

const fn equal(size: u32, offset: u32, value: u32) -> Step {
    Step::Equal { size, offset, mask: u32::MAX, value }
}

/// An IPv6 address at this offset.
fn address(address: Ipv6Addr, offset: u32) -> impl Iterator<Item = Step> {
    let word = move |index: u32| (address.to_bits() >> (96 - 32 * index)) as u32;
    (0..4).map(move |index| equal(WORD, offset + 4 * index, word(index)))
}

const fn past(size: u32, offset: u32, value: u32) -> Step {
    Step::EqualPast { size, offset, value }
}

/// The ports at which a search begins and ceases to be interested, in ascending order.
fn boundaries(ports: &[u16]) -> Vec<u32> {
    let mut ports = ports.to_vec();
    ports.sort_unstable();
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for port in ports.into_iter().map(u32::from) {
        match ranges.last_mut() {
            Some((_, end)) if port <= *end => *end = port + 1,
            _ => ranges.push((port, port + 1)),
        }
    }
    if let Some(excess @ 1..) = ranges.len().checked_sub(MOST_RANGES) {
        let mut gaps: Vec<usize> = (1..ranges.len()).collect();
        gaps.sort_by_key(|&at| ranges[at].0 - ranges[at - 1].1);
        gaps.truncate(excess);
        gaps.sort_unstable();
        for at in gaps.into_iter().rev() {
            ranges[at - 1].1 = ranges.remove(at).1;
        }
    }
    ranges.into_iter().flat_map(|(start, end)| [start, end]).collect()
}

/// A binary search for the port in the accumulator. Left of the first boundary the verdict is
/// `inside`, and each boundary turns it around.
fn search_tree(boundaries: &[u32], inside: bool) -> Vec<libc::sock_filter> {
    if boundaries.len() <= NEAR {
        let mut branches = Vec::with_capacity(boundaries.len() + 2);
        search_near(boundaries, inside, boundaries.len(), &mut branches);
        branches.extend([verdict(false), verdict(true)]);
        return branches;
    }
    let middle = boundaries.len() / 2;
    let left = search_tree(&boundaries[..middle], inside);
    let right = search_tree(&boundaries[middle + 1..], inside ^ (middle.is_multiple_of(2)));
    // Conditional jumps reach 255 instructions far, the unconditional one any distance.
    let branch = libc::sock_filter { jf: 1, ..at_least(boundaries[middle]) };
    let over = instruction(libc::BPF_JMP | libc::BPF_JA, left.len() as u32);
    [branch, over].into_iter().chain(left).chain(right).collect()
}

/// One branch for each boundary, in pre-order. The refusing verdict stands at index `verdicts`,
/// the accepting one behind it.
fn search_near(
    boundaries: &[u32],
    inside: bool,
    verdicts: usize,
    branches: &mut Vec<libc::sock_filter>,
) {
    let (middle, here) = (boundaries.len() / 2, branches.len());
    let Some(&boundary) = boundaries.get(middle) else { return };
    let (left, right) = (&boundaries[..middle], &boundaries[middle + 1..]);
    let right_inside = inside ^ (middle.is_multiple_of(2));
    let jump = |to: &[u32], inside: bool, at: usize| {
        let target = if to.is_empty() { verdicts + usize::from(inside) } else { at };
        (target - here - 1) as u8
    };
    branches.push(libc::sock_filter {
        jt: jump(right, right_inside, here + 1 + left.len()),
        jf: jump(left, inside, here + 1),
        ..at_least(boundary)
    });
    search_near(left, inside, verdicts, branches);
    search_near(right, right_inside, verdicts, branches);
}

const fn at_least(value: u32) -> libc::sock_filter {
    instruction(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, value)
}

const fn verdict(accept: bool) -> libc::sock_filter {
    instruction(libc::BPF_RET | libc::BPF_K, if accept { u32::MAX } else { 0 })
}

const fn instruction(code: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Segment, Seq, Tuple, echo_request};
    use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
    use std::net::SocketAddr;

    /// The kernel itself judges: a Unix datagram pair runs the filter as a packet socket would.
    fn passes(filter: &Filter, packet: &[u8]) -> bool {
        let (tx, rx) =
            socketpair(AddressFamily::Unix, SockType::Datagram, None, SockFlag::SOCK_NONBLOCK)
                .unwrap();
        filter.attach(&rx).unwrap();
        let _ = send(tx.as_raw_fd(), packet, MsgFlags::empty());
        recv(rx.as_raw_fd(), &mut [0; 200], MsgFlags::empty()).is_ok()
    }

    fn from_peer(source: &str, destination: &str) -> Segment {
        let tuple = Tuple { local: source.parse().unwrap(), remote: destination.parse().unwrap() };
        Segment { hop_limit: 60, syn: true, window: 1, ..Segment::new(tuple, Seq(1)) }
    }

    #[test]
    fn segments_from_the_peer_to_our_port_pass_and_others_do_not() {
        for (local, peer, other) in [
            ("192.168.1.2:4000", "203.0.113.1:5000", "203.0.113.2:5000"),
            ("[2001:db8:a::2]:4000", "[2001:db8:b::2]:5000", "[2001:db8:b::3]:5000"),
        ] {
            let address: SocketAddr = peer.parse().unwrap();
            let filter = Filter::punch(&[3999, 4000], address.ip());
            assert!(passes(&filter, &from_peer(peer, local).to_packet()));
            assert!(!passes(&filter, &from_peer(other, local).to_packet()));
            let elsewhere = local.replace("4000", "4001");
            assert!(!passes(&filter, &from_peer(peer, &elsewhere).to_packet()));
            assert!(!Filter::nothing().0.is_empty());
            assert!(!passes(&Filter::nothing(), &from_peer(peer, local).to_packet()));
        }
    }

    #[test]
    fn resets_alone_are_kept_from_a_tcp_socket() {
        let mut segment = from_peer("203.0.113.1:5000", "192.168.1.2:4000");
        assert!(passes(&Filter::no_reset(), &segment.to_packet()[20..]));
        segment.rst = true;
        assert!(!passes(&Filter::no_reset(), &segment.to_packet()[20..]));
    }

    #[test]
    fn a_fragment_whose_bytes_look_like_our_port_does_not_pass() {
        let (local, peer) = ("192.168.1.2:4000", "203.0.113.1:5000");
        let filter = Filter::punch(&[4000], "203.0.113.1".parse().unwrap());
        let mut fragment = from_peer(peer, local).to_packet();
        fragment[7] = 8; // fragment offset
        assert!(!passes(&filter, &fragment));
    }

    const ENDS: [(&str, &str, &str); 2] = [
        ("192.168.1.2", "203.0.113.1:5000", "203.0.113.2:5000"),
        ("[2001:db8:a::2]", "[2001:db8:b::2]:5000", "[2001:db8:b::3]:5000"),
    ];

    /// Which of all ports a search for these ones passes.
    fn found(ports: &[u16]) -> Vec<u16> {
        let filter = Filter::search(ports, "203.0.113.1".parse().unwrap());
        let (tx, rx) =
            socketpair(AddressFamily::Unix, SockType::Datagram, None, SockFlag::SOCK_NONBLOCK)
                .unwrap();
        filter.attach(&rx).unwrap();
        let mut packet = from_peer("203.0.113.1:5000", "192.168.1.2:1").to_packet();
        (0..=u16::MAX)
            .filter(|port| {
                packet[22..24].copy_from_slice(&port.to_be_bytes());
                let _ = send(tx.as_raw_fd(), &packet, MsgFlags::empty());
                recv(rx.as_raw_fd(), &mut [0; 200], MsgFlags::empty()).is_ok()
            })
            .collect()
    }

    #[test]
    fn a_search_finds_its_ports_and_no_other() {
        let scattered: Vec<u16> = (0..512u16).map(|n| n.wrapping_mul(40_503) | 1).collect();
        let few = vec![u16::MAX, 0, 7, 8, 9, 9, 4000];
        for mut ports in [vec![], vec![4000], few, scattered, (20_000..24_096).collect()] {
            let passed = found(&ports);
            ports.sort_unstable();
            ports.dedup();
            assert_eq!(passed, ports);
        }
        assert_eq!(found(&(0..=u16::MAX).collect::<Vec<_>>()).len(), 65_536);
    }

    #[test]
    fn of_too_many_ranges_the_nearest_are_joined() {
        let far = (0..511u16).map(|n| n * 100);
        let near = [60_000, 60_003, 60_006];
        let ports: Vec<u16> = far.clone().chain(near).collect();
        let expected: Vec<u16> = far.chain(60_000..=60_006).collect();
        assert_eq!(found(&ports), expected);
        // Ports enough to exceed the kernel's limit on instructions, if each were told apart.
        assert!(found(&(0..32_768).map(|n| n * 2).collect::<Vec<_>>()).len() >= 32_768);
    }

    #[test]
    fn the_filter_of_a_search_fits_the_option_memory_of_older_kernels() {
        let ports: Vec<u16> = (0..512u16).map(|n| n * 100).collect();
        let filter = Filter::search(&ports, "2001:db8::1".parse().unwrap());
        // Each becomes two of the kernel's own at worst, where both ways of a branch are jumps.
        let both = |code: &&libc::sock_filter| code.jt > 0 && code.jf > 0;
        let own = filter.0.len() + filter.0.iter().filter(both).count();
        assert!(own * size_of::<libc::sock_filter>() < 16 << 10, "{own} instructions");
    }

    #[test]
    fn a_search_hears_the_peer_alone_and_no_resets() {
        for (local, peer, other) in ENDS {
            let address: SocketAddr = peer.parse().unwrap();
            let filter = Filter::search(&[4000, 4002], address.ip());
            let to = |port: u16| format!("{local}:{port}");
            let mut segment = from_peer(peer, &to(4000));
            assert!(passes(&filter, &segment.to_packet()));
            assert!(!passes(&filter, &from_peer(other, &to(4000)).to_packet()));
            assert!(!passes(&filter, &from_peer(peer, &to(4001)).to_packet()));
            assert!(passes(&filter, &from_peer(peer, &to(4002)).to_packet()));
            segment.ack = Some(Seq(2));
            assert!(passes(&filter, &segment.to_packet()));
            segment.rst = true;
            assert!(!passes(&filter, &segment.to_packet()));
            (segment.syn, segment.ack) = (false, None);
            assert!(!passes(&filter, &segment.to_packet()));
        }
    }

    #[test]
    fn a_search_looks_behind_ip_options_and_hears_neither_fragments_nor_icmp() {
        let filter = Filter::search(&[4000], "203.0.113.1".parse().unwrap());
        let packet = from_peer("203.0.113.1:5000", "192.168.1.2:4000").to_packet();
        let mut with_options = packet.clone();
        with_options.splice(20..20, [1, 1, 1, 0]);
        with_options[0] = 0x46;
        assert!(passes(&filter, &with_options));
        for (byte, value) in [(7, 8), (6, 0x20)] {
            let mut fragment = packet.clone();
            fragment[byte] = value; // fragment offset, more fragments
            assert!(!passes(&filter, &fragment));
        }
        let mut icmp = packet.clone();
        icmp[9] = 1;
        assert!(!passes(&filter, &icmp));
        assert!(!passes(&filter, &packet[..21]));
    }

    #[test]
    fn an_echo_request_is_no_answer() {
        let peer = "203.0.113.1";
        let filter = Filter::punch(&[4000], peer.parse().unwrap());
        let mut probe = echo_request(peer.parse().unwrap(), [192, 168, 1, 2].into(), 60, 1, 1);
        assert!(!passes(&filter, &probe));
        probe[20] = 0; // echo reply
        assert!(passes(&filter, &probe));
    }
}
