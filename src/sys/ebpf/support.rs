//! Whether this host can run the programs.
#![allow(unsafe_code)]

use super::error::EbpfError;
use caps::{CapSet, Capability};
use nix::errno::Errno;
use nix::libc;
use std::fs;
use std::os::fd::{FromRawFd, OwnedFd};

/// The ring buffer, CAP_BPF, and asking for the state of a checksum are of this version.
const OLDEST: ((u32, u32), &str) = ((5, 8), "5.8");
/// From this version on an interface takes programs by links that go with their owner (tcx).
const TCX: (u32, u32) = (6, 6);
/// From this version on a process may use its maps without CAP_BPF, whatever
/// kernel.unprivileged_bpf_disabled says (commit c8644cd0efe7).
const MAPS_WITHOUT_CAPABILITY: (u32, u32) = (5, 19);

/// Looks at everything that can be looked at without loading the programs.
pub(super) fn check(missing: &'static str) -> Result<(), EbpfError> {
    if !missing.is_empty() {
        return Err(EbpfError::NotBuilt(missing));
    }
    judge_release(&release())?;
    for (capability, name) in
        [(Capability::CAP_BPF, "CAP_BPF"), (Capability::CAP_NET_ADMIN, "CAP_NET_ADMIN")]
    {
        if !caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false) {
            return Err(EbpfError::NoPermission(name));
        }
    }
    match make_map() {
        Ok(()) => Ok(()),
        Err(Errno::EPERM | Errno::EACCES) if !in_first_user_namespace() => {
            Err(EbpfError::UserNamespace)
        }
        Err(errno) => Err(EbpfError::Disabled(format!("bpf(BPF_MAP_CREATE): {}", errno.desc()))),
    }
}

/// Whether links of tcx may be tried.
pub(super) fn may_have_tcx() -> bool {
    version(&release()).is_none_or(|version| version >= TCX)
}

/// Whether CAP_BPF may go once the programs are loaded.
pub(super) fn maps_need_no_capability() -> bool {
    version(&release()).is_some_and(|version| version >= MAPS_WITHOUT_CAPABILITY)
}

fn judge_release(release: &str) -> Result<(), EbpfError> {
    let (oldest, needed) = OLDEST;
    match version(release) {
        Some(version) if version < oldest => {
            Err(EbpfError::KernelTooOld { found: release.to_owned(), needed })
        }
        // What cannot be read is tried.
        _ => Ok(()),
    }
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers =
        release.split(|c: char| !c.is_ascii_digit()).map_while(|n| n.parse::<u32>().ok());
    numbers.next().zip(numbers.next())
}

fn release() -> String {
    nix::sys::utsname::uname()
        .map(|name| name.release().to_string_lossy().into_owned())
        .unwrap_or_default()
}

fn in_first_user_namespace() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// Makes a map of one entry and lets it go.
fn make_map() -> nix::Result<()> {
    const BPF_MAP_CREATE: libc::c_int = 0;
    const BPF_MAP_TYPE_ARRAY: u32 = 2;
    // type, key size, value size, entries; the kernel takes what is left out for zero.
    let attributes: [u32; 4] = [BPF_MAP_TYPE_ARRAY, 4, 4, 1];
    // SAFETY: the kernel reads as many bytes as said. The descriptor that comes back is new.
    unsafe {
        let fd = libc::syscall(
            libc::SYS_bpf,
            BPF_MAP_CREATE,
            attributes.as_ptr(),
            size_of_val(&attributes),
        );
        drop(OwnedFd::from_raw_fd(Errno::result(fd)? as libc::c_int));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_is_too_old_is_told_which_one_is_needed() {
        for old in ["5.7.19", "4.19.0-26-amd64", "5.4.0-150-generic"] {
            let error = judge_release(old).unwrap_err();
            assert_eq!(error, EbpfError::KernelTooOld { found: old.into(), needed: "5.8" });
            assert_eq!(error.to_string(), format!("Linux {old} is older than 5.8"));
            assert!(error.advice().contains("at least 5.8"), "{}", error.advice());
        }
        for good in ["5.8.0", "5.10.0-30-amd64", "6.18.44", "10.0", "something else"] {
            assert_eq!(judge_release(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn a_build_without_clang_says_so() {
        let error = check("it was built without clang").unwrap_err();
        let said = error.to_string();
        assert_eq!(said, "this build has no eBPF datapath: it was built without clang");
        assert!(error.advice().contains("clang"));
    }
}
