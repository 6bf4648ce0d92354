//! Whether the system's clock is good enough for what is asked of it.

use super::report::ClockReport;
use crate::sys::clock;
use std::time::Duration;

/// Says so when the clock's error may be larger than the time a packet needs to the peer: SYNs of
/// both ends then need not cross.
pub(super) fn warn_if_loose(one_way: Option<Duration>) {
    let Ok(state) = clock::state() else { return };
    let ms = |duration: Duration| format!("{:.1} ms", duration.as_secs_f64() * 1e3);
    let needs = one_way.map_or_else(
        || "the delay to the peer is unknown".to_owned(),
        |one_way| format!("a packet needs {} to the peer", ms(one_way)),
    );
    if !state.synchronised {
        tracing::warn!("nothing synchronises this host's clock, and {needs}; {MEND}");
    } else if one_way.is_some_and(|one_way| state.estimated_error > one_way) {
        let error = ms(state.estimated_error);
        tracing::warn!("this host's clock may be {error} off, and {needs}; {MEND}");
    }
}

const MEND: &str = "run chrony or systemd-timesyncd on both sides";

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
