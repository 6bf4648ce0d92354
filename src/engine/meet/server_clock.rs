//! The server's clock alone: what a meeting does first, for who measures how well.

use super::{Meet, MeetError};
use crate::rendezvous::{ClockEstimate, Purpose, Session};
use crate::sys::{Route, clock, wait_readable, wait_writable};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::Duration;

/// Asks a server for its clock as [`Meet`] does on coming there: by one burst of questions.
///
/// # Errors
/// [`MeetError::NoClock`] without all answers within `patience`; [`MeetError`] for anything else.
pub fn server_clock(server: SocketAddr, patience: Duration) -> Result<ClockEstimate, MeetError> {
    let deadline = clock::now().after(patience);
    let route = Route::to(server.ip(), None)?;
    let mut line = Meet::new(server, Purpose::NewCode([0; 32])).connect(route.local_ip)?;
    loop {
        line.proceed()?;
        let now = clock::now();
        let answered = |session: &&mut Session| session.exchanges() >= Session::BURST;
        if let Some(session) = line.session().filter(answered) {
            return session.clock(now).ok_or(MeetError::NoClock);
        }
        if now >= deadline {
            return Err(MeetError::NoClock);
        }
        let due = line.poll_timeout().map_or(deadline, |due| due.min(deadline));
        if line.wants_to_write() {
            wait_writable(line.as_fd(), &[], None, now.until(due))?;
        } else {
            wait_readable(&[line.as_fd()], None, now.until(due))?;
        }
    }
}
