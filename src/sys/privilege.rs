//! Privileges given up.
//!
//! Capabilities belong to a thread, so these functions are for a process that has one thread left,
//! or for the thread that starts the others afterwards.

use caps::{CapSet, Capability};
use nix::sys::prctl;
use nix::unistd::geteuid;

/// A privilege could not be given up.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct PrivilegeError(String);

impl From<caps::errors::CapsError> for PrivilegeError {
    fn from(error: caps::errors::CapsError) -> Self {
        Self(error.to_string())
    }
}

/// Whether this thread may become another user: `CAP_SETUID` and `CAP_SETGID` are permitted.
#[must_use]
pub fn may_change_user() -> bool {
    [Capability::CAP_SETUID, Capability::CAP_SETGID]
        .into_iter()
        .all(|capability| caps::has_cap(None, CapSet::Permitted, capability).unwrap_or(false))
}

/// Makes effective what changing the user and lowering the bounding set need, as far as it is
/// permitted: an earlier phase may have kept only its own capabilities effective.
///
/// # Errors
/// What `capset` reported.
pub fn raise_for_hand_over() -> Result<(), PrivilegeError> {
    for capability in [Capability::CAP_SETUID, Capability::CAP_SETGID, Capability::CAP_SETPCAP] {
        if caps::has_cap(None, CapSet::Permitted, capability)? {
            caps::raise(None, CapSet::Effective, capability)?;
        }
    }
    Ok(())
}

/// Lets no program that runs from here on gain a capability, uid 0 included.
///
/// It empties the bounding set. Root in a container may lack the `CAP_SETPCAP` for that; there
/// `no_new_privs` has the same effect on what is executed. Any other user gains nothing by
/// executing an ordinary program, so nothing is done.
///
/// # Errors
/// What `prctl` reported.
pub fn forbid_gaining() -> Result<(), PrivilegeError> {
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
        caps::clear(None, CapSet::Bounding)?;
    } else if geteuid().is_root() {
        prctl::set_no_new_privs()
            .map_err(|error| PrivilegeError(format!("PR_SET_NO_NEW_PRIVS failure: {error}")))?;
    }
    Ok(())
}

/// Drops every capability of this thread: ambient, inheritable, permitted and effective.
///
/// # Errors
/// What `prctl` or `capset` reported.
pub fn drop_all() -> Result<(), PrivilegeError> {
    if caps::runtime::ambient_set_supported().is_ok() {
        caps::clear(None, CapSet::Ambient)?;
    }
    caps::clear(None, CapSet::Inheritable)?;
    // Clearing the permitted set clears the effective one with it.
    caps::clear(None, CapSet::Permitted)?;
    Ok(())
}

/// Drops every capability of this thread but `keep`, as far as it is held.
///
/// # Errors
/// What `prctl` or `capset` reported.
pub fn drop_all_but(keep: &[Capability]) -> Result<(), PrivilegeError> {
    let permitted = caps::read(None, CapSet::Permitted)?;
    let keep = keep.iter().copied().filter(|capability| permitted.contains(capability)).collect();
    if caps::runtime::ambient_set_supported().is_ok() {
        caps::clear(None, CapSet::Ambient)?;
    }
    caps::clear(None, CapSet::Inheritable)?;
    // Effective before permitted: a set may never hold what its limit no longer holds.
    caps::set(None, CapSet::Effective, &keep)?;
    caps::set(None, CapSet::Permitted, &keep)?;
    Ok(())
}

/// Drops every capability of this thread but those for changing the user.
///
/// It is for a thread beside the one that changes the user: the C library then does the same in
/// every thread, and aborts the process where one of them may not.
///
/// # Errors
/// What `prctl` or `capset` reported.
pub fn drop_all_but_changing_user() -> Result<(), PrivilegeError> {
    drop_all_but(&[Capability::CAP_SETUID, Capability::CAP_SETGID])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Capabilities are per thread, and every test has its own.
    #[test]
    fn nothing_is_left_and_nothing_comes_back() {
        raise_for_hand_over().unwrap();
        let could_empty_bounding =
            caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP).unwrap();
        forbid_gaining().unwrap();
        drop_all().unwrap();
        for set in [CapSet::Effective, CapSet::Permitted, CapSet::Inheritable, CapSet::Ambient] {
            assert!(caps::read(None, set).unwrap().is_empty(), "{set:?}");
        }
        assert!(!may_change_user());
        if could_empty_bounding {
            assert!(caps::read(None, CapSet::Bounding).unwrap().is_empty());
        } else {
            eprintln!("bounding set not examined: this run lacks CAP_SETPCAP, run as root");
        }
        assert!(caps::raise(None, CapSet::Effective, Capability::CAP_NET_RAW).is_err());
    }

    #[test]
    fn a_thread_aside_keeps_what_changing_the_user_takes() {
        let could = may_change_user();
        drop_all_but_changing_user().unwrap();
        assert_eq!(may_change_user(), could);
        assert!(!caps::has_cap(None, CapSet::Permitted, Capability::CAP_NET_RAW).unwrap());
    }

    #[test]
    fn dropping_twice_is_harmless() {
        drop_all().unwrap();
        drop_all().unwrap();
        forbid_gaining().unwrap();
    }
}
