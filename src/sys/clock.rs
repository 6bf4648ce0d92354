//! The system's real-time clock: reading it, and its own opinion of itself.
#![allow(unsafe_code)]

use crate::wire::WallTime;
use nix::libc;
use nix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// What the kernel knows about the quality of the real-time clock, see adjtimex(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockState {
    /// Something (ntpd, chronyd, systemd-timesyncd, ptp) disciplines the clock.
    pub synchronised: bool,
    /// Estimated error as that program told the kernel; meaningless when nothing does.
    pub estimated_error: Duration,
    /// Bound of the error: grows by 500 µs a second while nothing disciplines the clock, up to
    /// 16 s.
    pub max_error: Duration,
}

/// The current time of CLOCK_REALTIME, the clock of packet timestamps and of `--at`.
pub fn now() -> WallTime {
    // CLOCK_REALTIME exists on every Linux, so that the call cannot fail.
    clock_gettime(ClockId::CLOCK_REALTIME).map_or(WallTime::from_unix_ns(0), |time| {
        let seconds: i64 = time.tv_sec();
        WallTime::from_unix_ns(seconds.saturating_mul(1_000_000_000).saturating_add(time.tv_nsec()))
    })
}

/// The state of the clock. Only reads, so that it needs no privilege.
///
/// # Errors
/// The error of adjtimex(2); sandboxes that filter system calls return EPERM or ENOSYS.
pub fn state() -> nix::Result<ClockState> {
    // SAFETY: timex is a C struct of integers, for which zero is valid. With modes = 0 the kernel
    // writes to it and changes nothing.
    let (code, timex) = unsafe {
        let mut timex: libc::timex = std::mem::zeroed();
        (libc::adjtimex(&raw mut timex), timex)
    };
    let code = nix::errno::Errno::result(code)?;
    let micros = |us| Duration::from_micros(u64::try_from(us).unwrap_or(0));
    Ok(ClockState {
        synchronised: code != libc::TIME_ERROR && timex.status & libc::STA_UNSYNC == 0,
        estimated_error: micros(timex.esterror),
        max_error: micros(timex.maxerror),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn now_agrees_with_the_standard_library() {
        let std = || {
            let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
            i64::try_from(since.as_nanos()).unwrap()
        };
        let (before, now, after) = (std(), now().unix_ns(), std());
        assert!(before <= now && now <= after, "{before} {now} {after}");
    }

    #[test]
    fn the_state_is_readable_without_privilege() {
        let state = state().unwrap();
        assert!(state.max_error <= Duration::from_secs(60), "{state:?}");
    }
}
