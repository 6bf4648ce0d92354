//! A traditional NAT (RFC 3022) for IPv4, without interfaces and without a clock, that does what
//! its [`Spec`] says.

mod allocation;
mod checksum;
mod filtering;
mod mapping;
mod rewrite;
mod spec;
mod tcp;
#[cfg(test)]
mod tests;

use std::mem;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::time::Instant;

pub(crate) use spec::Site;

use crate::dice::Dice;
use crate::hop::{self, Refusal};
use crate::packet::Packet;
use allocation::Allocation;
use filtering::Held;
use mapping::Table;
use rewrite::{End, Kind, Protocol, View};
use spec::{Spec, SynIn, Unsolicited};
use tcp::Way;

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It goes on, translated.
    Onward,
    /// What it has become goes to the side that it came from: an answer, or a packet that was
    /// meant for somebody there (hairpinning).
    Back,
    Drop,
}

/// One NAT.
pub(crate) struct Nat {
    spec: Spec,
    external: Ipv4Addr,
    hop: Option<Ipv4Addr>,
    table: Table,
    allocation: Allocation,
    held: Held,
    dice: Dice,
    /// Room for an error about a packet.
    error: Packet,
}

impl Nat {
    pub(crate) fn new(
        spec: Spec,
        external: Ipv4Addr,
        hop: Option<Ipv4Addr>,
        seed: u64,
        now: Instant,
    ) -> Self {
        let mut dice = Dice::new(seed);
        Self {
            table: Table::new(spec.mapping, spec.filtering, spec.entries),
            allocation: Allocation::new(spec.ports.clone(), spec.pool.clone(), dice.bits(), now),
            held: Held::default(),
            error: Packet::new(),
            spec,
            external,
            hop,
            dice,
        }
    }

    /// It forgets everything, as a router without power does. What is random becomes something
    /// else.
    pub(crate) fn restart(&mut self, now: Instant) {
        *self = Self::new(self.spec.clone(), self.external, self.hop, self.dice.bits(), now);
    }

