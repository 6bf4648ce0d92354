//! Drives a pure attempt with the system: the library's public API.

mod clock_check;
mod config;
mod discovery;
mod drive;
mod error;
mod expose;
mod field;
mod fire;
mod hand_over;
mod installation;
mod mapping;
mod meet;
mod prober;
mod recorder;
pub mod report;
mod run;
pub mod serve;
mod stock;
mod stream;
mod survey;
mod tap;

pub use config::{Datapath, Opener, Progress, Punch};
pub use discovery::{Discovered, Discovery, DiscoveryError, Waiting};
pub use error::{Failure, PunchError};
pub use expose::{Expose, Happening, Host, Lost};
pub use mapping::{MapRequest, MappingError, MappingProtocol, PendingMapping, PortMapping};
pub use meet::{Meet, MeetError, MeetFailure, Met, Step, server_clock};
pub use report::{Report, Way};
pub use survey::{Held, Survey, SurveyError};

use std::os::fd::OwnedFd;

/// An established connection.
#[derive(Debug)]
pub struct Connection {
    /// The connection as an ordinary kernel socket; `std::net::TcpStream::from(fd)` takes it.
    pub fd: OwnedFd,
    /// How it came about.
    pub report: Report,
}
