//! A command that is given the connection.
#![allow(unsafe_code)]

use std::ffi::{CString, OsString, c_char};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{
    SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, kill, sigaction,
};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{ForkResult, Pid, fork, getpid, getppid, pipe2, read};

/// What is passed on to the command when it reaches us.
const FORWARDED: [Signal; 6] = [
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGINT,
    Signal::SIGQUIT,
];

/// `si_code` of a signal that the kernel itself made, for a terminal's key or hang-up.
const SI_KERNEL: i32 = 0x80;

/// The first descriptor that is passed by the `LISTEN_FDS` protocol, and the only one here.
const LISTEN_FDS_START: RawFd = 3;

/// How a command gets the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passing {
    /// As its standard input and output, as inetd does.
    Inetd,
    /// As descriptor 3, named by `LISTEN_FDS`, `LISTEN_PID` and `LISTEN_FDNAMES=connection`; the
    /// standard streams stay as they are.
    Descriptor3,
}

/// A command ready to run.
#[derive(Debug, Clone)]
pub struct Program {
    /// The file to execute; it is not searched for.
    pub path: CString,
    /// The arguments, the name it was called by first.
    pub argv: Vec<CString>,
    /// The environment; the `LISTEN_` variables in it are replaced.
    pub environment: Vec<(OsString, OsString)>,
    /// How it gets the connection.
    pub passing: Passing,
}

/// The command could not be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{call}: {source}")]
pub struct SpawnError {
    /// The system call that failed.
    pub call: &'static str,
    /// What it reported.
    pub source: Errno,
}

/// The running command.
///
/// From [`Child::spawn`] until this value is gone the signals to pass on are blocked in the calling
/// thread. It must be the only thread, or the others must block them too: a signal goes to any
/// thread that does not.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    /// Readable once the command has ended. Kinder than SIGCHLD, which gets lost when another
    /// thread leaves it at its default.
    ended: OwnedFd,
    signals: BlockedSignals,
}

impl Child {
    /// Runs `program` with `connection`, of which no copy stays here: the peer sees the end of the
    /// stream when the command ends.
    ///
    /// The command gets the default mask and dispositions of signals, except that what this process
    /// was told to ignore by its own parent (`nohup`) stays ignored. It is sent SIGTERM when the
    /// calling thread ends for whatever reason, kill -9 included.
    ///
    /// # Errors
    /// [`SpawnError`], also when it was the command's own process that failed, at `execve` say.
    pub fn spawn(program: &Program, connection: OwnedFd) -> Result<Self, SpawnError> {
        let signals = BlockedSignals::new().map_err(failed("signalfd"))?;
        // Out of the way of the numbers that they may become or that dup2 would overwrite.
        let connection = above_standard(connection).map_err(failed("fcntl"))?;
        let (report, broken) = pipe2(OFlag::O_CLOEXEC).map_err(failed("pipe2"))?;
        let broken = above_standard(broken).map_err(failed("fcntl"))?;
        let mut image = Image::new(program);
        let parent = getpid();

        // SAFETY: until execve or _exit the child only makes system calls that are
        // async-signal-safe, on memory that was prepared here.
        match unsafe { fork() }.map_err(failed("fork"))? {
            ForkResult::Child => {
                let failure = image.execute(program.passing, connection.as_fd(), parent);
                // SAFETY: `failure` is plain data and outlives the call; _exit runs nothing of the
                // parent's. Should the write fail there is nobody left to tell.
                unsafe {
                    let bytes = failure.to_bytes();
                    libc::write(broken.as_raw_fd(), bytes.as_ptr().cast(), bytes.len());
                    libc::_exit(127)
                }
            }
            ForkResult::Parent { child } => {
                drop((connection, broken));
                match Failure::receive(report.as_fd()) {
                    None => Ok(Self {
                        pid: child,
                        ended: pidfd(child).map_err(failed("pidfd_open"))?,
                        signals,
                    }),
                    Some(failure) => {
                        // Only so that no zombie stays; its status says nothing more.
                        let _ = reap(child);
                        Err(failure)
                    }
                }
            }
        }
    }

