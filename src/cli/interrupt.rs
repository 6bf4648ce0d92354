//! SIGINT, SIGTERM and SIGHUP while a punch is under way: the attempt ends in order, with its
//! records written.

use super::{Failure, Status};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// Signals held back for a descriptor that tells of them. Dropping it restores what they did
/// before; one that came in meanwhile then does it.
#[derive(Debug)]
pub struct Interrupt {
    descriptor: SignalFd,
    before: SigSet,
}

impl Interrupt {
    /// Holds them back from now on, but for those that the caller has us ignore, as nohup does.
    /// Call it on the only thread.
    ///
    /// # Errors
    /// EMFILE.
    pub fn catch() -> io::Result<Self> {
        let ignored = ignored();
        let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]
            .into_iter()
            .filter(|signal| ignored >> (*signal as u32 - 1) & 1 == 0)
            .collect();
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let descriptor = SignalFd::with_flags(&signals, flags)?;
        let mut before = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&signals), Some(&mut before))?;
        Ok(Self { descriptor, before })
    }

    /// A descriptor that is readable once a signal has come.
    ///
    /// # Errors
    /// EMFILE.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        self.descriptor.as_fd().try_clone_to_owned()
    }

    /// The number of the signal that came first, if any; 128 more is the exit status.
    pub fn caught(&self) -> Option<u8> {
        let signal = self.descriptor.read_signal().ok().flatten()?;
        u8::try_from(signal.ssi_signo).ok()
    }
}

/// [`Interrupt::catch`].
///
/// # Errors
/// The failure to print.
pub(super) fn caught() -> Result<Interrupt, Failure> {
    Interrupt::catch().map_err(|error| {
        let happened = format!("signals cannot be caught: {error}");
        Failure::new(Status::Internal, happened, "run tcp-punch doctor")
    })
}

/// [`Interrupt::descriptor`].
///
/// # Errors
/// The failure to print.
pub(super) fn descriptor(signals: &Interrupt) -> Result<OwnedFd, Failure> {
    signals.descriptor().map_err(|error| {
        Failure::new(Status::Internal, error, "raise the limit of open files (ulimit -n)")
    })
}

/// The signals that this process ignores, number 1 in the lowest bit: SigIgn of proc(5).
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&self.before), None);
    }
}
