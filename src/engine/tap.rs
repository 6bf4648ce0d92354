//! What a punch hears by, whichever the datapath.

use super::config::Datapath;
use super::error::PunchError;
use super::report::DatapathReport;
use super::stock::Stock;
use crate::sys::ebpf::{Ebpf, EbpfError, Reply, Watch};
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
    /// Programs that did not suit. It takes the kernel long to remove them, and it is not the time.
    _left_over: Option<Ebpf>,
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

/// Programs that are not there so long before the first segment is due come too late: a late SYN is
/// worse than a late SYN-ACK.
const RESERVE: Duration = Duration::from_millis(100);

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
        let (loaded, left_over) = match stock.and_then(Stock::take) {
            Some(loaded) if loaded.suits(watch) => (Some(loaded), None),
            unsuited => (None, unsuited),
        };
        let asked = || "as asked".to_owned();
        let (ebpf, why) = match (datapath, loaded) {
            (Datapath::Packet, _) => (None, asked()),
            (Datapath::Ebpf, Some(loaded)) => (Some(loaded.watching(watch)?), asked()),
            (Datapath::Ebpf, None) => (Some(Ebpf::new(watch)?), asked()),
            (Datapath::Auto, loaded) => {
                let loaded = loaded.map_or_else(|| in_time(watch, ahead), Ok);
                match loaded.and_then(|it| it.watching(watch).map_err(Some)) {
                    Ok(ebpf) => (Some(ebpf), "this host can run it".into()),
                    Err(None) => (None, "the instant is too near to load programs".into()),
                    Err(Some(error)) => {
                        // Who punches again and again is told once.
                        static TOLD: Once = Once::new();
                        TOLD.call_once(|| tracing::info!("packet sockets, no eBPF: {error}"));
                        (None, error.to_string())
                    }
                }
            }
        };
        let by = match ebpf {
            Some(ebpf) => By::Ebpf(Box::new(ebpf)),
            None => By::Packet(captures(watch)?),
        };
        Ok(Self { by, why, _left_over: left_over })
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

/// The programs, unless they are not there in time.
fn in_time(watch: &Watch, ahead: Duration) -> Result<Ebpf, Option<EbpfError>> {
    match ahead.checked_sub(RESERVE) {
        Some(patience) => Stock::ahead(watch.interface, watch.most, 1).within(patience),
        None => Err(None),
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
