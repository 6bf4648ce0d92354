//! A process that removes filters of the clsact hook when the one that made them is gone.
#![allow(unsafe_code)]

use super::super::call::{CallFailed, Named};
use super::tc::{self, EGRESS, INGRESS};
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use nix::sys::signal::SigSet;
use nix::sys::signal::SigmaskHow;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::{ForkResult, fork};
use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

/// The other end of the keeper: when it is dropped, and when the process ends in whatever way, kill
/// -9 included, the keeper removes what it was told of, and ends.
#[derive(Debug)]
pub(super) struct Keeper {
    line: Option<OwnedFd>,
    told: NonNull<c_void>,
    interface: u32,
    handle: u32,
}

// SAFETY: the shared page is only ever accessed as an atomic.
unsafe impl Send for Keeper {}

/// What is to be removed, a bit each.
#[derive(Clone, Copy)]
pub(super) enum Left {
    Ingress = 1,
    Egress = 2,
    Qdisc = 4,
}

const PAGE: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");
/// The priority that was taken, in the bits above [`Left`]'s.
const PRIORITY_SHIFT: u32 = 8;
/// How long dropping waits for the keeper, milliseconds; it takes a few, or an RCU grace period.
const PATIENCE_MS: u16 = 2_000;

impl Keeper {
    /// Starts it for the filters with this handle on the interface with this index. It is no child
    /// of ours to wait for, holds no descriptor of ours, and keeps CAP_NET_ADMIN alone.
    pub(super) fn start(interface: u32, handle: u32) -> Result<Self, CallFailed> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let (line, theirs) = socketpair(AddressFamily::Unix, SockType::Stream, None, flags)
            .named("socketpair(keeper)")?;
        let netlink = tc::open()?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let told = unsafe { mmap_anonymous(None, PAGE, protection, MapFlags::MAP_SHARED) }
            .named("mmap(keeper)")?;
        let keeper = Self { line: Some(line), told, interface, handle };
        // The keeper takes no signal but what nobody can refuse.
        let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK);
        // SAFETY: until _exit the child only makes system calls that are async-signal-safe, on
        // memory that was prepared here.
        let forked = unsafe { fork() };
        if let Ok(ForkResult::Child) = forked {
            let word = keeper.told();
            // SAFETY: as above.
            unsafe { live(theirs.as_raw_fd(), netlink.as_raw_fd(), interface, handle, word) }
        }
        if let Ok(before) = before {
            let _ = before.thread_set_mask();
        }
        if let ForkResult::Parent { child } = forked.named("fork(keeper)")? {
            // It forks again and ends, so that the keeper is nobody's zombie.
            while nix::sys::wait::waitpid(child, None) == Err(Errno::EINTR) {}
        }
        Ok(keeper)
    }

    /// Something is there from now on, or may be in a moment.
    pub(super) fn tell(&self, left: Left) {
        self.told().fetch_or(left as u32, Ordering::SeqCst);
    }

    /// It is not, or it is somebody else's.
    pub(super) fn untell(&self, left: Left) {
        self.told().fetch_and(!(left as u32), Ordering::SeqCst);
    }

    /// Filters are attached with this priority from now on.
    pub(super) fn tell_priority(&self, priority: u16) {
        let low = (1 << PRIORITY_SHIFT) - 1;
        let flags = self.told().load(Ordering::SeqCst) & low;
        self.told().store(flags | u32::from(priority) << PRIORITY_SHIFT, Ordering::SeqCst);
    }

    fn told(&self) -> &AtomicU32 {
        // SAFETY: a page of its own, aligned, alive as long as self, never accessed otherwise.
        unsafe { self.told.cast::<AtomicU32>().as_ref() }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if let Some(line) = &self.line {
            // SAFETY: a plain system call on a descriptor of ours.
            unsafe { libc::shutdown(line.as_raw_fd(), libc::SHUT_WR) };
            let mut ended = [PollFd::new(line.as_fd(), PollFlags::POLLIN)];
            let waited = poll(&mut ended, PollTimeout::from(PATIENCE_MS));
            if !waited.is_ok_and(|count| count > 0) {
                let (interface, handle) = (self.interface, self.handle);
                tracing::warn!(interface, handle, "the filters' keeper has not ended yet");
            }
        }
        self.line = None;
        // SAFETY: mapped in `start` with this size, and no reference to it is left.
        if let Err(error) = unsafe { munmap(self.told, PAGE.get()) } {
            tracing::debug!("munmap: {error}");
        }
    }
}

/// The life of the keeper: it forks off, waits for the end of the line, and removes.
///
/// # Safety
/// For a process that has just been forked; it never returns.
unsafe fn live(line: i32, netlink: i32, interface: u32, handle: u32, told: &AtomicU32) -> ! {
    // SAFETY: system calls on plain numbers, and on memory of this process.
    unsafe {
        if libc::fork() != 0 {
            libc::_exit(0);
        }
        libc::setsid();
        libc::prctl(libc::PR_SET_NAME, c"tcp-punch-keep".as_ptr());
        libc::chdir(c"/".as_ptr());
        // Out of the way of the two numbers they become.
        let line = libc::fcntl(line, libc::F_DUPFD, 10);
        let netlink = libc::fcntl(netlink, libc::F_DUPFD, 10);
        libc::dup2(line, 0);
        libc::dup2(netlink, 1);
        // Linux 5.9; before, one by one.
        if libc::syscall(libc::SYS_close_range, 2, u32::MAX, 0) != 0 {
            for descriptor in 2..65_536 {
                libc::close(descriptor);
            }
        }
        keep_net_admin();
        let netlink = BorrowedFd::borrow_raw(1);
        let mut byte = 0u8;
        while libc::read(0, (&raw mut byte).cast(), 1) < 0 && Errno::last_raw() == libc::EINTR {}
        let told = told.load(Ordering::SeqCst);
        let priority = (told >> PRIORITY_SHIFT) as u16;
        for (left, parent) in [(Left::Ingress, INGRESS), (Left::Egress, EGRESS)] {
            if told & left as u32 != 0 {
                tc::delete_filter(netlink, interface, parent, priority, handle);
            }
        }
        let unused = || ![INGRESS, EGRESS].iter().any(|it| tc::has_filter(netlink, interface, *it));
        if told & Left::Qdisc as u32 != 0 && unused() {
            tc::delete_clsact(netlink, interface);
        }
        libc::_exit(0);
    }
}

/// capset(2), without the memory that the crate for it allocates.
unsafe fn keep_net_admin() {
    const VERSION_3: u32 = 0x2008_0522; // linux/capability.h
    const NET_ADMIN: u32 = 1 << 12;
    let head: [u32; 2] = [VERSION_3, 0];
    // Effective, permitted and inheritable, of the lower and then of the upper capabilities.
    let sets: [u32; 6] = [NET_ADMIN, NET_ADMIN, 0, 0, 0, 0];
    // SAFETY: as many bytes as capset(2) reads.
    unsafe { libc::syscall(libc::SYS_capset, head.as_ptr(), sets.as_ptr()) };
}
