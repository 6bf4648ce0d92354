//! Classic BPF socket filters: which packets a socket is shown.
#![allow(unsafe_code)]

use super::call::{CallFailed, Named};
use nix::errno::Errno;
use nix::libc;
use std::net::IpAddr;
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

impl Filter {
    /// Shows nothing.
    pub fn nothing() -> Self {
        Self::any_of(&[])
    }

    /// Everything but resets, on segments that start at their TCP header as a TCP socket's do.
    pub fn no_reset() -> Self {
        Self::any_of(&[&[Step::Equal { size: BYTE, offset: 13, mask: 4, value: 0 }]])
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
                let address = |offset| {
                    let words = peer.to_bits();
                    [96, 64, 32, 0]
                        .map(|shift| (words >> shift) as u32)
                        .into_iter()
                        .enumerate()
                        .map(move |(index, value)| equal(WORD, offset + 4 * index as u32, value))
                };
                let with = |head: &[Step], offset| {
                    head.iter().copied().chain(address(offset)).collect::<Vec<_>>()
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

    fn any_of(rules: &[&[Step]]) -> Self {
        let mut program = Vec::new();
        for rule in rules {
            let mut body: Vec<(libc::sock_filter, bool)> = Vec::new();
            for step in *rule {
                step.assemble(&mut body);
            }
            let len = body.len();
            program.extend(body.into_iter().enumerate().map(|(at, (mut code, is_test))| {
                if is_test {
                    // Past the rest of the rule and its accept; rules are a dozen steps long.
                    code.jf = u8::try_from(len - at).unwrap_or(u8::MAX);
                }
                code
            }));
            program.push(instruction(libc::BPF_RET | libc::BPF_K, u32::MAX));
        }
        program.push(instruction(libc::BPF_RET | libc::BPF_K, 0));
        Self(program)
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

const fn past(size: u32, offset: u32, value: u32) -> Step {
    Step::EqualPast { size, offset, value }
}

const fn instruction(code: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Options, Segment, Seq, Tuple, echo_request};
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
        Segment {
            tuple: Tuple { local: source.parse().unwrap(), remote: destination.parse().unwrap() },
            hop_limit: 60,
            seq: Seq(1),
            ack: None,
            syn: true,
            fin: false,
            rst: false,
            window: 1,
            options: Options::default(),
            payload: Vec::new(),
        }
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
