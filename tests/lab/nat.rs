//! `tcp-punch nat`: is every kind of router told for what it is?

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::kind::{KINDS, Kind};
use crate::network::{Host, Network};
use crate::pair::eventually;
use crate::program::{Ended, Program, binary};
use crate::told;

/// The two addresses of the server, apart from those of the hops.
const ADDRESSES: &str = "192.0.2.250,192.0.2.251";
const MAIN: &str = "192.0.2.250";
const OTHER: &str = "192.0.2.251";
const IPV6: &str = "2001:db8:fff0::1,2001:db8:fff0::2";

/// `tcp-punch serve`, until it is dropped.
struct Server(Option<Program>);

impl Server {
    fn start(host: &Host, main: &str, other: Option<&str>) -> Self {
        let at = |ip: &str, port| SocketAddr::new(ip.parse().expect("an address"), port);
        let mut command = host.command(binary());
        command.args(["serve", "-q", "--listen", &at(main, 3478).to_string()]);
        command.args(other.into_iter().flat_map(|other| ["--alt-addr", other]));
        let server = Self(Some(Program::start(&mut command)));
        let ends =
            [Some(main), other].into_iter().flatten().flat_map(|ip| [at(ip, 3478), at(ip, 3479)]);
        let ends: Vec<SocketAddr> = ends.collect();
        eventually("the server listens", || {
            host.run(|| ends.iter().all(|end| TcpStream::connect(end).is_ok()))
        });
        server
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

/// host-a behind a router of this kind, and somebody outside.
fn behind(nat: &str, outer: Option<&str>, addresses: &str) -> Network {
    let outer = outer.into_iter().flat_map(|outer| ["--outer-a", outer]);
    let options = ["--delay", "10ms", "--nat-b", "none", "--server", addresses, "--nat-a", nat];
    Network::up(options.into_iter().chain(outer))
}

/// `tcp-punch nat` on host-a.
fn nat(network: &Network, options: &[&str]) -> Ended {
    let mut command = network.host_a().command(binary());
    command.env_remove("TCP_PUNCH_SERVER").arg("nat").args(options);
    Program::start(&mut command).end()
}

/// Its document.
fn document(ended: &Ended) -> Value {
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    serde_json::from_str(&ended.stdout).expect("JSON")
}

/// What is wrong with what is found of a kind, if anything.
fn wrong(kind: &Kind) -> Option<String> {
    let network = behind(kind.network, kind.outer, ADDRESSES);
    let _server = Server::start(&network.server(), MAIN, Some(OTHER));
    let ended = nat(&network, &["--server", MAIN, "--json"]);
    if ended.status != 0 {
        return Some(format!("{}: {}", kind.name, ended.stderr));
    }
    let found = document(&ended);
    let (is, should) = (told::essence(&found), told::expected(kind.name));
    println!("{}: {} ms", kind.name, found["took_ms"]);
    (is != should).then(|| format!("{}: {is}\nshould be {should}\n{found:#}", kind.name))
}

fn all_are_told(names: &[&str]) {
    let kinds: Vec<&Kind> = names.iter().map(|name| Kind::named(name).expect("a kind")).collect();
    let mut all = Vec::new();
    // They wait most of the time, so several at once.
    for kinds in kinds.chunks(4) {
        all.extend(thread::scope(|scope| {
            let runs: Vec<_> = kinds.iter().map(|kind| scope.spawn(|| wrong(kind))).collect();
            let ends = runs.into_iter().map(|run| run.join().expect("no panic"));
            ends.flatten().collect::<Vec<String>>()
        }));
    }
    assert!(
        all.is_empty(),
        "{} of {} kinds are wrong:\n{}",
        all.len(),
        names.len(),
        all.join("\n")
    );
}

const ANSWERS: [&str; 8] =
    ["none", "masquerade", "drop", "reject", "icmp", "listener", "invalid-drop", "strict"];
const BLOCKS: [&str; 3] = ["syn-block", "raw-syn-block", "raw+strict"];
const NUMBERS: [&str; 5] = ["to-ports", "random", "random-fully", "random+drop", "random+block"];
const FILTERS: [&str; 4] = ["cgn", "full-cone", "adf", "hold"];
const POOLS: [&str; 5] = ["adm", "sequential", "busy-step-2", "parity", "block-64"];
const ODD: [&str; 3] = ["syn-ignored", "rewrite-seq", "strip-options"];

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn nat_tells_what_meets_an_unasked_syn() {
    all_are_told(&ANSWERS);
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn nat_tells_who_lets_no_syn_in() {
    all_are_told(&BLOCKS);
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn nat_tells_how_netfilter_numbers() {
    all_are_told(&NUMBERS);
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn nat_tells_filters_and_carriers() {
    all_are_told(&FILTERS);
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn nat_tells_mappings_and_pools() {
    all_are_told(&POOLS);
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn nat_tells_odd_routers() {
    all_are_told(&ODD);
}

#[test]
fn every_kind_of_the_matrix_is_in_a_group() {
    let grouped = [&ANSWERS[..], &BLOCKS, &NUMBERS, &FILTERS, &POOLS, &ODD].concat();
    assert!(KINDS.iter().map(|kind| kind.name).eq(grouped));
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn nat_takes_a_second_or_two_where_the_router_answers() {
    let network = behind("masquerade", None, ADDRESSES);
    let _server = Server::start(&network.server(), MAIN, Some(OTHER));
    let mut took: Vec<u64> = (0..5)
        .filter_map(|_| document(&nat(&network, &["--server", MAIN, "--json"]))["took_ms"].as_u64())
        .collect();
    took.sort_unstable();
    eprintln!("nat, round trip 20 ms, router resets: median {} ms of {took:?}", took[2]);
    assert!(took[2] < 2000, "{took:?}");
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn nat_says_it_in_words() {
    let network = behind("masquerade", None, ADDRESSES);
    let _server = Server::start(&network.server(), MAIN, Some(OTHER));
    let ended = nat(&network, &["--server", MAIN, "-v"]);
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    println!("{}", ended.stdout);
    for says in [
        "192.168.1.2 inside, 198.51.100.1 outside",
        "ports            kept",
        "unasked SYN      answered with a reset at once",
        "This host is behind one NAT.",
        "This host can punch with peers behind every kind of router.",
    ] {
        assert!(ended.stdout.contains(says), "{says}: {}", ended.stdout);
    }
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn nat_finds_a_router_that_hairpins() {
    for (hairpin, is) in [("yes", "passes"), ("no", "blocked")] {
        let spec = format!("user:hairpin={hairpin},filtering=eif,unsolicited=rst");
        let network = behind(&spec, None, ADDRESSES);
        let _server = Server::start(&network.server(), MAIN, Some(OTHER));
        let found = document(&nat(&network, &["--server", MAIN, "--json"]));
        assert_eq!(found["hairpin"]["value"], is, "{found:#}");
    }
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn by_ipv6_nat_finds_a_firewall() {
    let network = behind("masquerade", None, IPV6);
    let (main, other) = IPV6.split_once(',').expect("two");
    let _server = Server::start(&network.server(), main, Some(other));
    let found = document(&nat(&network, &["--server", &format!("[{main}]"), "--json"]));
    assert_eq!(found["boundary"], "firewall", "{found:#}");
    assert_eq!(found["unsolicited_syn"]["value"], "reset", "{found:#}");
    assert_eq!(found["crossed_syn"]["value"], "passes", "{found:#}");
    assert_eq!(found["nats"]["at_most"], 0, "{found:#}");
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn without_a_second_address_nat_does_not_guess_the_filter() {
    for (spec, is) in [
        ("user:filtering=eif,unsolicited=rst", Value::Null),
        ("user:filtering=apdf,unsolicited=rst", json!("address_and_port_dependent")),
    ] {
        let network = behind(spec, None, MAIN);
        let _server = Server::start(&network.server(), MAIN, None);
        let found = document(&nat(&network, &["--server", MAIN, "--json"]));
        assert_eq!(found["filtering"]["value"], is, "{found:#}");
        assert_eq!(found["allocation"]["value"]["kind"], "preserving", "{found:#}");
        assert_eq!(found["crossed_syn"]["value"], "passes", "{found:#}");
    }
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_stun_server_of_another_make_tells_mappings_and_no_filter() {
    let network = behind("random-fully", None, ADDRESSES);
    let host = network.server();
    let mut command = host.command("turnserver");
    command.args(["-n", "--stun-only", "--no-auth", "--no-cli", "--no-tls", "--no-dtls"]);
    command.args(["--log-file", "stdout", "--pidfile", "", "--userdb", "/run/turndb-nat"]);
    command.args(["--listening-port", "3478", "--alt-listening-port", "3479"]);
    command.args(["--listening-ip", MAIN, "--listening-ip", OTHER]);
    let coturn = Server(Some(Program::start(&mut command)));
    let end = |ip: &str| SocketAddr::new(ip.parse().expect("an address"), 3479);
    eventually("coturn listens", || {
        host.run(|| [MAIN, OTHER].iter().all(|ip| TcpStream::connect(end(ip)).is_ok()))
    });
    for option in ["--stun", "--server"] {
        let ended = nat(&network, &[option, MAIN, "--json"]);
        let found = document(&ended);
        assert_eq!(found["rendezvous"], false);
        assert_eq!(found["mapping"]["value"], "address_and_port_dependent", "{found:#}");
        assert_eq!(found["allocation"]["value"]["kind"], "linux_random", "{found:#}");
        for unknown in ["filtering", "unsolicited_syn", "crossed_syn", "hairpin"] {
            assert_eq!(found[unknown]["value"], Value::Null, "{unknown}: {found:#}");
            assert_eq!(found[unknown]["confidence"], 0.0);
        }
        let warned = ended.stderr.contains("is no tcp-punch server");
        assert_eq!(warned, option == "--server", "{}", ended.stderr);
    }
    drop(coturn);
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_server_that_cannot_be_reached_ends_nat_with_two_lines() {
    let network = behind("masquerade", None, ADDRESSES);
    let began = Instant::now();
    let ended = nat(&network, &["--server", MAIN]);
    assert_eq!((ended.status, ended.stderr.lines().count()), (4, 2), "{}", ended.stderr);
    assert!(ended.stderr.contains("refuses TCP connections"), "{}", ended.stderr);
    network.server().must("iptables -A INPUT -p tcp -j DROP");
    let ended = nat(&network, &["--server", MAIN]);
    assert_eq!((ended.status, ended.stderr.lines().count()), (4, 2), "{}", ended.stderr);
    assert!(ended.stderr.contains("did not answer within"), "{}", ended.stderr);
    assert!(began.elapsed() < Duration::from_secs(12), "{:?}", began.elapsed());
}

/// Answers STUN requests, and says that everybody comes from this address.
fn liar(host: &Host, at: SocketAddr, says: [u8; 4]) {
    let listener = host.run(|| TcpListener::bind(at)).expect("a free port");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            thread::spawn(move || {
                let mut request = [0; 20];
                if stream.read_exact(&mut request).is_err() {
                    return;
                }
                let Ok(from) = stream.peer_addr() else { return };
                let mut response = vec![1, 1, 0, 12];
                response.extend(&request[4..]);
                response.extend([0, 1, 0, 8, 0, 1]);
                response.extend(from.port().to_be_bytes());
                response.extend(says);
                // It may have gone meanwhile.
                let _ = stream.write_all(&response);
                let _ = stream.read(&mut request);
            });
        }
    });
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_server_that_lies_about_the_address_is_named() {
    let network = behind("masquerade", None, ADDRESSES);
    let host = network.server();
    let liar_at = SocketAddr::new(OTHER.parse::<IpAddr>().expect("an address"), 4000);
    liar(&host, liar_at, [192, 0, 2, 77]);
    let _server = Server::start(&host, MAIN, None);
    let ended = nat(&network, &["--server", MAIN, "--stun", &liar_at.to_string(), "--json"]);
    let found = document(&ended);
    let warning = found["warnings"][0].as_str().unwrap_or_default();
    assert!(warning.contains("192.0.2.77") && warning.contains("198.51.100.1"), "{found:#}");
    assert!(ended.stderr.contains("one of them lies"), "{}", ended.stderr);
}

/// A packet lost here and there costs time, and no finding becomes wrong.
#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn lost_packets_make_no_finding_wrong() {
    let options = ["--delay", "10ms", "--nat-b", "none", "--loss", "2", "--seed", "7"];
    let network = Network::up(options.into_iter().chain(["--server", ADDRESSES]));
    let _server = Server::start(&network.server(), MAIN, Some(OTHER));
    let should = told::expected("masquerade");
    for _ in 0..10 {
        let found = document(&nat(&network, &["--server", MAIN, "--json"]));
        let is = told::essence(&found);
        for (name, value) in should.as_object().expect("names") {
            assert!(is[name] == *value || is[name].is_null(), "{name}: {found:#}");
        }
    }
}

/// The server ends while the router's silence is waited for.
#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_server_that_dies_meanwhile_leaves_what_it_would_have_told_unknown() {
    let network = behind("masquerade,drop", None, ADDRESSES);
    let mut server = Server::start(&network.server(), MAIN, Some(OTHER));
    let mut command = network.host_a().command(binary());
    command.args(["nat", "--server", MAIN, "--json"]);
    let program = Program::start(&mut command);
    program.await_stderr("says nothing");
    server.0.take().expect("it runs").signal(Signal::SIGKILL);
    let began = Instant::now();
    let found = document(&program.end());
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert_eq!(found["unsolicited_syn"]["value"], Value::Null, "{found:#}");
    assert_eq!(found["mapping"]["value"], "endpoint_independent", "{found:#}");
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn without_privileges_nat_tells_mappings() {
    let network = behind("masquerade", None, ADDRESSES);
    let _server = Server::start(&network.server(), MAIN, Some(OTHER));
    let mut command = network.host_a().command("setpriv");
    command.args(["--inh-caps=-all", "--bounding-set=-all", &binary()]);
    command.args(["nat", "--server", MAIN, "--json"]);
    let ended = Program::start(&mut command).end();
    let found = document(&ended);
    assert!(ended.stderr.contains("run it with sudo"), "{}", ended.stderr);
    assert_eq!(found["mapping"]["value"], "endpoint_independent", "{found:#}");
    for unknown in ["filtering", "unsolicited_syn", "crossed_syn", "mid_stream", "hairpin"] {
        assert_eq!(found[unknown]["value"], Value::Null, "{unknown}: {found:#}");
    }
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn nat_leaves_nothing_behind() {
    let network = behind("masquerade", None, ADDRESSES);
    let _server = Server::start(&network.server(), MAIN, Some(OTHER));
    document(&nat(&network, &["--server", MAIN, "--json"]));
    eventually("no connection is left but in TIME_WAIT", || {
        network.host_a().proc_net("tcp").iter().all(|line| line.contains(" 06 "))
    });
    eventually("nor any socket of another sort", || {
        let host = network.host_a();
        ["packet", "raw"].iter().all(|table| host.proc_net(table).is_empty())
    });
}