    /// Waits for the command, passing signals on to it meanwhile, and returns its status:
    /// what it exited with, or 128 plus the number of the signal that ended it.
    ///
    /// A signal from the terminal is not passed on: the command is in the same foreground process
    /// group and got it itself.
    ///
    /// # Errors
    /// What `poll`, `waitpid` or reading the signal descriptor reported.
    pub fn wait(self) -> nix::Result<u8> {
        loop {
            let mut waiting = [
                PollFd::new(self.ended.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.signals.descriptor.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut waiting, PollTimeout::NONE) {
                Ok(_) => {}
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(error),
            }
            let [ended, signalled] = waiting.map(|it| it.any().unwrap_or(true));
            if ended {
                return reap(self.pid);
            }
            if signalled {
                self.pass_on_signal()?;
            }
        }
    }

    fn pass_on_signal(&self) -> nix::Result<()> {
        let Some(information) = self.signals.descriptor.read_signal()? else {
            return Ok(());
        };
        if information.ssi_code == SI_KERNEL {
            return Ok(());
        }
        for signal in FORWARDED {
            if signal as u32 == information.ssi_signo {
                tracing::debug!(%signal, command = %self.pid, "signal passed on");
                // A refusal is the command's own doing (it became another user), and not a reason
                // to stop waiting.
                if let Err(error) = kill(self.pid, signal) {
                    tracing::warn!(%signal, command = %self.pid, %error, "signal not passed on");
                }
            }
        }
        Ok(())
    }
}

/// Waits for a child and returns its status as a shell would. Not nix's `waitpid`, which cannot
/// say that a real-time signal ended it.
fn reap(child: Pid) -> nix::Result<u8> {
    let mut status = 0;
    loop {
        // SAFETY: `status` is a valid place for the one integer that is written.
        match Errno::result(unsafe { libc::waitpid(child.as_raw(), &raw mut status, 0) }) {
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
            Ok(_) if libc::WIFSIGNALED(status) => return Ok(128 + libc::WTERMSIG(status) as u8),
            Ok(_) => return Ok(libc::WEXITSTATUS(status) as u8),
        }
    }
}

/// A descriptor that becomes readable when the process ends (Linux 5.3).
fn pidfd(process: Pid) -> nix::Result<OwnedFd> {
    // SAFETY: two numbers; the descriptor that comes back is new, closed on exec and ours.
    unsafe {
        let descriptor = libc::syscall(libc::SYS_pidfd_open, process.as_raw(), 0);
        Ok(OwnedFd::from_raw_fd(Errno::result(descriptor)? as RawFd))
    }
}

/// Signals that are read from a descriptor instead of acting.
#[derive(Debug)]
struct BlockedSignals {
    descriptor: SignalFd,
    before: SigSet,
}

impl BlockedSignals {
    fn new() -> nix::Result<Self> {
        let signals = SigSet::from_iter(FORWARDED);
        let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
        // SAFETY: the default disposition runs no handler. A parent may have left SIGCHLD ignored,
        // and then the kernel would throw the command's status away.
        unsafe { sigaction(Signal::SIGCHLD, &default) }?;
        let descriptor =
            SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let before = signals.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
        Ok(Self { descriptor, before })
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        if let Err(error) = self.before.thread_set_mask() {
            tracing::warn!(%error, "signal mask not restored");
        }
    }
}

/// The descriptor under a number from 10 on, closed on exec.
fn above_standard(descriptor: OwnedFd) -> nix::Result<OwnedFd> {
    let copy = fcntl(&descriptor, FcntlArg::F_DUPFD_CLOEXEC(10))?;
    // SAFETY: the kernel has just made this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

fn failed(call: &'static str) -> impl Fn(Errno) -> SpawnError {
    move |source| SpawnError { call, source }
}

/// The calls that the child makes, so that the parent can name the one that failed.
const CHILD_CALLS: [&str; 4] = ["dup2", "prctl", "sigprocmask", "execve"];
const DUP2: u8 = 0;
const PRCTL: u8 = 1;
const SIGPROCMASK: u8 = 2;
const EXECVE: u8 = 3;

/// What the child tells the parent before it gives up: which call, and its errno.
struct Failure {
    call: u8,
    errno: i32,
}

impl Failure {
    fn last(call: u8) -> Self {
        Self { call, errno: Errno::last_raw() }
    }

    fn to_bytes(&self) -> [u8; 5] {
        let [a, b, c, d] = self.errno.to_ne_bytes();
        [self.call, a, b, c, d]
    }

    /// Waits until the child has executed the program, which closes the pipe, or has failed.
    fn receive(report: BorrowedFd<'_>) -> Option<SpawnError> {
        let mut bytes = [0; 5];
        // Five bytes are written to a pipe at once and come out at once.
        let read = loop {
            match read(report, &mut bytes) {
                Err(Errno::EINTR) => {}
                result => break result,
            }
        };
        let [call, errno @ ..] = bytes;
        match read {
            Ok(5) => Some(SpawnError {
                call: CHILD_CALLS.get(usize::from(call)).copied().unwrap_or("?"),
                source: Errno::from_raw(i32::from_ne_bytes(errno)),
            }),
            _ => None,
        }
    }
}

/// Everything `execve` reads, laid out before the fork: the child must not allocate.
struct Image {
    path: *const c_char,
    argv: Vec<*const c_char>,
    /// `/bin/sh PATH ARGUMENTS...`, for a script without an interpreter line, as execvp does.
    shell_argv: Vec<*const c_char>,
    envp: Vec<*const c_char>,
    /// What `envp` points to; its last entry is `LISTEN_PID=` and room for a number.
    environment: Vec<Vec<u8>>,
}

const LISTEN_PID: &[u8] = b"LISTEN_PID=";
const SHELL: &std::ffi::CStr = c"/bin/sh";

impl Image {
    /// The image points into `program`, which must outlive it.
    fn new(program: &Program) -> Self {
        let argv: Vec<_> = terminated(program.argv.iter().map(|argument| argument.as_ptr()));
        let shell_argv = [SHELL.as_ptr(), program.path.as_ptr()]
            .into_iter()
            .chain(argv.iter().copied().skip(1))
            .collect();
        let mut environment: Vec<Vec<u8>> = program
            .environment
            .iter()
            .filter(|(name, _)| {
                !["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"].map(Into::into).contains(name)
            })
            .map(|(name, value)| {
                [name.clone().into_vec(), b"=".into(), value.clone().into_vec(), b"\0".into()]
                    .concat()
            })
            .collect();
        if program.passing == Passing::Descriptor3 {
            environment.push(b"LISTEN_FDS=1\0".into());
            environment.push(b"LISTEN_FDNAMES=connection\0".into());
            environment.push([LISTEN_PID, &[0; 12]].concat());
        }
        Self {
            path: program.path.as_ptr(),
            argv,
            shell_argv,
            envp: terminated(environment.iter().map(|entry| entry.as_ptr().cast())),
            environment,
        }
    }

    /// Becomes the program. Runs in the child, between fork and exec.
    fn execute(&mut self, passing: Passing, connection: BorrowedFd<'_>, parent: Pid) -> Failure {
        let targets: &[RawFd] = match passing {
            Passing::Inetd => &[libc::STDIN_FILENO, libc::STDOUT_FILENO],
            Passing::Descriptor3 => &[LISTEN_FDS_START],
        };
        for &target in targets {
            // SAFETY: two numbers; `connection` is above every target, so the copy always is
            // another descriptor and not closed on exec.
            if unsafe { libc::dup2(connection.as_raw_fd(), target) } < 0 {
                return Failure::last(DUP2);
            }
        }
        // A change of user clears this setting, so it comes after.
        if prctl::set_pdeathsig(Signal::SIGTERM).is_err() {
            return Failure::last(PRCTL);
        }
        if getppid() != parent {
            // The parent ended before the line above and no signal will come.
            // SAFETY: ends the child without running anything of the parent's.
            unsafe { libc::_exit(128 + libc::SIGTERM) };
        }
        reset_dispositions();
        if SigSet::empty().thread_set_mask().is_err() {
            return Failure::last(SIGPROCMASK);
        }
        if passing == Passing::Descriptor3
            && let Some(entry) = self.environment.last_mut()
        {
            write_number(&mut entry[LISTEN_PID.len()..], getpid().as_raw().unsigned_abs());
            // The last pointer is the null; the one before is this entry's, taken anew because
            // it was written to.
            let place = self.envp.len() - 2;
            self.envp[place] = entry.as_ptr().cast();
        }
        // SAFETY: the arrays end with a null pointer and every string in them with a zero; they
        // belong to `self` and to the program that `self` was made from.
        unsafe {
            libc::execve(self.path, self.argv.as_ptr(), self.envp.as_ptr());
            if Errno::last() == Errno::ENOEXEC {
                libc::execve(SHELL.as_ptr(), self.shell_argv.as_ptr(), self.envp.as_ptr());
            }
        }
        Failure::last(EXECVE)
    }
}

/// The array that `execve` wants.
fn terminated(strings: impl Iterator<Item = *const c_char>) -> Vec<*const c_char> {
    strings.chain([std::ptr::null()]).collect()
}

/// Undoes our handlers, which must not run once the mask is open, and Rust's ignoring of SIGPIPE.
fn reset_dispositions() {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: only the default and the ignoring disposition are set, neither runs code. The
        // numbers that cannot be set (SIGKILL, SIGSTOP, libc's own) are refused and stay as they are.
        unsafe {
            if libc::signal(signal, libc::SIG_DFL) == libc::SIG_IGN && signal != libc::SIGPIPE {
                libc::signal(signal, libc::SIG_IGN);
            }
        }
    }
}

/// Writes `number` and a terminating zero without allocating.
fn write_number(into: &mut [u8], mut number: u32) {
    let mut digits = [0; 10];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    let digits = &digits[start..];
    into[..digits.len()].copy_from_slice(digits);
    into[digits.len()] = 0;
}

#[cfg(test)]
mod tests;
