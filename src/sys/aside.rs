//! Closing what takes the kernel long to close.

use super::privilege;
use nix::sys::signal::{SigSet, SigmaskHow};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

/// A thread that waits for what it is to drop. Made while there is time, because making a thread
/// takes a tenth of a millisecond. It takes no signal, and gives up next to every capability before
/// it drops anything, so that the process looks single-threaded to both. It ends with its work, or
/// when this is dropped.
#[derive(Debug)]
pub struct Aside {
    thread: Option<Sender<Work>>,
}

type Work = Box<dyn FnOnce() + Send>;

/// Dropping needs little. Locked memory counts, and a whole default stack would be locked with the
/// rest.
const STACK: usize = 128 << 10;

impl Aside {
    /// Starts the thread.
    #[must_use]
    pub fn new() -> Self {
        let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK);
        let (sender, receiver) = channel::<Work>();
        let thread = thread::Builder::new().stack_size(STACK).spawn(move || {
            let what = receiver.recv();
            if let Err(error) = privilege::drop_all_but_changing_user() {
                tracing::debug!("{error}");
            }
            if let Ok(work) = what {
                work();
            }
        });
        if let Ok(before) = before {
            let _ = before.thread_set_mask();
        }
        Self { thread: thread.is_ok().then_some(sender) }
    }

    /// Drops `what` there, or here where the system gave no thread.
    pub fn close<T: Send + 'static>(self, what: T) {
        self.close_in_turn(what, (), Duration::ZERO);
    }

    /// Likewise, and `last` so long after it.
    pub fn close_in_turn<T, L>(self, what: T, last: L, after: Duration)
    where
        T: Send + 'static,
        L: Send + 'static,
    {
        if let Some(thread) = self.thread {
            // A thread that is gone gives it back, and it is dropped with the error.
            let _ = thread.send(Box::new(move || {
                drop(what);
                thread::sleep(after);
                drop(last);
            }));
        }
    }
}

impl Default for Aside {
    fn default() -> Self {
        Self::new()
    }
}
