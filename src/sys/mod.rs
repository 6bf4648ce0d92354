//! Linux: every system call, and every `unsafe` block, is here.

pub mod account;
mod aside;
mod call;
pub mod capability;
mod capture;
pub mod child;
pub mod clock;
pub mod descriptor;
mod dial;
mod filter;
pub mod firewall;
mod firing;
mod guard;
pub mod inspect;
mod link;
pub mod predecessor;
pub mod privilege;
mod raw;
mod repair;
mod route;
mod spray;
mod window;

pub use aside::Aside;
pub use call::CallFailed;
pub use capture::{Capture, Captured, Checksum};
pub use dial::{Dial, DialError};
pub use filter::Filter;
pub use firing::{Priority, spin_until, wait_readable, wait_writable};
pub use guard::{Guard, GuardError};
pub use predecessor::Predecessor;
pub use raw::{RawSender, TransmitTime};
pub use repair::RepairSocket;
pub use route::{Route, RouteError, global_ipv6};
pub use spray::Spray;
pub use window::receive_window_scale;
