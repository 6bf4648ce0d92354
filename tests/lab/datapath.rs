//! The datapath with which the tests punch: testbed.sh runs them all once with each.

use std::env;
use std::time::Duration;

use tcp_punch::Punch;
use tcp_punch::engine::Datapath;

/// As the environment names it; the program's own choice if it does not.
const VARIABLE: &str = "LAB_DATAPATH";

/// What a punch is told.
pub(crate) fn datapath() -> Datapath {
    match name().as_deref() {
        None => Datapath::Auto,
        Some("packet") => Datapath::Packet,
        Some("ebpf") => Datapath::Ebpf,
        Some(other) => panic!("{VARIABLE} is packet or ebpf, not {other}"),
    }
}

/// What the command line says.
pub(crate) fn options() -> Vec<String> {
    name().into_iter().flat_map(|name| ["--datapath".to_owned(), name]).collect()
}

/// What the report says: the name, if it is settled.
pub(crate) fn name() -> Option<String> {
    env::var(VARIABLE).ok().filter(|name| !name.is_empty())
}

/// What opening it takes at most: the kernel verifies programs, on a busy machine slowly.
pub(crate) fn opening() -> Duration {
    Duration::from_millis(if datapath() == Datapath::Ebpf { 250 } else { 0 })
}

/// A punch of the test's.
pub(crate) fn with_it(punch: Punch) -> Punch {
    punch.datapath(datapath())
}
