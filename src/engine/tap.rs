//! What a punch hears by, whichever the datapath.

use super::config::Datapath;
use super::error::PunchError;
use crate::sys::{CallFailed, Capture, Captured};
use crate::wire::{Tuple, WallTime};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

/// Catches the packets of one punch.
#[derive(Debug)]
pub(super) enum Tap {
    /// In a search the first hears what answers probes, and the second the peer.
    Packet(Vec<Capture>),
}

/// A SYN that the kernel side has answered by itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answered {
    pub(super) tuple: Tuple,
    /// The timestamp value of the answer.
    pub(super) tsval: u32,
    pub(super) at: WallTime,
}

/// Where a punch is heard.
#[derive(Debug)]
pub(super) struct Where<'a> {
    pub(super) interface: u32,
    pub(super) local: IpAddr,
    pub(super) peer: IpAddr,
    pub(super) locals: &'a [u16],
    pub(super) remotes: &'a [u16],
    /// Many tuples at once, on most of which nobody is.
    pub(super) search: bool,
}

impl Tap {
    /// Begins to listen.
    pub(super) fn open(_: Datapath, at: &Where<'_>) -> Result<Self, PunchError> {
        let Where { interface, peer, locals, .. } = *at;
        let captures = match at.search {
            false => vec![Capture::new(interface, locals, peer)?],
            // What answers the probes, which a search would have drown in what its openers draw.
            true => {
                vec![Capture::new(interface, &[], peer)?, Capture::search(interface, locals, peer)?]
            }
        };
        Ok(Self::Packet(captures))
    }

    /// The next packet, if one has come in.
    pub(super) fn receive(&mut self) -> Option<Result<Captured<'_>, CallFailed>> {
        match self {
            Self::Packet(captures) => {
                captures.iter_mut().find_map(|capture| capture.receive().transpose())
            }
        }
    }

    /// What is readable when a packet has come in.
    pub(super) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        match self {
            Self::Packet(captures) => captures.iter().map(AsFd::as_fd).collect(),
        }
    }

    /// A search needs no answers to probes any more.
    pub(super) fn stop_probes(&mut self) {
        match self {
            Self::Packet(captures) => {
                if let [probes, _] = &captures[..] {
                    probes.stop();
                }
            }
        }
    }

    /// Whether the kernel hears the peer only where it was let in.
    pub(super) fn steals(&self) -> bool {
        match self {
            Self::Packet(_) => false,
        }
    }

    /// The kernel has a socket there, which is to hear the peer from now on.
    pub(super) fn let_in(&mut self, _: Tuple) {}

    /// The connection there is nobody's business any more.
    pub(super) fn release(&mut self, _: Tuple) {}
}
