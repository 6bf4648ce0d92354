//! Several servers on one bus: whoever keeps a place, and whatever becomes of the servers.

mod bus;
mod calls;
mod clients;
mod clocks;
mod keepers;
mod meetings;
mod steps;
mod world;
