//! Punches through what netfilter cannot be: NATs in the words of RFC 4787 and RFC 5382, two in a
//! row, and two routers with nothing between them.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use crate::capture::Capture;
use crate::network::Network;
use crate::pair::{Pair, exchange_lines, in_ms, stream};
use crate::trace::segments;

/// Both routers alike.
fn behind(kind: &str) -> Pair {
    Pair::behind_nats(&["--nat-a", kind, "--nat-b", kind])
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn an_early_syn_does_no_harm_whatever_an_eim_router_answers() {
    for kind in [
        "user:unsolicited=drop",
        "user:unsolicited=rst",
        "user:unsolicited=rst,rst-kills=no",
        "user:unsolicited=icmp",
        "user:unsolicited=hold",
        "user:unsolicited=rst,filtering=adf",
        "user:unsolicited=rst,filtering=eif",
    ] {
        let pair = behind(kind);
        for (port, skew) in [(40000, 0), (40050, 50), (40200, 200)] {
            println!("{kind}, {skew} ms apart");
            let (at_a, at_b) = (in_ms(400), in_ms(400 + skew));
            let (a, b) = pair.connect(pair.punch_of_a(port, at_a), pair.punch_of_b(port, at_b));
            assert_eq!(a.report.opener.ttl, Some(2));
            exchange_lines(&stream(a), &stream(b));
        }
    }
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn sequence_numbers_may_be_rewritten_on_the_way() {
    for kinds in
        [["user:rewrite-seq=yes", "user:rewrite-seq=yes"], ["user:rewrite-seq=yes", "masquerade"]]
    {
        let pair = Pair::behind_nats(&["--nat-a", kinds[0], "--nat-b", kinds[1]]);
        for port in 40000..40005 {
            let (a, b) = pair.punch(port);
            exchange_lines(&stream(a), &stream(b));
        }
    }
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn options_may_be_stripped_on_the_way() {
    let pair = behind("user:strip-options=yes");
    let at_b = Capture::start(&pair.b.host, "eth0");
    let (a, b) = pair.punch(40000);
    exchange_lines(&stream(a), &stream(b));
    let from_a = segments(&at_b.packets(|_| true));
    let syn = from_a.iter().find(|it| it.syn && it.tuple.local.ip() == pair.a.ip).expect("a SYN");
    assert_eq!(syn.options.window_scale, None);
    assert!(syn.options.mss.is_some());
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn two_routers_in_a_row_are_found_and_passed() {
    for nat in ["masquerade", "user:unsolicited=rst"] {
        for outer in ["unsolicited=drop", "unsolicited=rst"] {
            let pair = Pair::behind_nats(&["--nat-a", nat, "--outer-a", outer, "--outer-b", outer]);
            for (port, skew) in [(40000, 0), (40050, 50)] {
                println!("{nat} behind {outer}, {skew} ms apart");
                let (at_a, at_b) = (in_ms(400), in_ms(400 + skew));
                let (a, b) = pair.connect(pair.punch_of_a(port, at_a), pair.punch_of_b(port, at_b));
                // The host's own router, the carrier's, and the first one past both.
                assert_eq!(a.report.opener.ttl, Some(3));
                exchange_lines(&stream(a), &stream(b));
            }
        }
    }
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn two_routers_on_one_wire_are_passed_ten_times_in_a_row() {
    let pair = Pair::behind_wired_routers();
    for _ in 0..10 {
        let (a, b) = pair.punch(40000);
        exchange_lines(&stream(a), &stream(b));
    }
}

/// A connection of host-a's kernel to host-b by the router's outer address.
fn through_the_router(hairpin: &str) -> io::Result<()> {
    let network = Network::up(["--topology", "one-nat", "--nat-a", hairpin]);
    let outer = |port| SocketAddr::from(([198, 51, 100, 1], port));
    let wait = Duration::from_millis(500);
    // The mapping of host-b's port, made by a connection to somebody outside, who refuses it.
    let opened = network.host_b().run(|| -> io::Result<TcpListener> {
        use nix::sys::socket::{
            AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, connect, listen,
            setsockopt, socket, sockopt,
        };
        use std::os::fd::AsRawFd;
        let new = || {
            let new = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
            setsockopt(&new, sockopt::ReuseAddr, &true)?;
            setsockopt(&new, sockopt::ReusePort, &true)?;
            let local = SocketAddr::from(([192, 168, 1, 3], 7000));
            bind(new.as_raw_fd(), &SockaddrStorage::from(local))?;
            Ok::<_, io::Error>(new)
        };
        let (listener, opener) = (new()?, new()?);
        listen(&listener, Backlog::new(1)?)?;
        let outside = SocketAddr::from(([203, 0, 113, 1], 9));
        let refused = connect(opener.as_raw_fd(), &SockaddrStorage::from(outside));
        assert!(refused.is_err(), "nobody listens there");
        Ok(listener.into())
    })?;
    let a = network.host_a().run(|| TcpStream::connect_timeout(&outer(7000), wait))?;
    let (b, from) = opened.accept()?;
    assert_eq!(from.ip(), outer(0).ip(), "from the external address, RFC 5382 REQ-8");
    exchange_lines(&a, &b);
    Ok(())
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn two_hosts_behind_one_router_meet_at_its_outer_address_if_it_hairpins() {
    let reached = through_the_router("user:hairpin=yes,filtering=eif,rst-kills=no");
    assert!(reached.is_ok(), "{reached:?}");
    assert!(through_the_router("user:filtering=eif,rst-kills=no").is_err());
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn two_hosts_behind_one_router_punch_on_their_lan() {
    for kind in ["masquerade", "user:"] {
        let pair = Pair::behind_one_nat(&["--nat-a", kind]);
        let (a, b) = pair.punch(40000);
        exchange_lines(&stream(a), &stream(b));
    }
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_router_that_was_off_has_forgotten_its_mappings() {
    let sequential = "user:mapping=apdm,ports=sequential,first=30000,pool=1024-65535";
    let network = Network::up(["--nat-a", sequential]);
    let at_b = Capture::start(&network.router_b(), "wan");
    // The external ports of two connections to somebody who refuses them.
    let ports = || {
        for port in [7, 9] {
            let outside = SocketAddr::from(([203, 0, 113, 1], port));
            network.host_a().run(|| TcpStream::connect(outside)).expect_err("nobody listens");
        }
        let syns = segments(&at_b.packets(|_| true));
        syns.iter().filter(|it| it.syn).map(|it| it.tuple.local.port()).collect::<Vec<_>>()
    };
    assert_eq!(ports(), [30000, 30001]);
    assert_eq!(ports(), [30002, 30003]);
    network.flush_routers();
    assert_eq!(ports(), [30000, 30001]);
}
