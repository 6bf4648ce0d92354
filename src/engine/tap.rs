//! What a punch hears by, whichever the datapath.

use super::config::Datapath;
use super::error::PunchError;
use super::report::DatapathReport;
use super::stock::Stock;
use crate::sys::ebpf::{Ebpf, Reply, Watch};
use crate::sys::{CallFailed, Capture, Captured};
use crate::wire::{Tuple, WallTime};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Once;
use std::time::Duration;

/// Catches the packets of one punch.
#[derive(Debug)]
pub(super) struct Tap {
    by: By,
    /// Why by this.
    why: String,
}

#[derive(Debug)]
enum By {
    /// In a search the first hears what answers probes, and the second the peer.
    Packet(Vec<Capture>),
    Ebpf(Box<Ebpf>),
}

/// A SYN that the kernel side has answered by itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answered {
    pub(super) tuple: Tuple,
    /// The timestamp value of the answer.
    pub(super) tsval: u32,
    pub(super) at: WallTime,
}

/// Loading and hanging in takes the kernel 30 ms, several times that where it is busy; and a late
/// SYN is worse than a late SYN-ACK.
const LOADING: Duration = Duration::from_millis(150);

impl Tap {
    /// Begins to listen, so long before the first segment is due.
    ///
    /// # Errors
    /// Why this datapath cannot be used here, of one that was asked for.
    pub(super) fn open(
        datapath: Datapath,
        stock: Option<&Stock>,
        ahead: Duration,
        watch: &Watch,
    ) -> Result<Self, PunchError> {
        let loaded = stock.and_then(Stock::take);
        // A search needs a larger ring than what is loaded ahead has.
        let too_near = (loaded.is_none() || watch.search) && ahead < LOADING;
        let ebpf = || match loaded {
            Some(loaded) => loaded.watching(watch),
            None => Ebpf::new(watch),
        };
        let asked = || "as asked".to_owned();
        let (ebpf, why) = match datapath {
            Datapath::Packet => (None, asked()),
            Datapath::Ebpf => (Some(ebpf()?), asked()),
            Datapath::Auto if too_near => (None, "the instant is too near to load programs".into()),
            Datapath::Auto => match ebpf() {
                Ok(ebpf) => (Some(ebpf), "this host can run it".into()),
                Err(error) => {
                    // Who punches again and again is told once.
                    static TOLD: Once = Once::new();
                    TOLD.call_once(|| tracing::info!("packet sockets, no eBPF: {error}"));
                    (None, error.to_string())
                }
            },
        };
        let by = match ebpf {
            Some(ebpf) => By::Ebpf(Box::new(ebpf)),
            None => By::Packet(captures(watch)?),
        };
        Ok(Self { by, why })
    }

    /// The next packet, if one has come in.
    pub(super) fn receive(&mut self) -> Option<Result<Captured<'_>, CallFailed>> {
        match &mut self.by {
            By::Packet(captures) => {
                captures.iter_mut().find_map(|capture| capture.receive().transpose())
            }
            By::Ebpf(ebpf) => ebpf.receive().transpose(),
        }
    }

    /// What is readable when a packet has come in.
    pub(super) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        match &self.by {
            By::Packet(captures) => captures.iter().map(AsFd::as_fd).collect(),
            By::Ebpf(ebpf) => vec![ebpf.as_fd()],
        }
    }

    /// A search needs no answers to probes any more.
    pub(super) fn stop_probes(&mut self) {
        match &mut self.by {
            By::Packet(captures) => {
                if let [probes, _] = &captures[..] {
                    probes.stop();
                }
            }
            By::Ebpf(ebpf) => ebpf.stop_probes(),
        }
    }

    /// From now on the kernel side may answer the peer's SYN by itself.
    pub(super) fn arm(&mut self, reply: &Reply) {
        if let By::Ebpf(ebpf) = &mut self.by
            && let Err(error) = ebpf.arm(reply)
        {
            tracing::warn!("SYNs are answered by the program, not in the kernel: {error}");
        }
    }

    /// And no longer.
    pub(super) fn disarm(&mut self) {
        if let By::Ebpf(ebpf) = &mut self.by
            && let Err(error) = ebpf.disarm()
        {
            tracing::debug!("{error}");
        }
    }

    /// Whether the kernel hears the peer only where it was let in.
    pub(super) fn steals(&self) -> bool {
        matches!(self.by, By::Ebpf(_))
    }

    /// The kernel has a socket there, which is to hear the peer from now on.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn let_in(&mut self, tuple: Tuple) -> Result<(), CallFailed> {
        match &mut self.by {
            By::Packet(_) => Ok(()),
            By::Ebpf(ebpf) => ebpf.let_in(tuple),
        }
    }

    /// The connection there is nobody's business any more.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn release(&mut self, tuple: Tuple) -> Result<(), CallFailed> {
        match &mut self.by {
            By::Packet(_) => Ok(()),
            By::Ebpf(ebpf) => ebpf.release(tuple),
        }
    }

    /// For the report.
    pub(super) fn report(&self) -> DatapathReport {
        let (name, counts) = match &self.by {
            By::Packet(_) => ("packet", None),
            By::Ebpf(ebpf) => ("ebpf", Some(ebpf.counts())),
        };
        DatapathReport { name: name.into(), why: self.why.clone(), counts }
    }
}

fn captures(watch: &Watch) -> Result<Vec<Capture>, CallFailed> {
    let Watch { interface, peer, ref locals, search, .. } = *watch;
    Ok(match search {
        false => vec![Capture::new(interface, locals, peer)?],
        // What answers the probes, which a search would have drown in what its openers draw.
        true => {
            vec![Capture::new(interface, &[], peer)?, Capture::search(interface, locals, peer)?]
        }
    })
}
