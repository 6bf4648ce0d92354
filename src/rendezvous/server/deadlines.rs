//! How long each connection, and each of its messages, may take.

use super::connection::Stage;
use super::{ConnectionId, Server};
use crate::rendezvous::Refusal;
use std::time::Duration;

impl Server {
    /// Whether a message of this connection has begun and is not over: it may take so long and no
    /// longer.
    pub fn unfinished(&mut self, id: ConnectionId, unfinished: bool, now: Duration) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if unfinished == connection.message_deadline.is_some()
            || matches!(connection.stage, Stage::Silent | Stage::Over)
        {
            return;
        }
        let before = connection.timeout();
        connection.message_deadline = unfinished.then_some(now + self.limits.unfinished);
        let after = connection.timeout();
        self.reschedule(id, before, after);
    }

    /// When [`Server::handle_timeout`] wants to be called, at the latest.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let connection = self.deadlines.first().map(|(at, _)| *at);
        let others =
            [self.places.poll_timeout(), self.quotas.poll_timeout(), self.members.poll_timeout()];
        connection.into_iter().chain(others.into_iter().flatten()).min()
    }

    /// Ends what has taken too long.
    pub fn handle_timeout(&mut self, now: Duration) {
        let change = self.members.handle_timeout(now);
        self.apply(change, now);
        self.places.handle_timeout(now);
        self.quotas.handle_timeout(now);
        while let Some((at, id)) = self.deadlines.first().copied()
            && at <= now
        {
            self.deadlines.pop_first();
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            connection.deadline = None;
            connection.message_deadline = None;
            self.counts.timeouts += 1;
            match connection.stage {
                Stage::Waiting { called: None, .. } => {
                    self.refuse(id, Refusal::WaitedTooLong, now);
                }
                Stage::Waiting { .. } => self.refuse(id, Refusal::NobodyThere, now),
                _ => {
                    self.vacate(id, now);
                    self.close(id);
                }
            }
        }
    }

    /// Also ends the wait for the rest of a message.
    pub(super) fn set_deadline(&mut self, id: ConnectionId, deadline: Option<Duration>) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let before = connection.timeout();
        connection.deadline = deadline;
        connection.message_deadline = None;
        let after = connection.timeout();
        self.reschedule(id, before, after);
    }

    fn reschedule(&mut self, id: ConnectionId, before: Option<Duration>, after: Option<Duration>) {
        if before == after {
            return;
        }
        if let Some(at) = before {
            self.deadlines.remove(&(at, id));
        }
        if let Some(at) = after {
            self.deadlines.insert((at, id));
        }
    }
}