    /// When [`Nat::poll`] has something to say.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.held.next_due()
    }

    /// What the NAT says by itself, to the outside: `true` if it has been written to `packet`.
    pub(crate) fn poll(&mut self, packet: &mut Packet, now: Instant) -> bool {
        let Some(syn) = self.held.pop_due(now) else { return false };
        packet.copy_from(&syn);
        self.refuse(Refusal::PortUnreachable, self.external, packet) == Verdict::Back
    }

    /// A packet comes from inside.
    pub(crate) fn outbound(&mut self, packet: &mut Packet, now: Instant) -> Verdict {
        if !rewrite::is_v4(packet.bytes()) {
            return Verdict::Onward;
        }
        self.table.expire(now);
        if let Some(hop) = self.hop {
            if packet.summary().is_none_or(|it| it.hop_limit <= 1) {
                return self.refuse(Refusal::TimeExceeded, hop, packet);
            }
            hop::count_down(packet, 1);
        }
        match Kind::of(packet.bytes()) {
            Some(Kind::Flow(view)) => self.flow_out(&view, packet, now),
            Some(Kind::Error { icmp, quote, .. }) => self.error_out(icmp, &quote, packet),
            None => Verdict::Drop,
        }
    }

    /// A packet comes from outside.
    pub(crate) fn inbound(&mut self, packet: &mut Packet, now: Instant) -> Verdict {
        if !rewrite::is_v4(packet.bytes()) {
            return Verdict::Onward;
        }
        self.table.expire(now);
        if self.hop.is_some() {
            if packet.summary().is_none_or(|it| it.hop_limit <= 1) {
                return self.refuse(Refusal::TimeExceeded, self.external, packet);
            }
            hop::count_down(packet, 1);
        }
        self.translate_in(packet, now)
    }

    fn translate_in(&mut self, packet: &mut Packet, now: Instant) -> Verdict {
        match Kind::of(packet.bytes()) {
            Some(Kind::Flow(view)) if *view.destination.ip() == self.external => {
                self.flow_in(&view, packet, now)
            }
            Some(Kind::Error { destination, icmp, quote, .. }) if destination == self.external => {
                self.error_in(icmp, &quote, packet)
            }
            _ => Verdict::Drop,
        }
    }

    fn flow_out(&mut self, view: &View, packet: &mut Packet, now: Instant) -> Verdict {
        let to_itself = *view.destination.ip() == self.external;
        if to_itself && view.asks() {
            view.answer_echo(packet.bytes_mut());
            return Verdict::Back;
        }
        if to_itself && !self.spec.hairpin {
            return Verdict::Drop;
        }
        let (protocol, inside, remote) = (view.protocol, view.source, view.destination);
        let known = self.table.by_inside(protocol, inside, remote);
        let id = match known {
            Some(id) => id,
            None if !self.may_begin(view, packet) => return Verdict::Drop,
            None => {
                let allocation = &mut self.allocation;
                let begun = self.table.begin(protocol, inside, remote, now, |taken| {
                    allocation.allocate(inside.port(), now, taken)
                });
                match begun {
                    Ok(id) => id,
                    Err(_) => return Verdict::Drop,
                }
            }
        };
        let before = known.map(|id| self.table.session(id).tcp.phase());
        let session = self.table.session(id);
        let port = session.port;
        if protocol == Protocol::Tcp {
            let flags = view.flags(packet.bytes());
            let anew = known.is_none() || flags.opens() && session.tcp.is_closing();
            if anew && self.spec.rewrite_seq {
                session.offset = self.dice.bits() as u32;
            }
            session.tcp.observe(Way::Out, flags);
            let offset = session.offset;
            let bytes = packet.bytes_mut();
            view.add_to_seq(bytes, offset);
            if self.spec.strip_options {
                view.strip_options(bytes);
            }
            if flags.opens() {
                self.held.forget(remote, port);
            }
        }
        self.table.touch(id, before, now);
        view.set(packet.bytes_mut(), End::Source, SocketAddrV4::new(self.external, port));
        if to_itself { self.hairpin(packet, now) } else { Verdict::Onward }
    }

    /// Whether a packet from inside makes a session.
    fn may_begin(&self, view: &View, packet: &Packet) -> bool {
        match view.protocol {
            Protocol::Tcp => {
                let flags = view.flags(packet.bytes());
                flags.opens() || self.spec.loose && flags.ack() && !flags.syn() && !flags.rst()
            }
            Protocol::Udp => true,
            Protocol::Query => view.asks(),
        }
    }

    /// RFC 5382 REQ-8: the translated packet comes in again, from the external address and port.
    fn hairpin(&mut self, packet: &mut Packet, now: Instant) -> Verdict {
        match self.translate_in(packet, now) {
            Verdict::Onward => Verdict::Back,
            // An answer to the sender's external address.
            Verdict::Back if self.translate_in(packet, now) == Verdict::Onward => Verdict::Back,
            Verdict::Back | Verdict::Drop => Verdict::Drop,
        }
    }

    fn flow_in(&mut self, view: &View, packet: &mut Packet, now: Instant) -> Verdict {
        let (protocol, remote, port) = (view.protocol, view.source, view.destination.port());
        let flags = (protocol == Protocol::Tcp).then(|| view.flags(packet.bytes()));
        let opens = flags.is_some_and(|flags| flags.opens());
        if opens && self.spec.syn_in == SynIn::Ignore {
            return match self.table.by_outside(protocol, port, remote) {
                Some(_) => Verdict::Drop,
                None => self.unsolicited(view, packet, now),
            };
        }
        let known = self.table.by_outside(protocol, port, remote);
        let admitted = || {
            let may = match flags {
                Some(flags) => {
                    opens && self.spec.syn_in == SynIn::Allow
                        || self.spec.loose && flags.ack() && !flags.syn() && !flags.rst()
                }
                None => true,
            };
            may.then(|| self.table.admit(protocol, port, remote, now)).flatten()
        };
        let Some(id) = known.or_else(admitted) else {
            return self.unsolicited(view, packet, now);
        };
        let before = known.map(|id| self.table.session(id).tcp.phase());
        let session = self.table.session(id);
        let inside = session.inside;
        let mut killed = false;
        if let Some(flags) = flags {
            if known.is_none() && self.spec.rewrite_seq {
                session.offset = self.dice.bits() as u32;
            }
            let premature = flags.rst() && session.tcp.is_unanswered();
            killed = premature && self.spec.rst_kills;
            if !premature {
                session.tcp.observe(Way::In, flags);
            }
            let back = session.offset.wrapping_neg();
            let bytes = packet.bytes_mut();
            view.add_to_ack(bytes, back);
            view.add_to_sack(bytes, back);
            if self.spec.strip_options {
                view.strip_options(bytes);
            }
        }
        self.table.touch(id, before, now);
        if killed {
            self.table.remove(id);
        }
        if opens && self.spec.syn_in == SynIn::Block {
            return Verdict::Drop;
        }
        view.set(packet.bytes_mut(), End::Destination, inside);
        Verdict::Onward
    }

    fn unsolicited(&mut self, view: &View, packet: &mut Packet, now: Instant) -> Verdict {
        let flags = match view.protocol {
            Protocol::Tcp => Some(view.flags(packet.bytes())),
            Protocol::Udp => None,
            Protocol::Query if view.asks() => {
                view.answer_echo(packet.bytes_mut());
                return Verdict::Back;
            }
            Protocol::Query => return Verdict::Drop,
        };
        if flags.is_some_and(|flags| flags.rst()) {
            return Verdict::Drop;
        }
        match (self.spec.unsolicited, flags) {
            (Unsolicited::Drop, _) => Verdict::Drop,
            (Unsolicited::Rst, Some(_)) => {
                let len = view.answer_reset(packet.bytes_mut());
                packet.set_len(len);
                Verdict::Back
            }
            (Unsolicited::Hold, Some(flags)) => {
                if flags.opens() {
                    self.held.hold(view.source, view.destination.port(), packet.bytes(), now);
                }
                Verdict::Drop
            }
            (Unsolicited::Icmp, _) | (_, None) => {
                self.refuse(Refusal::PortUnreachable, self.external, packet)
            }
        }
    }

    /// RFC 5508 REQ-4 and RFC 5382 REQ-9: an error about what the inside sent. No state changes
    /// (REQ-10).
    fn error_in(&mut self, icmp: usize, quote: &View, packet: &mut Packet) -> Verdict {
        let (remote, port) = (quote.destination, quote.source.port());
        let Some(id) = self.table.by_outside(quote.protocol, port, remote) else {
            return Verdict::Drop;
        };
        let (inside, offset) = (self.table.session(id).inside, self.table.session(id).offset);
        let bytes = packet.bytes_mut();
        if quote.protocol == Protocol::Tcp {
            quote.add_to_seq(bytes, offset.wrapping_neg());
        }
        quote.set(bytes, End::Source, inside);
        rewrite::set_error(bytes, End::Destination, *inside.ip(), icmp);
        Verdict::Onward
    }

    /// RFC 5508 REQ-5: an error of the inside's, or of a router there, about what came in.
    fn error_out(&mut self, icmp: usize, quote: &View, packet: &mut Packet) -> Verdict {
        let Some(id) = self.table.by_inside(quote.protocol, quote.destination, quote.source) else {
            return Verdict::Drop;
        };
        let (port, offset) = (self.table.session(id).port, self.table.session(id).offset);
        let bytes = packet.bytes_mut();
        if quote.protocol == Protocol::Tcp {
            quote.add_to_ack(bytes, offset);
        }
        quote.set(bytes, End::Destination, SocketAddrV4::new(self.external, port));
        rewrite::set_error(bytes, End::Source, self.external, icmp);
        Verdict::Onward
    }

    /// The packet becomes an error about itself, if there may be one.
    fn refuse(&mut self, refusal: Refusal, from: Ipv4Addr, packet: &mut Packet) -> Verdict {
        let Some(summary) = packet.summary().filter(|it| it.may_be_answered) else {
            return Verdict::Drop;
        };
        let from = IpAddr::V4(from);
        let written =
            hop::answer(refusal, packet.bytes(), from, summary.source, 1, &mut self.error);
        if written.is_none() {
            return Verdict::Drop;
        }
        mem::swap(packet, &mut self.error);
        Verdict::Back
    }
}
