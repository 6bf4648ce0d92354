//! Closing what takes the kernel long to close.

use super::privilege;
use nix::sys::signal::{SigSet, SigmaskHow};

/// Drops `what` on a thread of its own, which has no capability and takes no signal, so that the
/// process looks single-threaded to both. The thread ends with it.
pub fn close_aside<T: Send + 'static>(what: T) {
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK);
    std::thread::spawn(move || {
        if let Err(error) = privilege::drop_all() {
            tracing::debug!("{error}");
        }
        drop(what);
    });
    if let Ok(before) = before {
        let _ = before.thread_set_mask();
    }
}
