//! TCP hole punching for Linux.
//!
//! Two computers behind NAT routers open one direct TCP connection at an agreed instant. The
//! handshake is made of raw segments; the established connection comes back as an ordinary kernel
//! socket. Start at [`engine::Punch`].
//!
//! The crate is a row of rooms; each imports only rooms to its left:
//! `wire < nat < punch < rendezvous < sys < engine < cli`. The first four are pure: no clock, no randomness,
//! no sockets. See `docs/ARCHITECTURE.md`.

#[cfg(not(target_os = "linux"))]
compile_error!(
    "tcp-punch needs Linux: raw sockets, packet sockets and TCP_REPAIR have no counterpart elsewhere"
);

pub mod cli;
pub mod engine;
pub mod nat;
pub mod punch;
pub mod rendezvous;
pub mod sys;
pub mod wire;

pub use engine::{Connection, Punch};
