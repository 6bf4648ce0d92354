//! `tcp-punch reach`: to a service that a peer exposes.

use super::Failure;
use super::args::ReachArgs;
use super::meet::Ready;
use super::{identity, peers};
use crate::rendezvous::Purpose;

/// Runs it. Returns the exit status: of the command if there is one.
///
/// # Errors
/// The failure to print, with its exit status.
pub fn reach(args: &ReachArgs) -> Result<u8, Failure> {
    let peer = peers::of(&args.identity)?.key_of(&args.name)?;
    Ready::judge(&args.meeting)?.run(|| {
        let ours = identity::identity(args.identity.identity.as_deref())?;
        if ours.made {
            eprintln!(
                "tcp-punch: made a key pair in {}; for the peers file there: {}",
                ours.path.display(),
                ours.identity.public()
            );
        }
        Ok(Purpose::Call(ours.identity, peer))
    })
}
