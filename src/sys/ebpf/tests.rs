//! The programs are run by the kernel on packets made here (BPF_PROG_TEST_RUN), which takes CAP_BPF
//! and CAP_NET_ADMIN: run these tests as root.

mod answers;
mod btf;
mod running;
mod tun;
mod verdicts;

use super::*;
use crate::wire::Options;
use aya::programs::{TestRun, TestRunOptions};
use std::net::SocketAddr;
use std::process::Command;

const OFFER: Offer = Offer { mss: 1460, window_scale: 7, window: 65408, mark: 5 };

const PASS: u32 = u32::MAX;
const DROP: u32 = 2;

const V4: [&str; 2] = ["192.168.1.2:40000", "203.0.113.1:40001"];
const V6: [&str; 2] = ["[2001:db8:a::2]:40000", "[2001:db8:b::2]:40001"];
/// Where the peer starts, in all tests.
const IRS: Seq = Seq(300);
const ISS: Seq = Seq(100);
/// Of the loopback device, whose packets these are, and of the sender.
const MACS: [[u8; 6]; 2] = [[0; 6], [2, 0, 0, 0, 9, 2]];

fn tuple([local, remote]: [&str; 2]) -> Tuple {
    Tuple { local: local.parse().unwrap(), remote: remote.parse().unwrap() }
}

/// The peer's SYN, as the peer's [`crate::punch::Handshake`] or its Linux would make it.
fn syn(ends: [&str; 2]) -> Segment {
    let options = Options {
        mss: Some(1400),
        window_scale: Some(9),
        sack_permitted: true,
        timestamps: Some((900, 0)),
    };
    let tuple = tuple(ends).reversed();
    Segment { hop_limit: 51, syn: true, window: 64_000, options, ..Segment::new(tuple, IRS) }
}

fn frame(packet: &[u8]) -> Vec<u8> {
    let ether_type: [u8; 2] = if packet[0] >> 4 == 4 { [0x08, 0] } else { [0x86, 0xdd] };
    [&MACS[0][..], &MACS[1], &ether_type, packet].concat()
}

/// Moves this thread to a network of its own: answers leave by its loopback device, where nobody
/// is to hear them.
fn alone() {
    thread_local!(static ALONE: () = {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root");
        ip("link set lo up");
    });
    ALONE.with(|()| ());
}

fn ip(line: &str) {
    let status = Command::new("ip").args(line.split(' ')).status().expect("ip runs");
    assert!(status.success(), "ip {line}: {status}");
}

fn watch(ends: [&str; 2], search: bool) -> Watch {
    let Tuple { local, remote } = tuple(ends);
    Watch {
        interface: 1,
        local: local.ip(),
        peer: remote.ip(),
        locals: vec![40_000, 40_003],
        remotes: vec![40_001, 65_535],
        search,
        most: 0,
    }
}

/// Loaded programs of which nothing is hung in.
struct Rig(Ebpf);

/// An event, as it came out of the ring.
#[derive(Debug)]
struct Caught {
    packet: Vec<u8>,
    stolen: bool,
    answered: Option<u32>,
    checksum: Checksum,
}

impl Rig {
    fn new(ends: [&str; 2]) -> Self {
        Self::watching(ends, false)
    }

    fn watching(ends: [&str; 2], search: bool) -> Self {
        alone();
        let loaded = Ebpf::loaded(&14, 0).expect("root, clang at build time, Linux 5.8");
        let mut rig = Self(loaded.watching(&watch(ends, search)).expect("maps"));
        // Whatever the machine of the tests tracks.
        rig.0.rule.flags &= !Rule::HOST_TRACKS;
        rig.0.write_rule().unwrap();
        rig
    }

    /// Armed as if our own first segment had left.
    fn armed(ends: [&str; 2], expected: &[Seq]) -> Self {
        let mut rig = Self::new(ends);
        rig.arm(expected, ReplyOn::Tuples(vec![tuple(ends)]));
        rig
    }

    fn arm(&mut self, expected: &[Seq], on: ReplyOn) {
        let reply = Reply { iss: ISS, expected_irs: expected.to_vec(), offer: OFFER, on };
        self.0.arm(&reply).unwrap();
        self.0.rule.flags &= !Rule::HOST_TRACKS;
        self.0.write_rule().unwrap();
    }

    fn run(&mut self, program: &str, frame: &[u8]) -> (u32, Vec<u8>) {
        let mut out = vec![0; 4096];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ..TestRunOptions::default()
        };
        let program = hook::program(&mut self.0.programs, program).unwrap();
        let result = program.test_run(options).unwrap();
        let size = result.data_size_out as usize;
        out.truncate(size);
        (result.return_value, out)
    }

    /// The verdict on an IP packet that comes in, which nothing has been made of.
    fn ingress(&mut self, packet: &[u8]) -> u32 {
        let frame = frame(packet);
        let (verdict, out) = self.run("ingress", &frame);
        assert!(out == frame, "changed: {out:02x?}");
        verdict
    }

    fn egress(&mut self, packet: &[u8]) -> u32 {
        self.run("egress", &frame(packet)).0
    }

    fn caught(&mut self) -> Option<Caught> {
        let caught = self.0.receive().unwrap()?;
        Some(Caught {
            packet: caught.packet.to_vec(),
            stolen: caught.stolen,
            answered: caught.answered,
            checksum: caught.checksum,
        })
    }

    /// Comes in, and is stolen: the engine gets the packet, unanswered, the host does not.
    fn assert_stolen(&mut self, packet: &[u8]) {
        assert_eq!(self.ingress(packet), DROP);
        let caught = self.caught().expect("an event");
        assert_eq!(caught.packet, packet);
        assert!(caught.stolen && caught.answered.is_none(), "{caught:?}");
        assert!(self.caught().is_none());
    }

    /// Comes in, and is answered: the frame that leaves, and what the engine is told.
    fn assert_answered(&mut self, frame: &[u8]) -> (Vec<u8>, Caught) {
        let (verdict, out) = self.run("ingress", frame);
        assert_eq!(verdict, DROP, "the SYN itself goes no further");
        let caught = self.caught().expect("the engine is told");
        assert!(caught.stolen && caught.answered.is_some(), "{caught:?}");
        assert!(self.caught().is_none());
        (out, caught)
    }

    /// Comes in, and nothing is made of it.
    fn assert_untouched(&mut self, packet: &[u8]) {
        assert_eq!(self.ingress(packet), PASS);
        assert!(self.caught().is_none());
    }
}

fn other_port(at: &str, port: u16) -> String {
    let mut address: SocketAddr = at.parse().unwrap();
    address.set_port(port);
    address.to_string()
}
