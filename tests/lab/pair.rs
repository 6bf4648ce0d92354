//! Two hosts that punch to each other.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use tcp_punch::engine::Failure;
use tcp_punch::sys::clock;
use tcp_punch::wire::WallTime;
use tcp_punch::{Connection, Punch};

use crate::datapath::{opening, with_it};
use crate::network::{Host, Network, PATIENCE};

/// The hosts of one network. Both ends use one port number, as users of port-preserving routers do.
pub(crate) struct Pair {
    pub(crate) network: Network,
    pub(crate) a: End,
    pub(crate) b: End,
}

/// One host, and the address by which the other one reaches it.
pub(crate) struct End {
    pub(crate) host: Host,
    pub(crate) ip: IpAddr,
}

impl Pair {
    /// Behind two MASQUERADE routers, 10 ms apart, unless `options` say otherwise.
    pub(crate) fn behind_nats(options: &[&str]) -> Self {
        Self::of(options, "198.51.100.1", "203.0.113.1")
    }

    /// The same network by IPv6: the routers are stateful firewalls that translate nothing.
    pub(crate) fn behind_firewalls(options: &[&str]) -> Self {
        Self::of(options, "2001:db8:a::2", "2001:db8:b::2")
    }

    /// Only host-a is behind a router that translates.
    pub(crate) fn b_without_nat(options: &[&str]) -> Self {
        let options = [&["--nat-b", "none"], options].concat();
        Self::of(&options, "198.51.100.1", "203.0.113.2")
    }

    /// Both ends have public addresses.
    pub(crate) fn without_nat(options: &[&str]) -> Self {
        let options = [&["--nat-a", "none", "--nat-b", "none"], options].concat();
        Self::of(&options, "198.51.100.2", "203.0.113.2")
    }

    /// On one subnet.
    pub(crate) fn on_one_lan() -> Self {
        Self::new(Network::up(["--topology", "lan"]), "192.168.1.2", "192.168.1.3")
    }

    /// Behind two kernel routers whose outer interfaces are joined by a wire.
    pub(crate) fn behind_wired_routers() -> Self {
        Self::new(Network::up(["--topology", "wire"]), "198.51.100.1", "203.0.113.1")
    }

    /// On one subnet behind one router.
    pub(crate) fn behind_one_nat(options: &[&str]) -> Self {
        let options = ["--topology", "one-nat"].iter().chain(options).copied();
        Self::new(Network::up(options), "192.168.1.2", "192.168.1.3")
    }

    fn of(options: &[&str], a: &str, b: &str) -> Self {
        let usual = if options.contains(&"--delay") { vec![] } else { vec!["--delay", "10ms"] };
        Self::new(Network::up(usual.into_iter().chain(options.iter().copied())), a, b)
    }

    fn new(network: Network, a: &str, b: &str) -> Self {
        let end = |host, ip: &str| End { host, ip: ip.parse().expect("an address") };
        Self { a: end(network.host_a(), a), b: end(network.host_b(), b), network }
    }

    /// What host-a punches, before it is changed to suit.
    pub(crate) fn punch_of_a(&self, port: u16, at: WallTime) -> Punch {
        with_it(Punch::new(self.b.at(port), at))
    }

    /// What host-b punches.
    pub(crate) fn punch_of_b(&self, port: u16, at: WallTime) -> Punch {
        with_it(Punch::new(self.a.at(port), at))
    }

    /// Punches from both ends for one instant soon, all else by default.
    pub(crate) fn punch(&self, port: u16) -> (Connection, Connection) {
        let at = in_ms(150);
        self.connect(self.punch_of_a(port, at), self.punch_of_b(port, at))
    }

    /// Both punches, which must succeed.
    pub(crate) fn connect(&self, of_a: Punch, of_b: Punch) -> (Connection, Connection) {
        match both(|| self.a.run(of_a), || self.b.run(of_b)) {
            (Ok(a), Ok(b)) => (a, b),
            (a, b) => panic!("host-a: {}\nhost-b: {}", outcome(&a), outcome(&b)),
        }
    }
}

impl End {
    /// A port of this end as the other reaches it.
    pub(crate) fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip, port)
    }

    /// Punches on this host, on a thread of its own.
    pub(crate) fn run(&self, punch: Punch) -> Result<Connection, Failure> {
        self.host.run(|| punch.run(&mut |_| ()))
    }

    /// A punch that must succeed.
    pub(crate) fn connect(&self, punch: Punch) -> Connection {
        let result = self.run(punch);
        result.unwrap_or_else(|failure| panic!("{}", outcome(&Err(failure))))
    }
}

/// How a punch went, packet by packet.
fn outcome(result: &Result<Connection, Failure>) -> String {
    let (verdict, report) = match result {
        Ok(connection) => (connection.report.verdict.clone(), Some(&connection.report)),
        Err(failure) => (failure.to_string(), failure.report.as_deref()),
    };
    let timeline = report.iter().flat_map(|report| &report.timeline);
    let events = timeline.map(|event| {
        let (at, way) = (event.at_ns as f64 / 1e6, event.direction);
        format!("\n  {at:9.3} ms {way:?} [{}] ttl {} {}", event.flags, event.ttl, event.what)
    });
    verdict + &events.collect::<String>()
}

/// So many milliseconds from when a datapath can have been opened.
pub(crate) fn in_ms(ms: u64) -> WallTime {
    clock::now().after(opening() + Duration::from_millis(ms))
}

/// Does two things at once.
pub(crate) fn both<A: Send, B>(
    a: impl FnOnce() -> A + Send,
    b: impl FnOnce() -> B + Send,
) -> (A, B) {
    thread::scope(|scope| {
        let a = scope.spawn(a);
        let b = b();
        (a.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), b)
    })
}

/// A stream whose reads end after [`PATIENCE`].
pub(crate) fn stream(connection: Connection) -> TcpStream {
    let stream = TcpStream::from(connection.fd);
    stream.set_read_timeout(Some(PATIENCE)).expect("a valid timeout");
    stream
}

/// A line each way.
pub(crate) fn exchange_lines(a: &TcpStream, b: &TcpStream) {
    say(a, "hello from host-a");
    say(b, "hello from host-b");
    assert_eq!(hear(a), "hello from host-b\n");
    assert_eq!(hear(b), "hello from host-a\n");
}

pub(crate) fn say(mut stream: &TcpStream, line: &str) {
    stream.write_all(format!("{line}\n").as_bytes()).expect("sent");
}

/// The next line; nothing at the end.
pub(crate) fn hear(stream: &TcpStream) -> String {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).expect("received");
    line
}

/// Waits for what the kernel tells nobody of.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}
