//! Why there is no eBPF datapath.

use super::super::call::CallFailed;
use aya::maps::MapError;
use aya::programs::ProgramError;
use aya::programs::tc::TcError;
use nix::errno::Errno;
use std::io;

/// Why the eBPF datapath cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EbpfError {
    /// The package was built without the programs.
    #[error("this build has no eBPF datapath: {0}")]
    NotBuilt(&'static str),
    /// CAP_BPF or CAP_NET_ADMIN is not held.
    #[error("{0} is missing")]
    NoPermission(&'static str),
    /// Root of a user namespace may not use eBPF.
    #[error("eBPF is not permitted in a user namespace")]
    UserNamespace,
    /// The kernel has no bpf(2), or something forbids it to a process with CAP_BPF.
    #[error("eBPF is disabled here: {0}")]
    Disabled(String),
    /// The kernel cannot run the programs.
    #[error("Linux {found} is older than {needed}")]
    KernelTooOld {
        /// What is running.
        found: String,
        /// The oldest that can.
        needed: &'static str,
    },
    /// The kernel refused the programs; its reason.
    #[error("the kernel refused the eBPF programs: {0}")]
    Verifier(String),
    /// The interface is gone.
    #[error("there is no interface {0}")]
    NoInterface(u32),
    /// The kernel has neither tcx nor clsact with BPF filters.
    #[error("this kernel can hook no eBPF program to an interface ({0})")]
    NoHook(CallFailed),
    /// The object does not hold what it should; a defect.
    #[error("the eBPF object is not what was expected: {0}")]
    Object(String),
    /// Anything else.
    #[error(transparent)]
    Call(#[from] CallFailed),
}

impl EbpfError {
    /// What to do about it, one line without its full stop.
    pub fn advice(&self) -> String {
        match self {
            Self::NotBuilt(_) => "install clang and build again, or use --datapath packet".into(),
            Self::NoPermission(_) => {
                format!("run it with sudo, or once: {}", super::super::capability::setcap_line())
            }
            Self::UserNamespace => {
                "run it as root outside of the container, or use --datapath packet".into()
            }
            Self::Disabled(_) => {
                "see what forbids bpf(2) (a container's seccomp profile, a security module, \
                 CONFIG_BPF_SYSCALL), or use --datapath packet"
                    .into()
            }
            Self::KernelTooOld { needed, .. } => {
                format!("boot a kernel of at least {needed}, or use --datapath packet")
            }
            Self::NoHook(_) => {
                "load the kernel modules sch_ingress and cls_bpf, or use --datapath packet".into()
            }
            Self::Verifier(_) | Self::Object(_) => {
                "use --datapath packet, and report it with the output of tcp-punch doctor".into()
            }
            Self::NoInterface(_) => "check the interface (ip link)".into(),
            Self::Call(failed) => failed.advice(),
        }
    }

    /// Whether a privilege was missing.
    pub fn is_permission(&self) -> bool {
        match self {
            Self::NoPermission(_) | Self::UserNamespace => true,
            Self::Call(failed) | Self::NoHook(failed) => failed.is_permission(),
            _ => false,
        }
    }

    /// Whether the kernel does not know what it was asked to do.
    pub(super) fn is_unknown(&self) -> bool {
        let unknown = |errno| matches!(errno, Errno::EINVAL | Errno::EOPNOTSUPP | Errno::ENOSYS);
        matches!(self, Self::Call(failed) if unknown(failed.errno))
    }
}

fn failed(call: &'static str, error: &io::Error) -> EbpfError {
    let errno = Errno::from_raw(error.raw_os_error().unwrap_or(0));
    EbpfError::Call(CallFailed { call, errno })
}

impl From<MapError> for EbpfError {
    fn from(error: MapError) -> Self {
        match &error {
            MapError::CreateError { io_error, .. } => failed("bpf(BPF_MAP_CREATE)", io_error),
            MapError::IoError(io_error) => failed("mmap(ring buffer)", io_error),
            MapError::SyscallError(call) => failed("bpf(map)", &call.io_error),
            _ => Self::Object(error.to_string()),
        }
    }
}

impl From<ProgramError> for EbpfError {
    fn from(error: ProgramError) -> Self {
        match &error {
            ProgramError::LoadError { io_error, verifier_log } => {
                let errno = io_error.raw_os_error().map(Errno::from_raw);
                if matches!(errno, Some(Errno::EPERM | Errno::ENOMEM)) {
                    return failed("bpf(BPF_PROG_LOAD)", io_error);
                }
                let log = verifier_log.to_string();
                // Its last lines say why; a summary of what it counted follows them.
                let why = log.lines().rev().find(|l| !l.is_empty() && !l.starts_with("processed"));
                Self::Verifier(why.map_or_else(|| io_error.to_string(), str::to_owned))
            }
            ProgramError::SyscallError(call) => failed("bpf(BPF_LINK_CREATE)", &call.io_error),
            ProgramError::TcError(TcError::NetlinkError(error)) => {
                let errno = Errno::from_raw(error.raw_os_error().unwrap_or(0));
                Self::Call(CallFailed { call: "netlink(RTM_NEWTFILTER)", errno })
            }
            ProgramError::MapError(_) => Self::Object(error.to_string()),
            _ => Self::Object(error.to_string()),
        }
    }
}

impl From<aya::EbpfError> for EbpfError {
    fn from(error: aya::EbpfError) -> Self {
        match error {
            aya::EbpfError::MapError(error) => error.into(),
            aya::EbpfError::ProgramError(error) => error.into(),
            error => Self::Object(error.to_string()),
        }
    }
}
