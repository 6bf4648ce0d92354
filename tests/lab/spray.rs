//! Many tuples at once, on real devices: what arrives, and what the sending host makes of it.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use nix::errno::Errno;
use tcp_punch::sys::{Capture as Search, Route, Spray};
use tcp_punch::wire::{Options, Segment, Seq, Template, Tuple};

use crate::capture::Capture;
use crate::network::{Host, Network};
use crate::pair::eventually;
use crate::trace::segments;
use crate::veth::Veth;

const V4: (IpAddr, IpAddr) = (IpAddr::V4(Veth::NEAR), IpAddr::V4(Veth::FAR));
const V6: (IpAddr, IpAddr) = (IpAddr::V6(Veth::NEAR6), IpAddr::V6(Veth::FAR6));

fn syn((local, peer): (IpAddr, IpAddr)) -> Segment {
    let tuple = Tuple { local: SocketAddr::new(local, 0), remote: SocketAddr::new(peer, 0) };
    let options = Options { mss: Some(1400), ..Options::default() };
    Segment { syn: true, window: 1000, options, ..Segment::new(tuple, Seq(77)) }
}

fn spray((local, peer): (IpAddr, IpAddr)) -> Spray {
    let route = Route::to(peer, Some(local)).expect("a route");
    Spray::new(&route, local, peer).expect("a spray")
}

fn tuples(count: u16) -> impl Iterator<Item = (u16, u16)> {
    (0..count).map(|n| (40_000 + n % 7, 1000 + n))
}

