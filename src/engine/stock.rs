//! eBPF programs that are loaded while there is time.

use crate::sys::ebpf::{Ebpf, EbpfError};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Programs on their way into the kernel, which takes some 12 ms, and several times that where the
/// processors are busy.
#[derive(Clone, Debug)]
pub(super) struct Stock(Arc<Shelf>);

#[derive(Debug)]
struct Shelf {
    content: Mutex<Content>,
    changed: Condvar,
}

#[derive(Debug)]
struct Content {
    loaded: Vec<Ebpf>,
    /// So many are still to come.
    awaited: usize,
    failed: Option<EbpfError>,
}

impl Stock {
    /// Begins to load what catches nothing yet, so many times, on a thread of its own: a meeting has
    /// the time while it waits for the server, and not once the instant is agreed on. So many SYNs
    /// may come in at once.
    pub(super) fn ahead(interface: u32, most: u32, count: usize) -> Self {
        let content = Content { loaded: Vec::new(), awaited: count, failed: None };
        let stock = Self(Arc::new(Shelf { content: content.into(), changed: Condvar::new() }));
        let filled = stock.clone();
        let fill = move || {
            while filled.content().awaited > 0 {
                filled.put(Ebpf::ahead(interface, most));
            }
        };
        if let Err(error) = std::thread::Builder::new().name("loading".into()).spawn(fill) {
            tracing::debug!("nothing is loaded ahead: {error}");
            stock.content().awaited = 0;
        }
        stock
    }

    fn put(&self, loaded: Result<Ebpf, EbpfError>) {
        let mut content = self.content();
        // Nobody may want it any more by now.
        if let Some(awaited) = content.awaited.checked_sub(1) {
            match loaded {
                Ok(ebpf) => {
                    content.loaded.push(ebpf);
                    content.awaited = awaited;
                }
                Err(error) => {
                    content.failed = Some(error);
                    content.awaited = 0;
                }
            }
            self.0.changed.notify_all();
        }
    }

    /// Whether nothing more comes.
    pub(super) fn is_settled(&self) -> bool {
        self.content().awaited == 0
    }

    /// One that is loaded by now.
    pub(super) fn take(&self) -> Option<Ebpf> {
        self.content().loaded.pop()
    }

    /// One that is loaded within this time; what comes later is not wanted any more.
    ///
    /// # Errors
    /// Why it could not be loaded; `None` if that took too long.
    pub(super) fn within(&self, patience: Duration) -> Result<Ebpf, Option<EbpfError>> {
        let until = Instant::now() + patience;
        let mut content = self.content();
        while content.loaded.is_empty() && content.awaited > 0 {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.0.changed.wait_timeout(content, left);
            content = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        content.awaited = 0;
        content.loaded.pop().ok_or_else(|| content.failed.take())
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.0.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
