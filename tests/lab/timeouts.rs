//! Nobody there, or not where agreed: what is said, and that nothing stays behind.

use std::net::TcpListener;

use crate::capture::Capture;
use crate::pair::{Pair, both, in_ms};
use crate::program::{Ended, Program, START_UP_MS};
use crate::trace::{is_full_syn_from, is_probe};

/// host-a punches to nobody.
fn punch_alone(pair: &Pair, options: &[&str]) -> Ended {
    let at = in_ms(START_UP_MS);
    let ended = Program::start(pair.program_a(40000, at).args(options)).end();
    pair.a.host.assert_bare();
    ended
}

/// The text with each number in it replaced by N.
fn without_numbers(text: &str) -> String {
    let mut words: Vec<&str> = text.split(' ').collect();
    for word in &mut words {
        if word.parse::<u32>().is_ok() {
            *word = "N";
        }
    }
    words.join(" ")
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn an_absent_peer_whose_router_answers_with_resets() {
    let ended =
        punch_alone(&Pair::behind_nats(&["--nat-b", "masquerade:rst"]), &["--timeout", "1s"]);
    assert_eq!(ended.status, 6, "{ended:?}");
    let (happened, todo) = ended.complaint();
    assert_eq!(
        without_numbers(&happened),
        "N SYNs left, and N resets came back, but nothing of the peer"
    );
    assert_eq!(
        todo,
        "no mapping of the peer was open: start both sides for the same instant and check the \
         peer's address and port; if a connection was cut off before, choose another port: a \
         router may hold on to it"
    );
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn an_absent_peer_whose_router_is_silent() {
    let ended =
        punch_alone(&Pair::behind_nats(&["--nat-b", "masquerade:drop"]), &["--timeout", "1s"]);
    assert_eq!(ended.status, 6, "{ended:?}");
    let (happened, todo) = ended.complaint();
    assert_eq!(without_numbers(&happened), "N SYNs left and nothing came back");
    assert!(todo.starts_with("check that the peer runs for the same instant"), "{todo}");
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_timeout_at_the_very_moment_of_a_repetition_in_step() {
    // Without an opener SYNs are repeated in step 400 ms after the instant, to the microsecond.
    let options = ["--opener", "off", "--timeout", "400ms"];
    let ended = punch_alone(&Pair::behind_nats(&["--nat-b", "masquerade:drop"]), &options);
    assert_eq!(ended.status, 6, "{ended:?}");
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn an_address_that_a_router_calls_unreachable() {
    let pair = Pair::behind_nats(&[]);
    // TCP alone: on our probes it would spend all that a router says of this kind in a second.
    let reject = "iptables -A FORWARD -i lan -p tcp -j REJECT --reject-with icmp-host-unreachable";
    pair.network.router_a().must(reject);
    let ended = punch_alone(&pair, &["--timeout", "1s"]);
    assert_eq!(ended.status, 6, "{ended:?}");
    assert_eq!(
        without_numbers(&ended.complaint().0),
        "N SYNs left and were called undeliverable by 192.168.1.1"
    );
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_peer_at_another_port_than_agreed_is_named() {
    for pair in [Pair::on_one_lan(), Pair::without_nat(&[])] {
        let at = in_ms(START_UP_MS);
        // What a router does that gives the peer another port, seen from here.
        let (a, b) = both(
            || Program::start(pair.program_a(40000, at).args(["--timeout", "1s"])).end(),
            || {
                let mut command = pair.program_b(40000, at);
                Program::start(command.args(["--local", "40777", "--timeout", "1s"])).end()
            },
        );
        let other = pair.b.at(40777);
        a.assert_complaint(
            6,
            &format!("the peer's SYNs come from {other}: its router maps ports otherwise"),
            &format!("try again with --peer {other}"),
        );
        assert_eq!(b.status, 6, "{b:?}");
    }
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_network_that_goes_away_is_told_as_such() {
    let pair = Pair::behind_nats(&[]);
    let wire = Capture::start(&pair.network.router_a(), "lan");
    let at = in_ms(START_UP_MS);
    let a = Program::start(pair.program_a(40000, at).args(["--timeout", "1s"]));
    // The first packet is a probe; the instant is still to come.
    wire.first(is_probe);
    pair.a.host.must("ip link set eth0 down");
    let ended = a.end();
    assert_eq!(ended.status, 6, "{ended:?}");
    let (happened, todo) = ended.complaint();
    assert!(happened.starts_with("no SYN could be sent: "), "{ended:?}");
    assert!(happened.contains("is unreachable") || happened.contains("is down"), "{ended:?}");
    assert!(todo.starts_with("the network went away: check the interface"), "{ended:?}");
    pair.a.host.assert_bare();
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_network_that_goes_away_after_the_syn_is_told_as_such() {
    let pair = Pair::behind_nats(&["--nat-b", "masquerade:drop"]);
    let wire = Capture::start(&pair.a.host, "eth0");
    let at = in_ms(START_UP_MS);
    let a = Program::start(pair.program_a(40000, at).args(["--timeout", "1s"]));
    wire.first(is_full_syn_from("192.168.1.2".parse().unwrap()));
    pair.a.host.must("ip link set eth0 down");
    let ended = a.end();
    assert_eq!(ended.status, 6, "{ended:?}");
    let (happened, todo) = ended.complaint();
    assert!(happened.contains("is unreachable") || happened.contains("is down"), "{ended:?}");
    assert!(
        happened.starts_with("the SYN left, but nothing after it could be sent: "),
        "{ended:?}"
    );
    assert!(todo.starts_with("the network went away: check the interface"), "{ended:?}");
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_network_that_comes_back_in_time_is_no_failure() {
    let pair = Pair::behind_nats(&[]);
    let wire = Capture::start(&pair.a.host, "eth0");
    let at = in_ms(START_UP_MS);
    let start = |mut command| {
        let mut program = Program::start(&mut command);
        program.type_line("still here");
        program.end_input();
        program
    };
    let a = start(pair.program_a(40000, at));
    let b = start(pair.program_b(40000, at));
    wire.first(is_probe);
    pair.a.host.must("ip link set eth0 down");
    pair.a.host.must("ip link set eth0 up");
    pair.a.host.must("ip route add default via 192.168.1.1 dev eth0");
    for ended in [a.end(), b.end()] {
        assert_eq!((ended.status, ended.stdout.as_str()), (0, "still here\n"), "{ended:?}");
    }
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_listener_that_is_no_peer_does_not_hold_the_key() {
    let pair = Pair::b_without_nat(&[]);
    let _listener = pair.b.host.run(|| TcpListener::bind(pair.b.at(40000))).expect("a free port");
    let mut command = pair.program_a(40000, in_ms(START_UP_MS));
    command.args(["--timeout", "1s", "--key-env", "KEY"]).env("KEY", "sesame");
    let ended = Program::start(&mut command).end();
    assert_eq!(ended.status, 7, "{ended:?}");
    assert!(ended.complaint().0.ends_with("somebody who does not hold the key"), "{ended:?}");
    pair.a.host.assert_bare();
}
