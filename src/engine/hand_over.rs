//! From a completed handshake to a kernel socket in the caller's hands.

use super::Connection;
use super::drive::{Arrival, Completed, Drive};
use super::error::{Failure, PunchError};
use super::report::{Handover, Outcome};
use crate::punch::{Purpose, tsval};
use crate::sys::{Aside, CallFailed, clock};
use crate::wire::{Segment, Tuple, WallTime};
use nix::errno::Errno;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// More than that is a flood.
const MOST_WAITING: usize = 1024;
/// More than the window that we offered can hold in segments of any useful size.
const MOST_MISSED: usize = 256;
/// What is still on its way to a port that lost comes within a round trip and this.
const LINGER: Duration = Duration::from_millis(100);
/// After a search as well, but the peer sprays until it has heard of the end, and what it has sprayed
/// waits in queues.
const SEARCH_LINGER: Duration = Duration::from_secs(1);

/// What the peer sent before the kernel could hear it.
#[derive(Debug, Default)]
pub(super) struct Missed(Vec<Segment>);

impl Missed {
    /// Keeps what takes sequence space of the connection, as long as there is room.
    pub(super) fn keep(&mut self, segment: &Segment) {
        let counts = segment.fin || !segment.payload.is_empty();
        if counts && self.0.len() < MOST_MISSED {
            self.0.push(segment.clone());
        }
    }

    fn take(&mut self, tuple: Tuple) -> Vec<Segment> {
        let all = std::mem::take(&mut self.0);
        all.into_iter().filter(|segment| segment.tuple == tuple.reversed()).collect()
    }
}

impl Drive {
    pub(super) fn hand_over(
        mut self,
        completed: &Completed,
        aside: Aside,
    ) -> Result<Connection, Failure> {
        let Completed { tcb, last: Arrival { segment: last, at, stolen } } = completed;
        let mut installed = self.installation.install(tcb, tsval(clock::now()));
        if installed.is_ok()
            && let Err(error) = self.tap.let_in(tcb.tuple)
        {
            installed = Err(error);
        }
        match installed {
            Ok(false) => {
                // The peer answered our SYN and waits for this. No kernel sends anything before it
                // gets it, but a peer may.
                let installed_at = clock::now();
                let now = tsval(installed_at);
                if let Some((theirs, _)) = last.options.timestamps.filter(|_| tcb.agreed.timestamps)
                {
                    let shown = tcb.peer_acknowledges((theirs, now));
                    self.deliver_locally(&shown, "the first timestamp that the kernel echoes is 0");
                }
                let echo = last.options.timestamps.map(|(theirs, _)| (now, theirs));
                self.transmit(&tcb.acknowledge(echo), Purpose::Ack);
                let rest = Segment { seq: tcb.rcv_nxt, syn: false, ..last.clone() };
                self.missed.keep(&rest);
                self.deliver_missed(tcb.tuple, installed_at);
            }
            Ok(true) if self.tap.steals() => {
                // The kernel heard the peer from when it was let in, and not before.
                if *stolen && !last.syn {
                    self.deliver_locally(last, "the first timestamp that the kernel echoes is 0");
                }
                self.deliver_missed(tcb.tuple, *at);
            }
            _ => {}
        }
        let finished = installed.and_then(|_| self.finish_installation());
        let (fd, early_bytes) = match finished {
            Ok(finished) => finished,
            Err(error) => return Err(self.fail(PunchError::HandOver(error))),
        };
        let ready = clock::now();
        self.note_transmissions();
        let mut report = self.report(Outcome::Connected);
        report.established_ns = Some(at.ns_since(self.at));
        report.fd_ns = Some(ready.ns_since(self.at));
        report.handover =
            Some(Handover { took_ns: ready.ns_since(*at), early_bytes: early_bytes.into() });
        report.verdict = verdict(ready.ns_since(self.at));
        if let Some(remark) = self.race.remark() {
            tracing::warn!("{remark}");
            report.verdict += "; ";
            report.verdict += remark;
        }
        self.dismantle(aside);
        Ok(Connection { fd, report })
    }

    fn finish_installation(&mut self) -> Result<(OwnedFd, u32), CallFailed> {
        let Some(socket) = self.installation.take(self.tuple) else {
            return Err(CallFailed { call: "installation", errno: Errno::ENOTCONN });
        };
        let unread = socket.unread()?;
        // Resets, too, are the kernel's to judge from here on; the socket hears none before.
        self.tap.release(self.tuple)?;
        self.tap.disarm();
        Ok((socket.finish()?, unread))
    }

    /// Gives the kernel what the peer sent before it could hear it: what was kept, and what waits.
    /// What it has already it recognises.
    fn deliver_missed(&mut self, tuple: Tuple, installed_at: WallTime) {
        for _ in 0..MOST_WAITING {
            let Some(Ok(captured)) = self.tap.receive() else { break };
            let Ok(segment) = Segment::parse(captured.packet) else { continue };
            let missed = captured.stolen || captured.at <= installed_at;
            if segment.tuple == tuple.reversed() && missed {
                self.recorder.received(&segment, captured.packet, captured.at, "early");
                self.missed.keep(&segment);
            }
        }
        for segment in self.missed.take(tuple) {
            self.deliver_locally(&segment, "what came early waits for its repetition");
        }
    }

    /// Shows the kernel a segment of the peer over the loopback interface.
    fn deliver_locally(&self, segment: &Segment, otherwise: &str) {
        let local = self.tuple.local.ip();
        if let Err(error) = self.sender.deliver_locally(&segment.to_packet(), local) {
            tracing::debug!("{otherwise}: {error}");
        }
    }

    /// Closes everything. The kernel takes some ten milliseconds to close a packet socket (it waits
    /// for an RCU grace period), and 0.2 ms to unlock memory, which the connection need not wait
    /// for. The connection's guard goes at once, or the port would not be free for the next punch;
    /// the others stay until what is on its way to their ports has come, lest it draw resets.
    fn dismantle(mut self, aside: Aside) {
        if let Err(error) = self.recorder.finish() {
            tracing::warn!("the capture file cannot be written: {error}");
        }
        if let Some(priority) = &mut self.priority {
            priority.lower();
        }
        let Self { tuple, guards, tap, sender, spray, priority, one_way, .. } = self;
        let (winner, losers): (Vec<_>, Vec<_>) =
            guards.into_iter().partition(|guard| guard.port() == tuple.local.port());
        drop(winner);
        // Other tuples of a search have the winner's port, too, and no guard any more.
        let linger = match (&spray, one_way) {
            (Some(_), _) => SEARCH_LINGER,
            (None, _) if losers.is_empty() => Duration::ZERO,
            (None, one_way) => LINGER + one_way.unwrap_or_default() * 2,
        };
        aside.close_in_turn((sender, spray, priority), (tap, losers), linger);
    }
}

fn verdict(connected_ns: i64) -> String {
    let ms = connected_ns.unsigned_abs() as f64 / 1e6;
    let side = if connected_ns < 0 { "before" } else { "after" };
    format!("connected {ms:.1} ms {side} the instant")
}
