//! Being on time: waiting for a wall-clock instant to the microsecond.
#![allow(unsafe_code)]

use super::call::{CallFailed, Named};
use super::clock;
use crate::wire::WallTime;
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::mman::munlockall;
use nix::sys::time::TimeSpec;
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// Keeps in memory what is there by now and what will be touched. Without MCL_ONFAULT the kernel
/// would first fetch every page that the process could touch: where a lot of memory was used and
/// freed that takes a tenth of a second, in which the instant passes.
fn lock_memory() -> bool {
    // linux/mman.h, Linux 4.4
    const MCL_ONFAULT: libc::c_int = 4;
    // SAFETY: no memory is involved.
    unsafe { libc::mlockall(libc::MCL_CURRENT | MCL_ONFAULT) == 0 }
}

/// Spins until `at` by the system's real-time clock, and returns when it really is.
pub fn spin_until(at: WallTime) -> WallTime {
    loop {
        let now = clock::now();
        if now >= at {
            return now;
        }
        std::hint::spin_loop();
    }
}

/// Sleeps until one of `sockets` has something to say, or `interrupt` does, or the time is over.
/// Returns whether it was `interrupt`.
///
/// # Errors
/// The kernel's, out of memory.
pub fn wait_readable(
    sockets: &[BorrowedFd<'_>],
    interrupt: Option<BorrowedFd<'_>>,
    timeout: Duration,
) -> Result<bool, CallFailed> {
    wait(sockets.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect(), interrupt, timeout)
}

/// Likewise, or until `socket` is connected and has room for what is to be sent.
///
/// # Errors
/// As [`wait_readable`].
pub fn wait_writable(
    socket: BorrowedFd<'_>,
    sockets: &[BorrowedFd<'_>],
    interrupt: Option<BorrowedFd<'_>>,
    timeout: Duration,
) -> Result<bool, CallFailed> {
    let read = sockets.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN));
    let write = PollFd::new(socket, PollFlags::POLLIN | PollFlags::POLLOUT);
    wait(read.chain([write]).collect(), interrupt, timeout)
}

fn wait<'a>(
    mut fds: Vec<PollFd<'a>>,
    interrupt: Option<BorrowedFd<'a>>,
    timeout: Duration,
) -> Result<bool, CallFailed> {
    fds.extend(interrupt.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
    match ppoll(&mut fds, Some(TimeSpec::from_duration(timeout)), None) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => return Err(errno).named("ppoll"),
    }
    let interrupted = interrupt.and(fds.last()).and_then(PollFd::any);
    Ok(interrupted.unwrap_or(false))
}

/// While it lives this thread runs before ordinary ones (SCHED_FIFO) and its memory stays in core,
/// as far as CAP_SYS_NICE and CAP_IPC_LOCK allow.
#[derive(Debug)]
pub struct Priority {
    /// Whether SCHED_FIFO was granted.
    pub realtime: bool,
    /// Whether memory was locked.
    pub locked: bool,
}

impl Priority {
    /// Asks for both.
    pub fn raise() -> Self {
        // SAFETY: no memory is involved.
        unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
        Self {
            // The lowest real-time priority is enough to precede all ordinary work, and leaves
            // the kernel's own threads and whoever chose more before us.
            realtime: schedule(libc::SCHED_FIFO, 1),
            locked: lock_memory(),
        }
    }

    /// Makes this thread an ordinary one again. Unlocking memory takes longer and concerns the
    /// whole process: it is left to whoever drops this, on whichever thread.
    pub fn lower(&mut self) {
        if std::mem::take(&mut self.realtime) {
            schedule(libc::SCHED_OTHER, 0);
        }
        // SAFETY: no memory is involved; 0 restores the thread's default.
        unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 0) };
    }
}

impl Drop for Priority {
    fn drop(&mut self) {
        self.lower();
        if self.locked {
            let _ = munlockall();
        }
    }
}

fn schedule(policy: libc::c_int, priority: libc::c_int) -> bool {
    let parameters = libc::sched_param { sched_priority: priority };
    // SAFETY: the parameters live as long as the call; 0 is this thread.
    unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) == 0 }
}
