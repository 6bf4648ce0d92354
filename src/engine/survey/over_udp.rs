//! Whether a server that is silent over TCP speaks STUN over UDP: most public ones do only that.

use super::round::transaction_id;
use crate::wire::stun::{NotABinding, Response, binding_request};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

/// Twice what the other side of the world takes. The request is not repeated: this only chooses the
/// words of an error.
const PATIENCE: Duration = Duration::from_millis(600);

/// Asks once, from any port.
pub(super) fn answers_over_udp(server: SocketAddr) -> bool {
    ask(server).unwrap_or(false)
}

fn ask(server: SocketAddr) -> io::Result<bool> {
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let id = transaction_id()?;
    socket.send(&binding_request(id))?;
    let mut datagram = [0; 1500];
    let length = socket.recv(&mut datagram)?;
    Ok(match Response::new(id, server).push(&datagram[..length]) {
        Ok(binding) => binding.is_some(),
        Err(why) => matches!(why, NotABinding::Error { .. } | NotABinding::Nonsense { .. }),
    })
}