/// The tuples of all SYNs that came in since, in order.
fn seen(capture: &Capture) -> Vec<(u16, u16)> {
    let packets = capture.packets(|packet| {
        Segment::parse(packet).is_ok_and(|it| it.syn && it.ack.is_none() && it.seq == Seq(77))
    });
    assert!(packets.iter().all(|packet| Segment::has_right_checksum(&packet.bytes)));
    let ports = |it: &Segment| (it.tuple.local.port(), it.tuple.remote.port());
    segments(&packets).iter().map(ports).collect()
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn every_tuple_reaches_the_peer_once_and_in_order() {
    let veth = Veth::up().expect("a network");
    for (ends, throughout) in [(V4, false), (V6, false), (V4, true), (V6, true)] {
        let far = Capture::start(&veth.far, Veth::FAR_NAME);
        let near = Capture::start(&veth.near, Veth::NEAR_NAME);
        let template = Template::new(&syn(ends));
        veth.near.run(|| {
            let mut spray = match throughout {
                true => Spray::through_host(ends.0, ends.1).expect("a spray"),
                false => spray(ends),
            };
            assert_eq!(spray.send(&template, tuples(0)), Ok(0));
            // The neighbour's address is not known before the first packet.
            assert_eq!(spray.send(&template, tuples(1)), Ok(1));
            assert_eq!(spray.bypasses_host(), !throughout);
            assert_eq!(spray.send(&template, tuples(1000).skip(1)), Ok(999));
        });
        let mut arrived = vec![];
        eventually("all have arrived", || {
            arrived.extend(seen(&far));
            arrived.len() >= 1000
        });
        assert!(arrived.into_iter().eq(tuples(1000)));
        // They were addressed to the far host: its kernel, which has no such port, answers each.
        let resets = || segments(&near.packets(|_| true)).iter().filter(|it| it.rst).count();
        let mut answered = 0;
        eventually("all are answered", || {
            answered += resets();
            answered == 1000
        });
    }
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_host_that_alters_packets_is_not_bypassed() {
    let veth = Veth::up().expect("a network");
    veth.near.must("iptables -t nat -A POSTROUTING -p tcp -j MASQUERADE --to-ports 50000-60000");
    let far = Capture::start(&veth.far, Veth::FAR_NAME);
    let template = Template::new(&syn(V4));
    veth.near.run(|| {
        let mut spray = spray(V4);
        assert_eq!(spray.send(&template, tuples(500)), Ok(500));
        assert!(!spray.bypasses_host());
    });
    let mut arrived = vec![];
    eventually("all have arrived", || {
        arrived.extend(seen(&far));
        arrived.len() >= 500
    });
    assert!(arrived.iter().all(|(local, _)| (50_000..=60_000).contains(local)), "{arrived:?}");
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_host_that_refuses_packets_is_an_error_and_not_bypassed() {
    let veth = Veth::up().expect("a network");
    veth.near.must("iptables -A OUTPUT -p tcp --dport 1000:1010 -j DROP");
    let far = Capture::start(&veth.far, Veth::FAR_NAME);
    let template = Template::new(&syn(V4));
    veth.near.run(|| {
        let mut spray = spray(V4);
        for _ in 0..2 {
            let failed = spray.send(&template, tuples(500)).expect_err("a refusal");
            assert_eq!(failed.errno, Errno::EPERM);
        }
        // The tuple that is refused ends the batch, and the next one begins with it.
        let mut through = Spray::through_host(V4.0, V4.1).expect("a spray");
        assert_eq!(through.send(&template, tuples(100).skip(20).chain(tuples(5))), Ok(80));
    });
    eventually("all have arrived", || seen(&far).len() == 80);
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn what_a_full_queue_does_not_take_is_not_counted_as_sent() {
    let veth = Veth::up().expect("a network");
    veth.near.must("tc qdisc add dev near0 root tbf rate 160kbit burst 2000 limit 4000");
    for throughout in [false, true] {
        let far = Capture::start(&veth.far, Veth::FAR_NAME);
        let template = Template::new(&syn(V4));
        let sent = veth.near.run(|| {
            let mut spray = match throughout {
                true => Spray::through_host(V4.0, V4.1).expect("a spray"),
                false => spray(V4),
            };
            spray.send(&template, tuples(5000)).expect("some are sent")
        });
        assert!((20..1000).contains(&sent), "{sent} sent");
        let mut arrived = vec![];
        eventually("the queue has drained", || {
            arrived.extend(seen(&far));
            arrived.len() >= sent as usize
        });
        assert!(arrived.into_iter().eq(tuples(5000).take(sent as usize)));
    }
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_device_without_link_layer_header_gets_plain_packets() {
    let network = Network::up([]);
    let (router, peer): (Host, IpAddr) = (network.router_a(), "203.0.113.1".parse().unwrap());
    let local: IpAddr = "198.51.100.1".parse().unwrap();
    let far = Capture::start(&network.router_b(), "wan");
    let template = Template::new(&syn((local, peer)));
    router.run(|| {
        let mut spray = spray((local, peer));
        assert_eq!(spray.send(&template, tuples(300)), Ok(300));
        assert!(!spray.bypasses_host());
    });
    let mut arrived = HashSet::new();
    eventually("all have arrived", || {
        arrived.extend(seen(&far));
        arrived.len() == 300
    });
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_search_hears_one_segment_among_thousands_of_resets() {
    let veth = Veth::up().expect("a network");
    for ends in [V4, V6] {
        let template = Template::new(&syn(ends));
        let locals: Vec<u16> = tuples(7).map(|(local, _)| local).collect();
        let near = Capture::start(&veth.near, Veth::NEAR_NAME);
        let index = veth.near.run(|| Route::to(ends.1, None).expect("a route").interface_index);
        let mut search =
            veth.near.run(|| Search::search(index, &locals, ends.1).expect("a search"));
        veth.near.run(|| spray(ends).send(&template, tuples(3000)).expect("it is sent"));
        let answer = Segment { ack: Some(Seq(78)), ..syn((ends.1, ends.0)) };
        let answer = Template::new(&answer);
        veth.far.run(|| spray((ends.1, ends.0)).send(&answer, [(5, 40_003)].into_iter()).unwrap());
        let mut resets = 0;
        eventually("all is answered", || {
            resets += segments(&near.packets(|_| true)).iter().filter(|it| it.rst).count();
            resets >= 3000
        });
        let mut heard = vec![];
        while let Some(captured) = search.receive().expect("it is up") {
            heard.push(Segment::parse(captured.packet).expect("a segment"));
        }
        let ports: Vec<_> = heard.iter().map(|it| it.tuple.remote.port()).collect();
        assert_eq!(ports, [40_003], "{heard:?}");
        assert_eq!(heard[0].ack, Some(Seq(78)));
    }
}
