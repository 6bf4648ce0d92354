//! Somebody who knows both addresses floods one end with forged segments while it punches.

use std::os::fd::AsRawFd;
use std::thread;
use std::time::Duration;

use nix::libc;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::unistd::Pid;
use tcp_punch::punch::Key;
use tcp_punch::sys::{clock, spin_until};
use tcp_punch::wire::{Options, Segment, Seq, Tuple, WallTime};

use crate::network::Host;
use crate::pair::{Pair, hear, in_ms, say, stream};
use crate::program::{Program, START_UP_MS};

const PORT: u16 = 40000;
const FORGED: u32 = 100_000;
/// The flood begins so long before the instant, when the opener has left and mappings stand...
const AHEAD: Duration = Duration::from_millis(200);
/// ...and lasts so long: all of the handshake and more.
const LASTS: Duration = Duration::from_millis(1000);
/// What an end may have needed of memory, KiB; it needs some 10 MiB without a flood.
const MOST_MEMORY: u64 = 64 << 10;
const KEY: [u8; 32] = [7; 32];

/// What is forged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Forged {
    Syn,
    SynAck,
    Rst,
    Ack,
}

impl Forged {
    fn segment(self, tuple: Tuple, numbers: &mut Numbers) -> Segment {
        let (seq, ack) = (Seq(numbers.next()), Seq(numbers.next()));
        let syn = matches!(self, Self::Syn | Self::SynAck);
        let options = Options {
            mss: syn.then_some(1460),
            window_scale: syn.then_some(7),
            sack_permitted: syn,
            timestamps: (self != Self::Rst).then_some((numbers.next(), numbers.next())),
        };
        Segment {
            ack: (self != Self::Syn).then_some(ack),
            syn,
            rst: self == Self::Rst,
            window: numbers.next() as u16,
            options,
            ..Segment::new(tuple, seq)
        }
    }
}

/// Numbers without pattern, the same in every run (Marsaglia's xorshift32).
struct Numbers(u32);

impl Numbers {
    fn next(&mut self) -> u32 {
        for (shift, left) in [(13, true), (17, false), (5, true)] {
            self.0 ^= if left { self.0 << shift } else { self.0 >> shift };
        }
        self.0
    }
}

