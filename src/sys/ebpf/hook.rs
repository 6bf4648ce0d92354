//! Where the programs are hung in.

use super::super::call::CallFailed;
use super::error::EbpfError;
use super::keeper::{Keeper, Left};
use super::support;
use aya::Ebpf;
use aya::programs::tc::{self, NlOptions, TcAttachOptions, TcError, TcHandle};
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType};
use nix::errno::Errno;

/// How programs are hung in at an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Links (Linux 6.6), which the kernel removes when the process has ended.
    Tcx,
    /// Filters of the clsact qdisc, which a process of its own removes then.
    Clsact,
}

const PROGRAMS: [(&str, TcAttachType, Left); 2] = [
    ("ingress", TcAttachType::Ingress, Left::Ingress),
    ("egress", TcAttachType::Egress, Left::Egress),
];
/// At a priority where a classifier of another kind hangs there is no place for ours.
const PRIORITIES: std::ops::RangeInclusive<u16> = 1..=8;

impl Hook {
    /// Hangs the loaded programs in, by `wanted` or else by the best that the kernel has, and says
    /// how. In both directions ours come first: programs behind them see all that is not the
    /// attempt's.
    pub(super) fn attach(
        programs: &mut Ebpf,
        interface: u32,
        wanted: Option<Self>,
    ) -> Result<(Self, Option<Keeper>), EbpfError> {
        let name = name(interface)?;
        if wanted.map_or_else(support::may_have_tcx, |hook| hook == Self::Tcx) {
            match by_tcx(programs, &name) {
                Ok(()) => return Ok((Self::Tcx, None)),
                Err(error) if wanted.is_none() && error.is_unknown() => {
                    tracing::debug!("no tcx: {error}");
                }
                Err(error) => return Err(error),
            }
        }
        by_clsact(programs, interface, &name).map(|keeper| (Self::Clsact, Some(keeper)))
    }
}

/// What the interface is called by now.
pub(super) fn name(interface: u32) -> Result<String, EbpfError> {
    let name = nix::net::if_::if_indextoname(interface);
    name.ok().and_then(|name| name.into_string().ok()).ok_or(EbpfError::NoInterface(interface))
}

fn by_tcx(programs: &mut Ebpf, name: &str) -> Result<(), EbpfError> {
    for (which, direction, _) in PROGRAMS {
        let options = TcAttachOptions::TcxOrder(LinkOrder::first());
        program(programs, which)?.attach_with_options(name, direction, options)?;
    }
    Ok(())
}

fn by_clsact(programs: &mut Ebpf, interface: u32, name: &str) -> Result<Keeper, EbpfError> {
    // Whatever a handle of chance meets is not somebody else's filter.
    let mut chance = [0; 4];
    let _ = getrandom::fill(&mut chance);
    let handle = u32::from_ne_bytes(chance) >> 1 | 1;
    let keeper = Keeper::start(interface, handle)?;
    // The keeper is told first, so that no moment is left in which to be killed.
    keeper.tell(Left::Qdisc);
    if let Err(error) = tc::qdisc_add_clsact(name) {
        keeper.untell(Left::Qdisc);
        let errno = errno(&error);
        if errno != Errno::EEXIST {
            let failed = CallFailed { call: "netlink(RTM_NEWQDISC)", errno };
            return Err(EbpfError::NoHook(failed));
        }
    }
    let mut last = Errno::EINVAL;
    'priorities: for priority in PRIORITIES {
        keeper.tell_priority(priority);
        let mut links = Vec::new();
        for (which, direction, left) in PROGRAMS {
            keeper.tell(left);
            let handle = TcHandle::from(handle);
            let options = NlOptions { priority, handle, ..NlOptions::default() };
            let options = TcAttachOptions::Netlink(options);
            match program(programs, which)?.attach_with_options(name, direction, options) {
                Ok(link) => links.push((which, link)),
                Err(error) => {
                    let EbpfError::Call(failed) = EbpfError::from(error) else { continue };
                    last = failed.errno;
                    for (which, link) in links {
                        program(programs, which)?.detach(link)?;
                    }
                    continue 'priorities;
                }
            }
        }
        return Ok(keeper);
    }
    Err(EbpfError::NoHook(CallFailed { call: "netlink(RTM_NEWTFILTER)", errno: last }))
}

/// One of the programs.
pub(super) fn program<'a>(
    programs: &'a mut Ebpf,
    name: &str,
) -> Result<&'a mut SchedClassifier, EbpfError> {
    let missing = || EbpfError::Object(format!("it has no program {name}"));
    Ok(programs.program_mut(name).ok_or_else(missing)?.try_into()?)
}

fn errno(error: &TcError) -> Errno {
    let raw = match error {
        TcError::AlreadyAttached => Some(nix::libc::EEXIST),
        TcError::NetlinkError(error) => error.raw_os_error(),
        TcError::IoError(error) => error.raw_os_error(),
        _ => None,
    };
    Errno::from_raw(raw.unwrap_or(0))
}
