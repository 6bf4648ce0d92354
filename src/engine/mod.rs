//! Drives a pure attempt with the system: the library's public API.

mod config;
pub mod report;

pub use config::{Opener, Punch};
pub use report::Report;

use std::os::fd::OwnedFd;

/// An established connection.
#[derive(Debug)]
pub struct Connection {
    /// The connection as an ordinary kernel socket; `std::net::TcpStream::from(fd)` takes it.
    pub fd: OwnedFd,
    /// How it came about.
    pub report: Report,
}
