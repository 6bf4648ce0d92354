//! What an earlier connection between the same endpoints left behind, on hosts and in routers.

use std::net::TcpStream;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};

use crate::capture::Capture;
use crate::pair::{Pair, both, eventually, exchange_lines, in_ms, stream};
use crate::trace::segments;

/// State of each TCP socket on the host, as in `/proc/net/tcp`: 06 is TIME_WAIT.
fn states(host: &crate::network::Host) -> Vec<String> {
    let state = |line: &String| line.split_whitespace().nth(3).expect("a state").to_owned();
    host.proc_net("tcp").iter().map(state).collect()
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn time_wait_is_punched_over() {
    let pair = Pair::behind_nats(&[]);
    let (a, b) = pair.punch(40000);
    let (a, b) = (stream(a), stream(b));
    exchange_lines(&a, &b);
    drop(a);
    drop(b);
    eventually("host-a waits", || states(&pair.a.host) == ["06"]);
    let wire = Capture::start(&pair.a.host, "eth0");
    let (a, b) = pair.punch(40000);
    exchange_lines(&stream(a), &stream(b));
    // What waited said nothing more: every segment begins where the new connection does.
    let segments = segments(&wire.packets(|_| true));
    let ours = || segments.iter().filter(|it| it.tuple.local.ip() != pair.b.ip);
    let iss = ours().find(|it| it.syn).expect("a SYN or SYN-ACK").seq;
    for segment in ours().take_while(|it| it.payload.is_empty()) {
        assert!([iss, iss + 1].contains(&segment.seq), "{segment}: {segments:?}");
    }
}

/// Ends the connection with a reset instead of a farewell.
fn reset(stream: TcpStream) {
    let at_once = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    setsockopt(&stream, sockopt::Linger, &at_once).expect("linger");
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_connection_that_a_reset_ended_is_punched_anew_at_once() {
    let pair = Pair::behind_nats(&[]);
    for _ in 0..10 {
        let (a, b) = pair.punch(40000);
        let (a, b) = (stream(a), stream(b));
        exchange_lines(&a, &b);
        reset(b);
        eventually("host-a has heard of it", || states(&pair.a.host).is_empty());
    }
}

/// Both hosts lose the connection, and neither router hears of it.
fn cut_off(pair: &Pair, port: u16) {
    let (a, b) = pair.punch(port);
    let (a, b) = (stream(a), stream(b));
    exchange_lines(&a, &b);
    let routers = [pair.network.router_a(), pair.network.router_b()];
    for router in &routers {
        // Before connection tracking.
        router.must("iptables -t raw -A PREROUTING -p tcp -j DROP");
    }
    reset(a);
    reset(b);
    for router in &routers {
        router.must("iptables -t raw -F");
    }
    assert!(states(&pair.a.host).is_empty() && states(&pair.b.host).is_empty());
}

/// Netfilter keeps an established connection for five days. A SYN of the inside passes it, one of
/// the outside is invalid and draws a reset from the router itself. Whether such resets end the
/// old entry is up to the numbers of the old connection, so either outcome is right here, but not
/// an advice that leads nowhere.
#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn routers_that_hold_a_connection_of_which_no_host_knows_are_passed_or_named() {
    for kind in ["masquerade:rst", "masquerade:drop"] {
        let pair = Pair::behind_nats(&["--nat-a", kind, "--nat-b", kind]);
        cut_off(&pair, 40000);
        let at = in_ms(200);
        let patience = Duration::from_secs(2);
        let (a, b) = both(
            || pair.a.run(pair.punch_of_a(40000, at).timeout(patience)),
            || pair.b.run(pair.punch_of_b(40000, at).timeout(patience)),
        );
        match (a, b) {
            (Ok(a), Ok(b)) => exchange_lines(&stream(a), &stream(b)),
            (a, b) => {
                for failure in [a, b].into_iter().filter_map(Result::err) {
                    let advice = failure.error.advice();
                    assert!(advice.contains("choose another port"), "{failure}: {advice}");
                }
                // Which helps.
                let (a, b) = pair.punch(40001);
                exchange_lines(&stream(a), &stream(b));
            }
        }
    }
}
