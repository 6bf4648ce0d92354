//! A SYN that the server was asked for.

use super::line::Probed;
use crate::nat::{Probe, ProbeAnswer, Said};
use crate::rendezvous::Reaction;
use std::time::Instant;

/// What is known of it by now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Syn {
    pub(super) asked: Instant,
    pub(super) arrived: bool,
    answer: Option<ProbeAnswer>,
    /// Neither was it sent nor will it be.
    not_sent: bool,
}

impl Syn {
    pub(super) fn new(asked: Instant) -> Self {
        Self { asked, arrived: false, answer: None, not_sent: false }
    }

    /// The server says what came of it.
    pub(super) fn take(&mut self, probed: Probed) {
        let said = match probed.reaction {
            Reaction::Answered => Said::SynAck,
            Reaction::Reset => Said::Reset,
            Reaction::Unreachable => Said::Icmp,
            Reaction::Silent => Said::Nothing,
            Reaction::NotSent => {
                self.not_sent = true;
                return;
            }
        };
        self.answer = Some(ProbeAnswer { said, after: probed.after });
    }

    /// The server will not say anything more.
    pub(super) fn give_up(&mut self) {
        self.not_sent |= self.answer.is_none();
    }

    /// Whether nothing more can happen to it.
    pub(super) fn is_over(&self) -> bool {
        self.arrived || self.answer.is_some() || self.not_sent
    }

    /// Whether something met it on the way and answered.
    pub(super) fn is_refused(&self) -> bool {
        !self.arrived && self.answer.is_some_and(|answer| answer.said != Said::Nothing)
    }

    /// What it proves; nothing if it was not sent.
    pub(super) fn probe(self) -> Option<Probe> {
        if self.not_sent && !self.arrived {
            return None;
        }
        // Two have not come by now, whatever the server is still waiting for.
        let nothing = ProbeAnswer { said: Said::Nothing, after: self.asked.elapsed() };
        Some(Probe { arrived: self.arrived, answer: Some(self.answer.unwrap_or(nothing)) })
    }
}
