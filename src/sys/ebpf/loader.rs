//! Loading the programs that the build has compiled.

use super::blind::blind;
use super::error::EbpfError;
use super::hook;
use super::link::LinkHeader;
use super::support;
use aya::EbpfLoader;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::sync::{LazyLock, Mutex, PoisonError};

/// What the build compiled; empty where it could not.
pub(super) static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/datapath.o"));
/// Why it could not.
const MISSING: &str = env!("EBPF_MISSING");

/// aya reads the kernel's own types for each loader, if it can, and here they are not needed: the
/// programs are the same for every kernel. They would take a tenth of a second of a processor, in
/// every process that punches, and more memory than all the rest of it. So the loader is made where
/// they cannot be read, and there is one.
static LOADER: LazyLock<Mutex<EbpfLoader<'static>>> = LazyLock::new(|| {
    let mut loader = blind(EbpfLoader::new).unwrap_or_default();
    loader.btf(None);
    Mutex::new(loader)
});

/// Whether this host and build have the datapath, as far as can be told without loading it.
pub(super) fn check() -> Result<(), EbpfError> {
    support::check(MISSING)
}

/// Loads the programs for such an interface, with a ring of so many bytes.
pub(super) fn load(header: &'static LinkHeader, ring: u32) -> Result<aya::Ebpf, EbpfError> {
    check()?;
    raise_memory_limit();
    let mut loader = LOADER.lock().unwrap_or_else(PoisonError::into_inner);
    let mut programs = loader
        .override_global("link_header", header, true)
        .map_max_entries("events", ring)
        .load(OBJECT)?;
    drop(loader);
    for name in ["ingress", "egress"] {
        hook::program(&mut programs, name)?.load()?;
    }
    Ok(programs)
}

/// Before Linux 5.11 maps count as locked memory, of which 64 KiB are usual. It may not be granted.
fn raise_memory_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_MEMLOCK)
        && soft < hard
    {
        let _ = setrlimit(Resource::RLIMIT_MEMLOCK, hard, hard);
    }
}
