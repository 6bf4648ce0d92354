//! How this process is scheduled, how it ends, and how it is told to forget.
#![allow(unsafe_code)]

use std::io;

use nix::libc;
use nix::sys::prctl;
use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// SIGTERM and SIGINT end the process, and so does its parent's death if asked for.
pub(crate) fn end_on_signals(die_with_parent: bool) -> io::Result<()> {
    // A shell starts what it runs in the background with SIGINT ignored.
    for kind in [Signal::SIGINT, Signal::SIGTERM] {
        // SAFETY: no handler is installed, so no code runs in signal context.
        unsafe { signal(kind, SigHandler::SigDfl) }?;
    }
    if die_with_parent {
        prctl::set_pdeathsig(Signal::SIGKILL)?;
    }
    Ok(())
}

/// Becomes readable by SIGHUP, which does nothing else.
pub(crate) fn hangups() -> io::Result<SignalFd> {
    let hangup = SigSet::from(Signal::SIGHUP);
    hangup.thread_block()?;
    Ok(SignalFd::with_flags(&hangup, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?)
}

/// Asks for timers without slack and, where permitted, to run before everything ordinary. Without
/// permission the delays are less exact and nothing else changes.
pub(crate) fn be_punctual() {
    let _ = prctl::set_timerslack(1);
    // One above what tcp-punch spins at: a network carries packets while its hosts are busy.
    let parameter = libc::sched_param { sched_priority: 2 };
    // SAFETY: the call reads one sched_param, which lives for the whole call.
    let _ = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameter) };
}
