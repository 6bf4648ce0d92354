//! eBPF programs that are loaded while there is time.

use crate::sys::ebpf::{Ebpf, EbpfError};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Programs on their way into the kernel, which takes some 30 ms, and several times that for the
/// first ones of a process or where the processors are busy.
#[derive(Clone, Debug, Default)]
pub(super) struct Stock(Arc<Shelf>);

#[derive(Debug, Default)]
struct Shelf {
    content: Mutex<Content>,
    changed: Condvar,
}

#[derive(Debug, Default)]
enum Content {
    #[default]
    Loading,
    Loaded(Box<Ebpf>),
    Failed(EbpfError),
    /// Taken, or no longer wanted.
    Gone,
}

impl Stock {
    /// Begins to load what catches nothing yet, on a thread of its own: a meeting has the time while
    /// it waits for the server, and not once the instant is agreed on. A search needs more room.
    pub(super) fn ahead(interface: u32, search: bool) -> Self {
        let stock = Self::default();
        let filled = stock.clone();
        let fill = move || {
            let loaded = Ebpf::ahead(interface, search);
            let mut content = filled.content();
            if matches!(*content, Content::Loading) {
                *content = match loaded {
                    Ok(ebpf) => Content::Loaded(Box::new(ebpf)),
                    Err(error) => Content::Failed(error),
                };
                filled.0.changed.notify_all();
            }
        };
        if let Err(error) = std::thread::Builder::new().name("loading".into()).spawn(fill) {
            tracing::debug!("nothing is loaded ahead: {error}");
            *stock.content() = Content::Gone;
        }
        stock
    }

    /// What is loaded by now, for the first of several ways to the peer.
    pub(super) fn take(&self) -> Option<Ebpf> {
        let mut content = self.content();
        match std::mem::take(&mut *content) {
            Content::Loaded(ebpf) => {
                *content = Content::Gone;
                Some(*ebpf)
            }
            other => {
                *content = other;
                None
            }
        }
    }

    /// What is loaded within this time; later it is not wanted any more.
    ///
    /// # Errors
    /// Why it could not be loaded; `None` if that took too long.
    pub(super) fn within(&self, patience: Duration) -> Result<Ebpf, Option<EbpfError>> {
        let until = Instant::now() + patience;
        let mut content = self.content();
        while matches!(*content, Content::Loading) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.0.changed.wait_timeout(content, left);
            content = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        match std::mem::replace(&mut *content, Content::Gone) {
            Content::Loaded(ebpf) => Ok(*ebpf),
            Content::Failed(error) => Err(Some(error)),
            Content::Loading | Content::Gone => Err(None),
        }
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.0.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
