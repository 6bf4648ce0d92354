//! Tests on real kernels' networks: hosts, routers and a wide area network in namespaces.
//!
//! `netns-scripts/testbed.sh` runs them, as root in a bubble of namespaces; every test is marked
//! `#[ignore = "..."]` so that a plain `cargo test` says what it leaves out and why.

mod attack;
mod bad_input;
mod binding;
mod bus;
mod capture;
mod clock_set;
mod connects;
mod datapath;
mod destinations;
mod early;
mod ebpf;
mod expose;
mod hand_over;
mod in_kernel;
mod interrupted;
mod keys;
mod leftovers;
mod meet;
mod meet_luck;
mod meet_ways;
mod middle;
mod minutes;
mod nat;
mod network;
mod pair;
mod portmap;
mod privileges;
mod program;
mod records;
mod routers;
mod routers_user;
mod searches;
mod spray;
mod ssh;
mod strategies;
mod streams;
mod stun;
mod timeouts;
mod told;
mod trace;
mod transit;
mod units;
mod veth;
mod wan;

// What the matrix of all routers is made of.
#[allow(dead_code, reason = "shared with tests/matrix")]
#[path = "../matrix/kind.rs"]
mod kind;
#[path = "../matrix/oracle.rs"]
mod oracle;
