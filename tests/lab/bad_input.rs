//! What only a host's network can tell is wrong, said in two lines before anything is sent.

use std::net::{SocketAddr, TcpListener};

use crate::pair::{Pair, exchange_lines, in_ms, stream};
use crate::program::{Ended, Program, START_UP_MS};

/// How `tcp-punch --peer PEER OPTIONS` ends on host-a.
fn punch(pair: &Pair, peer: &str, options: &[&str]) -> Ended {
    let peer: SocketAddr = peer.parse().expect("an address");
    let mut command = pair.a.tcp_punch(peer, in_ms(START_UP_MS));
    Program::start(command.args(options)).end()
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn addresses_that_cannot_be_a_peer() {
    let pair = Pair::on_one_lan();
    for peer in ["192.168.1.2:40000", "[2001:db8:a::2]:40000"] {
        let ip = peer.parse::<SocketAddr>().unwrap().ip();
        punch(&pair, peer, &[]).assert_complaint(
            2,
            &format!("{ip} is this host itself"),
            "give the peer's public address, not your own",
        );
    }
    punch(&pair, "192.168.1.255:40000", &[]).assert_complaint(
        2,
        "192.168.1.255 is a broadcast address",
        "give the address of one host",
    );
    pair.a.host.assert_bare();
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_local_address_that_is_not_this_hosts() {
    let pair = Pair::on_one_lan();
    punch(&pair, "192.168.1.3:40000", &["--local", "192.168.1.7:40000"]).assert_complaint(
        2,
        "192.168.1.7 is not an address of this host",
        "give --local one of this host's addresses (ip address), or a port alone",
    );
    pair.a.host.assert_bare();
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_local_port_that_somebody_listens_on() {
    let pair = Pair::on_one_lan();
    for address in ["0.0.0.0:40000", "192.168.1.2:40000", "[::]:40000"] {
        let _listener = pair.a.host.run(|| TcpListener::bind(address)).expect("a free port");
        punch(&pair, "192.168.1.3:40000", &[]).assert_complaint(
            2,
            "local port 40000 is in use by another program",
            "see who has it with: ss -tanp 'sport = :40000', or choose another with --local PORT",
        );
    }
    pair.a.host.assert_bare();
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn no_way_to_the_peer() {
    let pair = Pair::on_one_lan();
    for peer in ["203.0.113.1:40000", "[2001:db8:b::2]:40000"] {
        let ip = peer.parse::<SocketAddr>().unwrap().ip();
        punch(&pair, peer, &[]).assert_complaint(
            5,
            &format!("no route to {ip}"),
            "check the address, and that the network is up (ip route)",
        );
    }
    pair.a.host.assert_bare();
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_peer_of_the_other_ip_version_than_the_local_address() {
    let pair = Pair::on_one_lan();
    let ended = punch(&pair, "[2001:db8:a::3]:40000", &["--local", "192.168.1.2:40000"]);
    assert_eq!(ended.status, 2, "{ended:?}");
    assert_eq!(ended.complaint().0, "--peer 2001:db8:a::3 is IPv6, --local 192.168.1.2 is IPv4");
    pair.a.host.assert_bare();
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn an_interface_that_is_down() {
    let pair = Pair::on_one_lan();
    pair.a.host.must("ip link set eth0 down");
    let ended = punch(&pair, "192.168.1.3:40000", &[]);
    assert_eq!(ended.status, 5, "{ended:?}");
    assert_eq!(ended.complaint().0, "no route to 192.168.1.3");
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn endpoints_between_which_a_connection_stands() {
    let pair = Pair::behind_nats(&[]);
    let (a, b) = pair.punch(40000);
    let (a, b) = (stream(a), stream(b));
    punch(&pair, "203.0.113.1:40000", &[]).assert_complaint(
        2,
        "a connection 192.168.1.2:40000 > 203.0.113.1:40000 exists already",
        "end it first, or choose another port with --local PORT",
    );
    exchange_lines(&a, &b);
}
