//! Instants of all trials of a run, of which no two disturb each other.

use std::sync::Mutex;
use std::time::Duration;

use tcp_punch::wire::WallTime;

/// For how long around its instant a trial has the processors to itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) before: Duration,
    pub(crate) after: Duration,
}

/// Hands out instants.
#[derive(Debug, Default)]
pub(crate) struct Timetable {
    /// When the last window ends.
    free: Mutex<Option<WallTime>>,
}

impl Timetable {
    /// The first instant from `soonest` on whose window is nobody else's.
    pub(crate) fn next(&self, soonest: WallTime, window: Window) -> WallTime {
        let mut free = self.free.lock().expect("nobody panics holding it");
        let at = free.map_or(soonest, |free| soonest.max(free.after(window.before)));
        *free = Some(at.after(window.after));
        at
    }
}
