//! Surveys of a router's mappings, by a STUN server of another make: coturn on host-b.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tcp_punch::engine::{Survey, SurveyError};
use tcp_punch::nat::{Observation, PortModel, fit};
use tcp_punch::sys::clock;
use tcp_punch::wire::Segment;

use crate::capture::Capture;
use crate::network::Host;
use crate::pair::{Pair, eventually, exchange_lines, in_ms, stream};
use crate::program::Program;
use crate::trace::segments;

/// host-b's address, the one that `with_two_addresses` adds, and the one of IPv6.
const PRIMARY: &str = "203.0.113.2";
const SECOND: &str = "203.0.113.3";
const IPV6: &str = "2001:db8:b::2";
const PORTS: [u16; 2] = [3478, 3479];

/// The punch's port.
const SOURCE: u16 = 40_000;

/// coturn, until it is dropped.
struct Server(Option<Program>);

impl Server {
    /// Listens on host-b on these addresses and, as RFC 5780 has it, on both ports if they are two.
    fn start(host: &Host, addresses: &[&str]) -> Self {
        let server = Self::launch(host, addresses, &[]);
        let ports = if addresses.len() > 1 { &PORTS[..] } else { &PORTS[..1] };
        let all: Vec<SocketAddr> = addresses.iter().flat_map(|ip| at(ip, ports)).collect();
        eventually("coturn listens", || {
            host.run(|| all.iter().all(|address| TcpStream::connect(address).is_ok()))
        });
        server
    }

    /// Over UDP alone.
    fn without_tcp(host: &Host) -> Self {
        let server = Self::launch(host, &[PRIMARY], &["--no-tcp"]);
        let port = format!(":{:04X} ", PORTS[0]);
        eventually("coturn listens", || host.proc_net("udp").iter().any(|it| it.contains(&port)));
        server
    }

