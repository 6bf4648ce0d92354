//! How long packets are on their way through the wide area network of the lab.

use std::collections::HashMap;
use std::net::UdpSocket;
use std::thread;
use std::time::Duration;

use etherparse::{SlicedPacket, TransportSlice};

use crate::capture::Capture;
use crate::network::{Host, Network};

pub(crate) fn udp(host: &Host, local: &str) -> UdpSocket {
    host.run(|| UdpSocket::bind(local)).expect("a free port")
}

/// The payload of a packet to UDP port 9.
fn discarded(packet: &[u8]) -> Option<&[u8]> {
    match SlicedPacket::from_ip(packet).ok()?.transport? {
        TransportSlice::Udp(udp) if udp.destination_port() == 9 => Some(udp.payload()),
        _ => None,
    }
}

/// When each packet passed, by the length of its payload.
fn times_by_length(capture: &Capture) -> HashMap<usize, Duration> {
    let packets = capture.packets(|packet| discarded(packet).is_some());
    packets
        .iter()
        .filter_map(|captured| Some((discarded(&captured.bytes)?.len(), captured.at)))
        .collect()
}

/// One way through the wide area network, as both routers' kernels stamp it.
pub(crate) fn transit_times(
    network: &Network,
    from: &str,
    to: &str,
    count: usize,
) -> Vec<Duration> {
    let leaving = Capture::start(&network.router_a(), "wan");
    let arriving = Capture::start(&network.router_b(), "wan");
    let socket = udp(&network.host_a(), from);
    for length in 1..=count {
        socket.send_to(&vec![0; length], (to, 9)).expect("sent");
        thread::sleep(Duration::from_millis(3));
    }
    thread::sleep(Duration::from_millis(50));
    let left = times_by_length(&leaving);
    let mut transits: Vec<_> =
        times_by_length(&arriving).into_iter().map(|(length, at)| at - left[&length]).collect();
    assert_eq!(transits.len(), count);
    transits.sort();
    transits
}