/// Sends packets out of an interface past its host's connection tracking, as a stranger elsewhere
/// would whose provider lets forged addresses through.
#[expect(unsafe_code, reason = "nix makes no address of an interface")]
fn send_all(interface: &str, packets: &[Vec<u8>], begins: WallTime) {
    let socket = socket(AddressFamily::Packet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
        .expect("a packet socket");
    // SAFETY: all zero is a valid address.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_IP as u16).to_be();
    address.sll_ifindex = if_nametoindex(interface).expect("it is there") as i32;
    let each = LASTS / packets.len() as u32;
    for (packet, nth) in packets.iter().zip(0..) {
        // In handfuls, or the clock takes longer than the packets.
        if nth % 32 == 0 {
            let due = begins.after(each * nth);
            let ahead = clock::now().until(due);
            thread::sleep(ahead);
        }
        // SAFETY: packet and address outlive the call, and the lengths are theirs.
        let sent = unsafe {
            libc::sendto(
                socket.as_raw_fd(),
                packet.as_ptr().cast(),
                packet.len(),
                0,
                (&raw const address).cast(),
                size_of_val(&address) as u32,
            )
        };
        // A full queue loses some, as it would anywhere.
        assert!(sent > 0 || nth > 0, "{}", std::io::Error::last_os_error());
    }
}

fn flood(router: &Host, tuples: &[Tuple], forged: &[Forged], begins: WallTime) {
    let mut numbers = Numbers(2_463_534_242);
    let kinds = forged.iter().flat_map(|kind| tuples.iter().map(move |tuple| (*kind, *tuple)));
    let packets: Vec<_> = (kinds.cycle().take(FORGED as usize))
        .map(|(kind, tuple)| kind.segment(tuple, &mut numbers).to_packet())
        .collect();
    spin_until(begins);
    router.run(|| send_all("wan", &packets, begins));
}

/// What the process has needed at most, KiB; `None` once it has ended.
fn peak_memory(pid: Pid) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

/// host-a is flooded with what comes from host-b's public address and port, and both connect.
fn endure(forged: &[Forged], key: bool) {
    // With a key there is one tuple more.
    endure_on(forged, key, u16::from(key));
}

/// Likewise; flooded are the port and so many above it.
fn endure_on(forged: &[Forged], key: bool, more: u16) {
    let pair = Pair::behind_nats(&[]);
    let at = in_ms(START_UP_MS);
    let mut of_a = pair.program_a(PORT, at);
    let mut of_b = pair.punch_of_b(PORT, at);
    if key {
        of_a.args(["--key-env", "SECRET"]).env("SECRET", "07".repeat(32));
        of_b = of_b.key(Key::from_bytes(KEY));
    }
    let mut a = Program::start(&mut of_a);
    // It speaks as soon as it can: a router that a reset made forget the mapping takes it up again
    // with what comes from inside, and only with that.
    a.type_line("hello from host-a");
    let raced = PORT..=PORT + more;
    let tuples: Vec<_> =
        raced.map(|port| Tuple { local: pair.b.at(port), remote: pair.a.at(port) }).collect();
    thread::scope(|scope| {
        let router = pair.network.router_b();
        let flood = scope.spawn(move || flood(&router, &tuples, forged, at.before(AHEAD)));
        let b = pair.b.connect(of_b);
        let took = Duration::from_nanos(b.report.fd_ns.expect("connected").unsigned_abs());
        println!("{forged:?}, key {key}: host-b connected after {took:?}");
        let b = stream(b);
        say(&b, "hello from host-b");
        assert_eq!(hear(&b), "hello from host-a\n");
        a.await_stdout("hello from host-b\n");
        let memory = peak_memory(a.pid()).expect("it runs");
        println!("{forged:?}, key {key}: host-a needed {memory} KiB");
        assert!(memory < MOST_MEMORY, "{memory} KiB");
        flood.join().expect("it floods");
        a.signal(nix::sys::signal::Signal::SIGTERM);
        assert_eq!(a.end().stdout, "hello from host-b\n");
    });
}

/// Other floods of every tuple are for the router to bear, which forgets mappings and loses count of
/// them: what becomes of the punch then is up to chance (docs/ROUTERS.md).
#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn forged_acks_do_not_stop_the_punch() {
    for key in [true, false] {
        endure(&[Forged::Ack], key);
    }
}

/// Nobody is there but the attacker: whatever completed would be it.
#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn no_flood_completes_a_punch_and_it_ends_in_time() {
    let cases = [Forged::Syn, Forged::SynAck, Forged::Rst].map(|forged| (forged, false, 6));
    for (forged, key, status) in cases.into_iter().chain([(Forged::Syn, true, 7)]) {
        let pair = Pair::behind_nats(&[]);
        let at = in_ms(START_UP_MS);
        let mut command = pair.program_a(PORT, at);
        command.args(["--timeout", "1500ms"]);
        if key {
            command.args(["--key-env", "SECRET"]).env("SECRET", "07".repeat(32));
        }
        let a = Program::start(&mut command);
        let tuple = Tuple { local: pair.b.at(PORT), remote: pair.a.at(PORT) };
        flood(&pair.network.router_b(), &[tuple], &[forged], at.before(AHEAD));
        // On a slow machine the flood outlasts it.
        let memory = peak_memory(a.pid()).unwrap_or_default();
        assert!(memory < MOST_MEMORY, "{memory} KiB");
        let ended = a.end();
        assert_eq!(ended.status, status, "{forged:?}: {ended:?}");
        assert_eq!(ended.stdout, "");
        ended.complaint();
        pair.a.host.assert_bare();
    }
}

/// The port of the punch is flooded, and the neighbour that a key adds is not.
#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn with_a_key_no_flood_of_the_port_stops_the_punch() {
    let all = [Forged::Syn, Forged::SynAck, Forged::Rst, Forged::Ack];
    for forged in [&all[..1], &all[1..2], &all[2..3], &all] {
        endure_on(forged, true, 0);
    }
}
