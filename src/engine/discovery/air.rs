//! Raw packets out, and what comes in before the kernel's TCP sees it.

use crate::sys::{CallFailed, Capture, RawSender, Route};
use crate::wire::{Icmp, Segment};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

/// What came in.
#[derive(Debug)]
pub(super) enum Heard {
    Segment(Segment),
    Icmp(Icmp),
}

/// Whom we send to and hear from: the server, its other address, and this host's own external
/// address. One capture and one sender each.
#[derive(Debug)]
pub(super) struct Air {
    local: IpAddr,
    interface: u32,
    ports: Vec<u16>,
    ears: Vec<(IpAddr, Capture)>,
    mouths: Vec<(IpAddr, RawSender)>,
}

impl Air {
    /// Nobody yet, on the way of this route; segments are for these local ports.
    pub(super) fn new(route: &Route, ports: Vec<u16>) -> Self {
        let (local, interface) = (route.local_ip, route.interface_index);
        Self { local, interface, ports, ears: Vec::new(), mouths: Vec::new() }
    }

    /// Hears this address, too.
    pub(super) fn hear(&mut self, peer: IpAddr) -> Result<(), CallFailed> {
        if !self.ears.iter().any(|(known, _)| *known == peer) {
            self.ears.push((peer, Capture::new(self.interface, &self.ports, peer)?));
        }
        Ok(())
    }

    /// Sends a packet to this address. What cannot be sent is as lost as any other packet.
    pub(super) fn send(&mut self, peer: IpAddr, packet: &[u8]) -> Result<(), CallFailed> {
        let place = match self.mouths.iter().position(|(known, _)| *known == peer) {
            Some(place) => place,
            None => {
                self.mouths.push((peer, RawSender::new(self.local, peer)?));
                self.mouths.len() - 1
            }
        };
        if let Err(error) = self.mouths[place].1.send(packet) {
            tracing::debug!("{error}");
        }
        Ok(())
    }

    /// All that has come in.
    pub(super) fn heard(&mut self) -> Result<Vec<Heard>, CallFailed> {
        let mut heard = Vec::new();
        for (_, ear) in &mut self.ears {
            while let Some(captured) = ear.receive()? {
                if let Ok(segment) = Segment::parse(captured.packet) {
                    tracing::trace!("heard {segment}");
                    heard.push(Heard::Segment(segment));
                } else if let Some(icmp) = Icmp::parse(captured.packet) {
                    heard.push(Heard::Icmp(icmp));
                }
            }
        }
        Ok(heard)
    }

    /// What becomes readable when something has come in.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.ears.iter().map(|(_, ear)| ear.as_fd())
    }
}
