//! Where two peers may be, and which way wins there.

use crate::meet::{SERVER, Server, code, meet, network, talk};
use crate::pair::Pair;

/// They meet and talk; the line about the connection names this way, at both ends.
fn assert_way(pair: &Pair, way: &str) {
    let _server = Server::start(&pair.network.server());
    let a = meet(&pair.a, &[]);
    let b = meet(&pair.b, &[&code(&a)]);
    let (a, b) = talk(a, b);
    for end in [&a, &b] {
        assert!(end.stderr.contains(&format!(", by {way}")), "{way}: {}\n{}", a.stderr, b.stderr);
    }
}

fn without_ipv6(pair: Pair) -> Pair {
    for end in [&pair.a, &pair.b] {
        end.host.must("sysctl -qw net.ipv6.conf.all.disable_ipv6=1");
    }
    pair
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn neighbours_meet_on_their_own_network() {
    let pair = without_ipv6(Pair::behind_one_nat(&["--server", SERVER]));
    assert_way(&pair, "local network");
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn neighbours_that_may_not_see_each_other_meet_through_their_router() {
    let options = ["--server", SERVER, "--nat-a", "user:hairpin=yes"];
    let pair = without_ipv6(Pair::behind_one_nat(&options));
    // As a guest network does.
    for port in ["port-a", "port-b"] {
        pair.network.router_a().must(&format!("bridge link set dev {port} isolated on"));
    }
    assert_way(&pair, "hairpin");
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn ipv6_goes_through_stateful_firewalls() {
    let pair = Pair::behind_nats(&["--server", SERVER]);
    // By IPv4 there is the server and nobody else; with both the faster one wins.
    pair.network.router_a().must("iptables -I FORWARD -d 203.0.113.0/24 -j DROP");
    assert_way(&pair, "IPv6");
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_carriers_nat_on_one_side() {
    assert_way(&network(&["--outer-a", "user"]), "both routers");
}
