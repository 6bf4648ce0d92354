//! Connections that the server opens, so that clients see what their routers make of them.

use super::{ConnectionId, Output, Server, canonical};
use crate::rendezvous::{Answer, Origin, Reaction, Refusal};
use std::net::SocketAddr;
use std::time::Duration;

impl Server {
    /// What came of a probe.
    pub fn probed(&mut self, asked_by: ConnectionId, id: u32, reaction: Reaction, after: Duration) {
        self.counts.probed(reaction);
        if self.is_open(asked_by) {
            let after_ms = u32::try_from(after.as_millis()).unwrap_or(u32::MAX);
            self.answer(asked_by, Answer::Probed { id, reaction, after_ms });
        }
    }

    /// Only towards the address that asks, and only to a port from which it has connected: nobody
    /// can have the server knock at somebody else's door. Since its TCP handshake is over, the
    /// address is not forged, and it has sent more bytes than a probe has.
    pub(super) fn probe(
        &mut self,
        id: ConnectionId,
        probe: u32,
        from: Origin,
        mapping: SocketAddr,
        now: Duration,
    ) {
        let Some(connection) = self.connections.get(&id) else { return };
        let (remote, local) = (connection.remote, connection.local);
        let mapping = canonical(mapping);
        if mapping.ip() != remote.ip() || !self.endpoints.contains_key(&mapping) {
            return self.refuse(id, Refusal::NotYours, now);
        }
        if !self.quotas.probe(remote.ip(), now) {
            return self.refuse(id, Refusal::TooMany, now);
        }
        match self.addresses.origin(local, from) {
            Some(from) => {
                self.outputs.push_back(Output::Probe {
                    asked_by: id,
                    id: probe,
                    from,
                    to: mapping,
                });
            }
            None => self.probed(id, probe, Reaction::NotSent, Duration::ZERO),
        }
    }
}
