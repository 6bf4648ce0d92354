//! eBPF programs that are loaded while there is time.

use crate::sys::ebpf::Ebpf;
use std::sync::{Arc, Mutex, PoisonError};

/// Programs that catch nothing yet. The kernel takes tens of milliseconds to load them, which a
/// meeting has while it waits for the server, and not once the instant is agreed on.
#[derive(Clone, Debug, Default)]
pub(super) struct Stock(Arc<Mutex<Option<Ebpf>>>);

impl Stock {
    /// Begins to load them, for this interface, on a thread of its own.
    pub(super) fn fill(interface: u32) -> Self {
        let stock = Self::default();
        let filled = stock.clone();
        let fill = move || match Ebpf::ahead(interface) {
            Ok(ebpf) => {
                *filled.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(ebpf);
            }
            Err(error) => tracing::debug!("no eBPF: {error}"),
        };
        if let Err(error) = std::thread::Builder::new().name("loading".into()).spawn(fill) {
            tracing::debug!("nothing is loaded ahead: {error}");
        }
        stock
    }

    /// What is loaded by now, for the first of several ways to the peer.
    pub(super) fn take(&self) -> Option<Ebpf> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
