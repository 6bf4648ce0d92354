//! Explicit port mappings, by a router of another make: Debian's miniupnpd on router-a.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use tcp_punch::engine::{MapRequest, MappingError, MappingProtocol, PortMapping};

use crate::network::{Host, Network, PATIENCE};
use crate::pair::eventually;

const INSIDE: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 2);
const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);
/// What miniupnpd calls its outer address.
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 1, 1);
const PORT: u16 = 40_000;

fn network(nat_a: &str) -> Network {
    Network::up(["--nat-b", "none", "--nat-a", nat_a])
}

/// Asked from host-a's port, with time for a busy machine.
fn asked() -> MapRequest {
    MapRequest::new(SocketAddr::from((INSIDE, PORT))).patience(Duration::from_secs(3))
}

fn request(host: &Host, asked: MapRequest) -> Result<PortMapping, MappingError> {
    host.run(|| PortMapping::request(asked))
}

/// The ports of the router that lead inside.
fn mapped(network: &Network) -> Vec<String> {
    let mut list = network.router_a().command("iptables-legacy");
    let output = list.args(["-t", "nat", "-S", "MINIUPNPD"]).output().expect("it starts");
    let rules = String::from_utf8(output.stdout).expect("text");
    rules.lines().filter(|line| line.starts_with("-A")).map(str::to_owned).collect()
}

/// A plain connection from outside reaches a plain listener inside.
fn assert_leads_inside(network: &Network, external: SocketAddr) {
    let listener = network.host_a().run(|| TcpListener::bind((INSIDE, PORT)).expect("bound"));
    let mut outside = network.host_b().run(|| {
        TcpStream::connect_timeout(&external, PATIENCE).expect("the mapping leads somewhere")
    });
    let (mut inside, _) = listener.accept().expect("it leads to the listener");
    outside.write_all(b"ping").expect("written");
    let mut came = [0; 4];
    inside.read_exact(&mut came).expect("read");
    assert_eq!(&came, b"ping");
}

