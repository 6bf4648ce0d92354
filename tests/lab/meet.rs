//! Two people, one code, and a server that neither of them trusts.

use std::collections::BTreeSet;

use nix::sys::signal::Signal;
use tcp_punch::wire::Segment;

use crate::capture::Capture;
use crate::datapath;
use crate::network::Host;
use crate::pair::{End, Pair, eventually};
use crate::program::{Ended, Program, binary};

/// The server's address: outside, in a namespace of its own.
pub(crate) const SERVER: &str = "192.0.2.254";

/// `tcp-punch serve`, until it is dropped.
pub(crate) struct Server(Option<Program>);

impl Server {
    pub(crate) fn start(host: &Host) -> Self {
        Self::start_at(host, 3478)
    }

    /// On this port and the next one.
    pub(crate) fn start_at(host: &Host, port: u16) -> Self {
        let (listen, other) = (format!("[::]:{port}"), (port + 1).to_string());
        let options = ["serve", "--listen", &listen, "--alt-port", &other];
        let program = Program::start(host.command(binary()).args(options));
        eventually("the server listens", || {
            host.run(|| std::net::TcpStream::connect((SERVER, port)).is_ok())
        });
        Self(Some(program))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.0.iter().for_each(|program| program.signal(signal));
    }
}

impl Server {
    /// Ends it by this signal.
    pub(crate) fn end(mut self, signal: Signal) {
        if let Some(program) = self.0.take() {
            program.signal(signal);
            program.end();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(program) = self.0.take() {
            program.signal(Signal::SIGKILL);
            program.end();
        }
    }
}

/// `tcp-punch meet --server SERVER`
pub(crate) fn meet(end: &End, arguments: &[&str]) -> Program {
    let mut command = end.program(binary());
    command.args(["meet", "--server", SERVER]).args(datapath::options());
    Program::start(command.args(arguments))
}

/// The code on the first line of standard error.
pub(crate) fn code(program: &Program) -> String {
    program.first_error_line()
}

/// Both type a line, and read the other's.
pub(crate) fn talk(mut a: Program, mut b: Program) -> (Ended, Ended) {
    a.type_line("from a");
    b.type_line("from b");
    a.end_input();
    b.end_input();
    let (a, b) = (a.end(), b.end());
    assert_eq!((a.status, b.status), (0, 0), "{a:?}\n{b:?}");
    assert_eq!((a.stdout.as_str(), b.stdout.as_str()), ("from b\n", "from a\n"));
    (a, b)
}

/// Two hosts that have no IPv6, which would be tried first.
pub(crate) fn network(options: &[&str]) -> Pair {
    let pair = Pair::behind_nats(&[&["--server", SERVER], options].concat());
    for end in [&pair.a, &pair.b] {
        end.host.must("sysctl -qw net.ipv6.conf.all.disable_ipv6=1");
    }
    pair
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn one_makes_a_code_the_other_types_it_and_they_talk() {
    let pair = network(&[]);
    let server = Server::start(&pair.network.server());
    let a = meet(&pair.a, &[]);
    let code = code(&a);
    let b = meet(&pair.b, &[&code]);
    let (a, _) = talk(a, b);
    assert!(a.stderr.contains("by both routers"), "{}", a.stderr);
    drop(server);
    for host in [&pair.a.host, &pair.b.host] {
        host.assert_quiet();
    }
}

/// Both start at one sequence number, so that nothing else surely tells their SYNs apart.
#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn the_windows_lowest_bit_says_which_end_has_sent_a_syn() {
    let pair = network(&[]);
    let _server = Server::start(&pair.network.server());
    // By chance it would be so in one of 32 runs.
    for _ in 0..5 {
        let ends = [(&pair.a, pair.b.ip), (&pair.b, pair.a.ip)];
        let wires = ends.map(|(end, peer)| (Capture::start(&end.host, "eth0"), peer));
        let a = meet(&pair.a, &[]);
        let b = meet(&pair.b, &[&code(&a)]);
        talk(a, b);
        let [ours, theirs] = wires.map(|(wire, peer)| {
            let packets = wire.packets(|_| true);
            let segments = packets.iter().filter_map(|it| Segment::parse(&it.bytes).ok());
            let syns = segments.filter(|it| it.syn && it.tuple.remote.ip() == peer);
            syns.map(|syn| syn.window & 1).collect::<BTreeSet<_>>()
        });
        assert_eq!((ours.len(), theirs.len()), (1, 1), "{ours:?} {theirs:?}");
        assert!(ours.is_disjoint(&theirs), "{ours:?} {theirs:?}");
    }
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn routers_that_number_ports_at_random() {
    let pair = network(&["--nat-a", "random-fully", "--nat-b", "random-fully"]);
    let _server = Server::start(&pair.network.server());
    let a = meet(&pair.a, &[]);
    let b = meet(&pair.b, &[&code(&a)]);
    let (a, _) = talk(a, b);
    assert!(a.stderr.contains("by predicted ports"), "{}", a.stderr);
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_router_that_maps_a_port_when_asked_saves_the_punch() {
    let pair = network(&["--nat-a", "masquerade,upnp", "--nat-b", "masquerade,strict"]);
    let _server = Server::start(&pair.network.server());
    let report = tempfile::NamedTempFile::new().expect("a file");
    // A way on which nothing passes router-b, so that it is not for chance to say which is faster.
    let hopeless = ["--strategy", "mid-stream"];
    let path = report.path().to_string_lossy();
    let a = meet(&pair.a, &[&hopeless[..], &["--report", &path]].concat());
    let code = code(&a);
    // People need longer than the router to get that far.
    eventually("the router maps a port", || {
        let rules =
            pair.network.router_a().command("iptables-legacy").args(["-t", "nat", "-S"]).output();
        String::from_utf8_lossy(&rules.expect("iptables runs").stdout).contains("-j DNAT")
    });
    let b = meet(&pair.b, &[&hopeless[..], &[&code]].concat());
    let (a, _) = talk(a, b);
    assert!(a.stderr.contains("by port mapping"), "{}", a.stderr);
    let report = std::fs::read_to_string(report.path()).expect("it was written");
    let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
    let ways = report["ways"].as_array().expect("every way that was tried");
    let kinds: Vec<_> = ways.iter().filter_map(|way| way["kind"].as_str()).collect();
    assert_eq!(kinds, ["port mapping", "both routers"]);
    assert_eq!(ways[0]["outcome"], "connected");
    assert_eq!(ways[1]["outcome"], "another way was faster");
}
