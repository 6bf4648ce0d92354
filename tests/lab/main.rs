//! Tests on real kernels' networks: hosts, routers and a wide area network in namespaces.
//!
//! `netns-scripts/testbed.sh` runs them, as root in a bubble of namespaces; every test is marked
//! `#[ignore = "..."]` so that a plain `cargo test` says what it leaves out and why.

mod capture;
mod network;
mod wan;
