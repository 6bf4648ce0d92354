//! Whether the system's clock is good enough for what is asked of it.

use super::report::ClockReport;
use crate::sys::clock;
use std::time::Duration;

/// Says so when the clock's error may be larger than the time a packet needs to the peer: SYNs of
/// both ends then need not cross.
pub(super) fn warn_if_loose(one_way: Option<Duration>) {
    let Ok(state) = clock::state() else { return };
    let error = if state.synchronised { state.estimated_error } else { state.max_error };
    let what = match one_way {
        Some(one_way) if error > one_way => {
            format!(
                "more than the {:.1} ms that a packet needs to the peer",
                one_way.as_secs_f64() * 1e3
            )
        }
        None if !state.synchronised => "and the delay to the peer is unknown".to_owned(),
        _ => return,
    };
    let lead = if state.synchronised {
        "the clock may be"
    } else {
        "nothing synchronises the clock: it may be"
    };
    tracing::warn!(
        "{lead} {:.1} ms off, {what}; run chrony or systemd-timesyncd on both sides",
        error.as_secs_f64() * 1e3
    );
}

/// The clock's own opinion of itself.
pub(super) fn report(one_way: Option<Duration>) -> ClockReport {
    let micros = |duration: Duration| i64::try_from(duration.as_micros()).ok();
    let state = clock::state().ok();
    ClockReport {
        synchronised: state.is_some_and(|state| state.synchronised),
        estimated_error_us: state
            .map(|state| if state.synchronised { state.estimated_error } else { state.max_error })
            .and_then(micros),
        one_way_delay_us: one_way.and_then(micros),
    }
}
