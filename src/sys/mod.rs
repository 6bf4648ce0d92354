//! Linux: every system call, and every `unsafe` block, is here.

pub mod capability;
pub mod clock;
