//! A thread that can open no file.
#![allow(unsafe_code)]

use nix::errno::Errno;
use nix::libc::{self, sock_filter, sock_fprog};
use nix::sys::prctl;
use std::mem::offset_of;
use std::thread;

/// Does `work` where no file can be opened, if the kernel has seccomp(2); anyhow otherwise. None if
/// the system gives no thread.
pub(super) fn blind<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let work = move || {
        if let Err(errno) = forbid_opening() {
            tracing::debug!("prctl(PR_SET_SECCOMP): {}", errno.desc());
        }
        work()
    };
    thread::Builder::new().name("blind".into()).spawn(work).ok()?.join().ok()
}

/// From now on openat(2) says to this thread that nothing is there.
fn forbid_opening() -> nix::Result<()> {
    let number = offset_of!(libc::seccomp_data, nr) as u32;
    let nothing = libc::SECCOMP_RET_ERRNO | libc::ENOENT as u32;
    let step = |code: u32, jf, k| sock_filter { code: code as u16, jt: 0, jf, k };
    let mut filter = [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, number),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, libc::SYS_openat as u32),
        step(libc::BPF_RET | libc::BPF_K, 0, nothing),
        step(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // Without it seccomp(2) takes CAP_SYS_ADMIN. Both are of this thread alone.
    prctl::set_no_new_privs()?;
    // SAFETY: the kernel copies the filter, which lives as long as the call.
    let set =
        unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    Errno::result(set).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn no_other_thread_is_blind() {
        assert_eq!(blind(|| File::open("/proc/self/status").is_ok()), Some(false));
        assert!(File::open("/proc/self/status").is_ok());
        let sees = thread::spawn(|| File::open("/proc/self/status").is_ok());
        assert!(sees.join().unwrap());
    }
}