fn each_alone(protocol: MappingProtocol) {
    let network = network("masquerade,upnp");
    let mapping = request(&network.host_a(), asked().protocols([protocol])).expect("a mapping");
    assert_eq!(mapping.protocol(), protocol);
    assert_eq!(mapping.gateway(), ROUTER);
    assert_eq!(mapping.external(), SocketAddr::from((OUTSIDE, PORT)));
    assert_eq!(mapping.lifetime(), Duration::from_secs(120));
    assert_eq!(mapped(&network).len(), 1);
    assert_leads_inside(&network, mapping.external());
    drop(mapping);
    eventually("nothing is left", || mapped(&network).is_empty());
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn pcp_maps_a_port_until_the_mapping_is_dropped() {
    each_alone(MappingProtocol::Pcp);
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn nat_pmp_maps_a_port_until_the_mapping_is_dropped() {
    each_alone(MappingProtocol::NatPmp);
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn upnp_maps_a_port_until_the_mapping_is_dropped() {
    each_alone(MappingProtocol::UpnpIgd);
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn of_all_protocols_one_maps_and_nothing_is_left_behind() {
    let all = network("masquerade,upnp");
    for _ in 0..10 {
        let mapping = request(&all.host_a(), asked()).expect("a mapping");
        assert_eq!(mapping.protocol(), MappingProtocol::Pcp);
        assert_eq!(mapped(&all).len(), 1);
        mapping.release();
        eventually("nothing is left", || mapped(&all).is_empty());
    }
    drop(all);
    let igd = network("masquerade,upnp=igd");
    let mapping = request(&igd.host_a(), asked()).expect("a mapping");
    assert_eq!(mapping.protocol(), MappingProtocol::UpnpIgd);
    drop(igd);
    // The router is gone, and that holds nobody up.
    let began = Instant::now();
    drop(mapping);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn it_is_asked_for_in_the_background_and_taken_back_if_nobody_waits() {
    let network = network("masquerade,upnp");
    let in_background = |asked| {
        network.host_a().run(|| PortMapping::request_in_background(asked)).expect("a sound request")
    };
    let mut pending = in_background(asked());
    let mapping = loop {
        match pending.poll() {
            Some(result) => break result.expect("a mapping"),
            None => thread::yield_now(),
        }
    };
    assert!(pending.poll().is_none());
    drop(pending);
    assert_eq!(mapped(&network).len(), 1, "the mapping outlives what asked for it");
    drop(mapping);
    let joined = in_background(asked()).join(Instant::now() + PATIENCE).expect("a mapping");
    drop(joined);
    // At whatever moment it is given up.
    for delay in [0, 1, 2, 4, 8, 16] {
        let pending = in_background(asked());
        thread::sleep(Duration::from_millis(delay));
        drop(pending);
        eventually("nothing is left", || mapped(&network).is_empty());
    }
    let late = in_background(asked()).join(Instant::now()).expect_err("no time at all");
    assert_eq!(late, MappingError::Late);
    eventually("nothing is left", || mapped(&network).is_empty());
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_port_that_another_host_has_is_replaced_by_a_free_one() {
    let network = Network::up(["--topology", "one-nat", "--nat-a", "masquerade,upnp"]);
    let other = MapRequest::new("192.168.1.3:40000".parse().expect("an address"));
    let other = request(&network.host_b(), other.patience(PATIENCE)).expect("a mapping");
    assert_eq!(other.external().port(), PORT);
    for protocol in MappingProtocol::ALL {
        let mapping = request(&network.host_a(), asked().protocols([protocol]));
        let mapping = mapping.unwrap_or_else(|error| panic!("{protocol}: {error}"));
        assert_ne!(mapping.external().port(), PORT, "{protocol}");
        drop(mapping);
        eventually("only the other's is left", || mapped(&network).len() == 1);
    }
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn what_nobody_takes_back_ends_with_its_lifetime() {
    let network = network("masquerade,upnp");
    let brief = |protocol| {
        let asked = asked().protocols([protocol]).lifetime(Duration::from_secs(1));
        request(&network.host_a(), asked).expect("a mapping")
    };
    for protocol in [MappingProtocol::NatPmp, MappingProtocol::UpnpIgd] {
        let mapping = brief(protocol);
        assert_eq!(mapping.lifetime(), Duration::from_secs(1));
        eventually("the router takes it back by itself", || mapped(&network).is_empty());
        drop(mapping);
    }
    // RFC 6887 section 15 has a server make it longer, and say so.
    assert_eq!(brief(MappingProtocol::Pcp).lifetime(), Duration::from_secs(120));
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_renewed_mapping_lasts_longer() {
    let network = network("masquerade,upnp");
    for protocol in MappingProtocol::ALL {
        let asked = asked().protocols([protocol]);
        let mut mapping = request(&network.host_a(), asked).expect("a mapping");
        let (external, expires) = (mapping.external(), mapping.expires());
        mapping.renew().expect("renewed");
        assert_eq!(mapping.external(), external);
        assert!(mapping.expires() > expires);
        assert_eq!(mapped(&network).len(), 1);
    }
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_router_that_thinks_nothing_of_its_address_is_said_to_have_none() {
    let options = ["--nat-b", "none", "--nat-a", "masquerade,upnp", "--outer-a", "user"];
    let network = Network::up(options);
    // By PCP miniupnpd says that it has no resources.
    for protocol in [MappingProtocol::NatPmp, MappingProtocol::UpnpIgd] {
        let error = request(&network.host_a(), asked().protocols([protocol])).expect_err("a NAT");
        let external = Ipv4Addr::UNSPECIFIED;
        assert_eq!(error, MappingError::NoOuterAddress { gateway: ROUTER, protocol, external });
    }
    let error = request(&network.host_a(), asked()).expect_err("a NAT");
    assert!(matches!(error, MappingError::NoOuterAddress { .. }), "{error}");
    assert_eq!(mapped(&network), [""; 0]);
}

/// A program on the router that answers each datagram to its PCP and NAT-PMP port so, or not.
/// It ends when the network does. What it was sent comes from the channel.
fn answer(
    router: &Host,
    with: impl Fn(&[u8]) -> Option<Vec<u8>> + Send + 'static,
) -> Receiver<Vec<u8>> {
    let socket = router.run(|| UdpSocket::bind((ROUTER, 5351)).expect("bound"));
    socket.set_read_timeout(Some(PATIENCE)).expect("set");
    let (sent, receiver) = channel();
    thread::spawn(move || {
        let mut request = [0; 1100];
        while let Ok((len, from)) = socket.recv_from(&mut request) {
            let answer = with(&request[..len]);
            if sent.send(request[..len].to_vec()).is_err() {
                break;
            }
            if let Some(answer) = answer {
                socket.send_to(&answer, from).expect("sent");
            }
        }
    });
    receiver
}

/// What a router of either protocol answers whose outer address is this.
fn grant(request: &[u8], outer: Ipv4Addr) -> Option<Vec<u8>> {
    let mut answer = request.to_vec();
    match request {
        // PCP MAP: a result code instead of the version's rest, the time of the router, the port
        // and address.
        [2, 1, ..] if request.len() == 60 => {
            answer[1] |= 0x80;
            answer[8..24].fill(0);
            answer[44..56].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255]);
            answer[56..].copy_from_slice(&outer.octets());
        }
        // NAT-PMP: the outer address.
        [0, 0] => answer = [&[0, 128, 0, 0, 0, 0, 0, 1][..], &outer.octets()].concat(),
        _ => return None,
    }
    Some(answer)
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_private_or_shared_outer_address_is_a_second_nat_and_its_mapping_is_taken_back() {
    for outer in [Ipv4Addr::new(100, 64, 0, 2), Ipv4Addr::new(192, 168, 178, 20)] {
        let network = network("masquerade");
        let sent = answer(&network.router_a(), move |request| grant(request, outer));
        for protocol in [MappingProtocol::Pcp, MappingProtocol::NatPmp] {
            let asked = asked().protocols([protocol]);
            let error = request(&network.host_a(), asked).expect_err("a second NAT");
            let found = MappingError::SecondNat { gateway: ROUTER, protocol, external: outer };
            assert_eq!(error, found);
            let first = sent.recv_timeout(PATIENCE).expect("it was asked");
            if protocol == MappingProtocol::Pcp {
                let second = sent.recv_timeout(PATIENCE).expect("it was asked once more");
                assert_eq!(second[4..8], [0; 4], "a lifetime of nothing takes the mapping back");
                assert_eq!(first[24..36], second[24..36], "with the nonce of the first");
            } else {
                assert_eq!(first, [0, 0], "nothing is mapped that leads nowhere");
            }
            assert!(sent.try_recv().is_err(), "and nothing else");
        }
    }
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn what_was_asked_for_and_not_answered_is_taken_back_for_all_that() {
    let network = network("masquerade");
    let sent = answer(&network.router_a(), |_| None);
    let within = Duration::from_millis(50);
    let asked = asked().patience(within).protocols([MappingProtocol::Pcp]);
    let error = request(&network.host_a(), asked).expect_err("no answer");
    assert_eq!(error, MappingError::Silent { gateway: ROUTER, within });
    let first = sent.recv_timeout(PATIENCE).expect("it was asked");
    assert_eq!(first[4..8], 120_u32.to_be_bytes(), "for two minutes");
    let last = sent.recv_timeout(PATIENCE).expect("it was asked once more");
    assert_eq!(last[4..8], [0; 4], "a lifetime of nothing takes the mapping back");
    assert_eq!(first[24..36], last[24..36], "with the nonce of the first");
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_router_that_answers_nonsense_is_survived() {
    for nonsense in [vec![], vec![2], vec![255; 60], vec![0; 12], vec![0; 1100], b"GET /".to_vec()]
    {
        let network = network("masquerade");
        let said = nonsense.clone();
        let _sent = answer(&network.router_a(), move |_| Some(said.clone()));
        let asked = asked().patience(Duration::from_millis(500));
        let error = request(&network.host_a(), asked).expect_err("nonsense");
        let known = matches!(
            error,
            MappingError::Refused { .. }
                | MappingError::Silent { .. }
                | MappingError::NoOuterAddress { .. }
        );
        assert!(known, "{nonsense:?}: {error:?}");
    }
}

#[test]
#[ignore = "needs namespaces: netns-scripts/testbed.sh lab"]
fn a_router_that_offers_nothing_costs_the_patience_and_no_more() {
    let network = network("masquerade");
    let within = Duration::from_millis(250);
    for rule in ["", "iptables -A INPUT -i lan -j DROP"] {
        if !rule.is_empty() {
            network.router_a().must(rule);
        }
        let began = Instant::now();
        let error = request(&network.host_a(), asked().patience(within)).expect_err("none");
        let took = began.elapsed();
        assert_eq!(error, MappingError::Silent { gateway: ROUTER, within });
        assert!(took < within + Duration::from_millis(500), "{took:?}");
    }
    network.host_a().must("ip route del default");
    let error = request(&network.host_a(), asked()).expect_err("no router");
    assert_eq!(error, MappingError::NoRouter(INSIDE));
}
