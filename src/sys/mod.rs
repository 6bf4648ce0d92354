//! Linux: every system call, and every `unsafe` block, is here.

pub mod account;
pub mod child;
pub mod descriptor;
pub mod privilege;