    fn launch(host: &Host, addresses: &[&str], options: &[&str]) -> Self {
        let mut command = host.command("turnserver");
        // No configuration file, no relaying, no passwords, nothing written down.
        command.args(["-n", "--stun-only", "--no-auth", "--no-cli", "--no-tls", "--no-dtls"]);
        command.args(["--log-file", "stdout", "--pidfile", "", "--userdb", "/run/turndb"]);
        command.args(["--listening-port", "3478", "--alt-listening-port", "3479"]).args(options);
        for address in addresses {
            command.args(["--listening-ip", address]);
        }
        Self(Some(Program::start(&mut command)))
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

fn at(ip: &str, ports: &[u16]) -> Vec<SocketAddr> {
    let ip: IpAddr = ip.parse().expect("an address");
    ports.iter().map(|port| SocketAddr::new(ip, *port)).collect()
}

/// Primary first.
fn four_ends() -> Vec<SocketAddr> {
    [at(PRIMARY, &PORTS), at(SECOND, &PORTS)].concat()
}

/// host-a behind a router with this rule, host-b with two public addresses.
fn with_two_addresses(options: &[&str], masquerade: &str) -> Pair {
    let pair = Pair::b_without_nat(options);
    pair.b.host.must(&format!("ip addr add {SECOND}/32 dev eth0"));
    pair.network.router_b().must(&format!("ip route add {SECOND}/32 dev lan"));
    let router = pair.network.router_a();
    router.must("iptables -t nat -F POSTROUTING");
    router.must(&format!("iptables -t nat -A POSTROUTING -o wan -p tcp -j {masquerade}"));
    pair
}

fn survey(pair: &Pair, survey: Survey) -> Result<Vec<Observation>, SurveyError> {
    pair.a.host.run(|| survey.run())
}

/// Who asked whom, as the network beyond the router saw it: from each SYN that is not a repetition.
fn mappings(capture: &Capture) -> Vec<(SocketAddr, SocketAddr)> {
    let mut mappings = Vec::new();
    for segment in segments(&capture.packets(|_| true)) {
        let mapping = (segment.tuple.local, segment.tuple.remote);
        if segment.syn && segment.ack.is_none() && !mappings.contains(&mapping) {
            mappings.push(mapping);
        }
    }
    mappings
}

fn seen(samples: &[Observation]) -> Vec<(SocketAddr, SocketAddr)> {
    samples.iter().map(|sample| (sample.external, sample.destination)).collect()
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_survey_agrees_with_what_the_network_saw() {
    for rule in ["MASQUERADE", "MASQUERADE --random-fully"] {
        let pair = with_two_addresses(&[], rule);
        let _server = Server::start(&pair.b.host, &[PRIMARY, SECOND]);
        let capture = Capture::start(&pair.network.router_a(), "wan");
        let asked = Survey::new(at(PRIMARY, &PORTS[..1]), SOURCE).neighbours(1).privileged(1);
        let samples = survey(&pair, asked).expect("samples");
        assert_eq!(seen(&samples), mappings(&capture), "{rule}");
        let destinations: Vec<_> = samples.iter().map(|sample| sample.destination).collect();
        assert_eq!(destinations, four_ends().repeat(3), "{rule}");
        let sources: Vec<_> = samples.iter().map(|sample| sample.local.port()).collect();
        assert_eq!(sources, [[SOURCE; 4], [SOURCE + 7; 4], [1023; 4]].concat(), "{rule}");
        let preserved = samples.iter().filter(|it| it.external.port() == it.local.port()).count();
        if rule == "MASQUERADE" {
            assert_eq!(preserved, 12);
        } else {
            assert!(preserved < 3, "{samples:?}");
            let pool = samples[8..].iter().map(|sample| sample.external.port());
            assert!(pool.clone().all(|port| (600..1024).contains(&port)), "{samples:?}");
        }
    }
}

/// What the survey's fit says of each of netfilter's ways to number ports, and where it expects the
/// next mapping: there the next one is, of a port and to a destination that the survey did not use.
#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn the_fitted_model_of_a_kernel_router_holds_for_its_next_mapping() {
    let random = |model: &PortModel| *model == PortModel::LinuxRandom;
    let rules = [
        ("MASQUERADE", PortModel::Preserving, 0.99),
        ("MASQUERADE --random", PortModel::LinuxRandom, 0.0),
        ("MASQUERADE --random-fully", PortModel::LinuxRandom, 0.0),
        ("MASQUERADE --to-ports 41000-41063", PortModel::Stable, 0.99),
    ];
    for (rule, expected, certain) in rules {
        let pair = with_two_addresses(&[], rule);
        let _server = Server::start(&pair.b.host, &[PRIMARY, SECOND]);
        let asked = Survey::new(at(PRIMARY, &PORTS[..1]), SOURCE).neighbours(1).privileged(2);
        let samples = survey(&pair, asked).expect("samples");
        let fit = fit(&samples).expect("a fit");
        assert_eq!(fit.model, expected, "{rule}: {fit}");
        assert!(fit.probability > 0.9, "{rule}: {fit}");

        let listener = pair.b.host.run(|| TcpListener::bind((PRIMARY, 9000)).expect("listens"));
        // The privileged pool is the small one; elsewhere the punch's own port is asked for.
        let source = if random(&fit.model) { 700 } else { SOURCE };
        let to = format!("TCP:{PRIMARY}:9000,bind=192.168.1.2:{source},reuseaddr");
        pair.a.host.must(&format!("socat -u OPEN:/dev/null {to}"));
        let (_, from) = listener.accept().expect("a connection");
        let prediction = fit.predict(source, 0, clock::now());
        assert!(prediction.probability(from.port()) > certain, "{rule}: {from}, {fit}");
        if certain == 0.0 {
            assert!((600..1024).contains(&from.port()), "{rule}: {from}");
            assert!(prediction.covering(0.9).len() <= 424, "{rule}: {fit}");
        }
    }
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_punch_that_measures_its_own_router_gets_through_it() {
    let pair = with_two_addresses(&[], "MASQUERADE --random-fully");
    let _server = Server::start(&pair.b.host, &[PRIMARY, SECOND]);
    let at = in_ms(3000);
    let mut of_a = pair.program_a(40_100, at);
    of_a.args(["--stun", PRIMARY]);
    let mut of_b = pair.program_b(40_100, at);
    of_b.args(["--peer-model", "linux-random"]);
    let (mut a, mut b) = (Program::start(&mut of_a), Program::start(&mut of_b));
    a.await_stderr("give");
    a.type_line("hello from behind a random router");
    b.await_stdout("hello from behind a random router");
    a.end_input();
    b.end_input();
    let (a, b) = (a.end(), b.end());
    assert!(a.stderr.contains("--peer-model linux-random"), "{}", a.stderr);
    assert!(b.stderr.contains("424 ports of the peer"), "{}", b.stderr);
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn twelve_mappings_take_well_under_300_ms() {
    let pair = with_two_addresses(&[], "MASQUERADE");
    let _server = Server::start(&pair.b.host, &[PRIMARY, SECOND]);
    // The later ones begin while the first one's connections still close.
    let mut took = [(); 5].map(|()| {
        let began = Instant::now();
        let asked = Survey::new(at(PRIMARY, &PORTS[..1]), SOURCE).neighbours(2);
        let samples = survey(&pair, asked).expect("samples");
        assert_eq!(samples.len(), 12, "{samples:?}");
        began.elapsed()
    });
    took.sort();
    eprintln!("twelve mappings, round trip 20 ms: median {:.1?} of {took:.1?}", took[2]);
    assert!(took[2] < Duration::from_millis(200), "{took:?}");
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_punch_follows_on_the_same_port() {
    let pair = with_two_addresses(&[], "MASQUERADE");
    let _server = Server::start(&pair.b.host, &[PRIMARY, SECOND]);
    let asked = || Survey::new(at(PRIMARY, &PORTS[..1]), SOURCE).neighbours(1);
    survey(&pair, asked()).expect("samples");
    let (a, b) = pair.punch(SOURCE);
    exchange_lines(&stream(a), &stream(b));
    let (samples, held) = pair.a.host.run(|| asked().run_and_hold()).expect("samples");
    assert_eq!(samples.len(), 8);
    let (a, b) = pair.punch(SOURCE);
    exchange_lines(&stream(a), &stream(b));
    drop(held);
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn what_a_survey_leaves_behind() {
    let pair = with_two_addresses(&[], "MASQUERADE");
    let _server = Server::start(&pair.b.host, &[PRIMARY, SECOND]);
    let capture = Capture::start(&pair.network.router_a(), "wan");
    survey(&pair, Survey::new(at(PRIMARY, &PORTS[..1]), SOURCE).neighbours(1)).expect("samples");
    eventually("no connection is left but in TIME_WAIT", || {
        pair.a.host.proc_net("tcp").iter().all(|line| line.contains(" 06 "))
    });
    let from_a = segments(&capture.packets(|_| true));
    let ports = |ended: fn(&Segment) -> bool| -> Vec<u16> {
        let mine = from_a.iter().filter(|it| it.tuple.local.ip() == pair.a.ip && ended(it));
        mine.map(|it| it.tuple.local.port()).collect()
    };
    assert_eq!(ports(|it| it.fin), [SOURCE; 4], "ended in the ordinary way");
    assert_eq!(ports(|it| it.rst), [SOURCE + 7; 4], "reset");
}

/// coturn resets a connection that the client ends; most servers do not.
#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_survey_from_the_same_port_finds_the_last_ones_connection_in_time_wait() {
    let pair = Pair::b_without_nat(&[]);
    let server = at(PRIMARY, &PORTS)[0];
    let listener = pair.b.host.run(|| TcpListener::bind(server)).expect("a free port");
    thread::spawn(move || {
        while let Ok((mut stream, from)) = listener.accept() {
            let mut request = [0; 20];
            stream.read_exact(&mut request).expect("a request");
            let IpAddr::V4(ip) = from.ip() else { panic!("{from}") };
            let port = from.port().to_be_bytes();
            // A success response with MAPPED-ADDRESS.
            let mut response = vec![1, 1, 0, 12];
            response.extend(&request[4..]);
            response.extend([0, 1, 0, 8, 0, 1, port[0], port[1]]);
            response.extend(ip.octets());
            stream.write_all(&response).expect("it listens");
            assert_eq!(stream.read(&mut request).expect("no reset"), 0);
        }
    });
    for _ in 0..3 {
        let samples = survey(&pair, Survey::new([server], SOURCE)).expect("samples");
        assert_eq!(samples.len(), 1);
        eventually("the connection is in TIME_WAIT", || {
            let table = pair.a.host.proc_net("tcp");
            matches!(&table[..], [line] if line.contains(" 06 "))
        });
    }
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_second_address_that_is_silent_costs_half_a_second_at_most() {
    let pair = with_two_addresses(&[], "MASQUERADE");
    let _server = Server::start(&pair.b.host, &[PRIMARY, SECOND]);
    pair.b.host.must(&format!("iptables -A INPUT -d {SECOND} -j DROP"));
    let began = Instant::now();
    let samples = survey(&pair, Survey::new(at(PRIMARY, &PORTS[..1]), SOURCE)).expect("samples");
    assert!(began.elapsed() < Duration::from_millis(900), "{:?}", began.elapsed());
    let destinations: Vec<_> = samples.iter().map(|sample| sample.destination).collect();
    assert_eq!(destinations, at(PRIMARY, &PORTS));
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn lost_packets_cost_samples_and_never_make_wrong_ones() {
    let options = ["--loss", "5", "--seed", "3"];
    let pair = with_two_addresses(&options, "MASQUERADE --random-fully");
    let _server = Server::start(&pair.b.host, &[PRIMARY, SECOND]);
    let capture = Capture::start(&pair.network.router_a(), "wan");
    let mut samples = Vec::new();
    for number in 0..5 {
        let first = SOURCE + 100 * number;
        let asked = Survey::new(at(PRIMARY, &PORTS[..1]), first).neighbours(3);
        samples.extend(survey(&pair, asked).expect("samples"));
    }
    assert!(samples.len() > 50, "{}", samples.len());
    let mut mappings = mappings(&capture).into_iter();
    for mapping in seen(&samples) {
        assert!(mappings.any(|seen| seen == mapping), "{mapping:?} is not there, or out of order");
    }
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn by_ipv6_nothing_is_translated() {
    let pair = Pair::b_without_nat(&[]);
    let _server = Server::start(&pair.b.host, &[IPV6]);
    let samples = survey(&pair, Survey::new(at(IPV6, &PORTS[..1]), SOURCE).neighbours(1));
    let samples = samples.expect("samples");
    assert_eq!(samples.len(), 2);
    assert!(samples.iter().all(|sample| sample.external == sample.local), "{samples:?}");
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_server_that_cannot_be_asked_is_said_to_be_so() {
    let pair = Pair::b_without_nat(&[]);
    let server = at(PRIMARY, &PORTS)[0];
    let ask = |server| {
        let asked = Survey::new([server], SOURCE).timeout(Duration::from_millis(400));
        survey(&pair, asked).expect_err("no samples")
    };
    assert_eq!(ask(server), SurveyError::Refused(server));
    pair.b.host.must("iptables -A INPUT -p tcp -j DROP");
    let within = Duration::from_millis(400);
    assert_eq!(ask(server), SurveyError::Silent { server, within });
    let over_udp = Server::without_tcp(&pair.b.host);
    assert_eq!(ask(server), SurveyError::OnlyUdp(server));
    drop(over_udp);
    pair.a.host.must("ip route del default");
    let error = ask(server);
    assert!(matches!(error, SurveyError::Unreachable { .. }), "{error}");
    let says = format!("STUN server {server} cannot be reached: Network is unreachable");
    assert_eq!(error.to_string(), says);
}
