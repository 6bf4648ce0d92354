//! `--datapath`: how packets are caught and resets are held back.

use super::{Failure, outcome};
use crate::engine::{Datapath, PunchError};
use crate::sys::ebpf::Ebpf;

/// Reads `auto`, `packet` or `ebpf`.
///
/// # Errors
/// A usage failure for anything else.
pub fn parse(text: &str) -> Result<Datapath, Failure> {
    match text {
        "auto" => Ok(Datapath::Auto),
        "packet" => Ok(Datapath::Packet),
        "ebpf" => Ok(Datapath::Ebpf),
        _ => Err(Failure::usage(
            format!("--datapath \"{text}\" is none"),
            "write auto, packet or ebpf",
        )),
    }
}

/// Fails before anything is done where what was asked for cannot be had.
///
/// # Errors
/// A privilege failure, or an internal one.
pub fn check(datapath: Datapath) -> Result<(), Failure> {
    if datapath != Datapath::Ebpf {
        return Ok(());
    }
    Ebpf::available().map_err(|error| {
        let error = PunchError::Datapath(error);
        Failure::new(outcome::status(&error), &error, error.advice())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        assert_eq!(parse("auto"), Ok(Datapath::Auto));
        assert_eq!(parse("packet"), Ok(Datapath::Packet));
        assert_eq!(parse("ebpf"), Ok(Datapath::Ebpf));
        for wrong in ["", "eBPF", "xdp", "packet,ebpf"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
