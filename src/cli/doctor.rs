//! `doctor`: can this host punch, and if not, which command mends it; and what the eBPF datapaths
//! that run now have counted.

use super::{Failure, Status, span};
use crate::sys::CallFailed;
use crate::sys::capability::{self, NEEDED, WANTED};
use crate::sys::clock::{self, ClockState};
use crate::sys::ebpf::{Ebpf, EbpfError, Running};
use crate::sys::firewall::{self, Firewall};
use crate::sys::inspect;
use nix::errno::Errno;
use serde::Serialize;
use std::fmt::Write as _;
use std::time::Duration;

/// TCP_REPAIR can be left without a window probe since this release.
const OLDEST_KERNEL: (u32, u32) = (4, 20);

/// A clock error that is comparable with a short path's one-way delay.
const LOOSE: Duration = Duration::from_millis(10);

/// How one check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// A punch works without it, less well or not everywhere.
    Warn,
    /// No punch without it.
    Fail,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub name: &'static str,
    /// How it came out.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// The command, or the step, that mends it; empty if nothing needs mending.
    pub mend: String,
    /// A privilege is what is missing.
    #[serde(skip)]
    pub privilege: bool,
}

impl Finding {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        let (found, mend) = (found.into(), String::new());
        Self { name, verdict: Verdict::Ok, found, mend, privilege: false }
    }

    fn warn(name: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { verdict: Verdict::Warn, mend: mend.into(), ..Self::ok(name, found) }
    }

    fn fail(name: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { verdict: Verdict::Fail, mend: mend.into(), ..Self::ok(name, found) }
    }
}

/// Runs every check and prints the findings. The exit status is 0 if a punch can work, 3 if a
/// privilege is what is missing, 1 otherwise.
///
/// # Errors
/// A failure if standard output cannot be written.
pub fn run(json: bool) -> Result<u8, Failure> {
    let running = Running::all();
    let findings = examine(&running);
    let status = status(&findings);
    let text = if json {
        let document = serde_json::json!({
            "usable": status == Status::Done,
            "findings": findings,
            // Null where they cannot be seen.
            "datapaths": running.ok(),
        });
        format!("{document:#}\n")
    } else {
        text(&findings)
    };
    super::print(text.as_bytes())?;
    Ok(status as u8)
}

fn examine(running: &Result<Vec<Running>, CallFailed>) -> Vec<Finding> {
    let mut findings = vec![
        kernel(inspect::kernel_release()),
        capabilities(),
        file_capabilities(),
        needed("raw socket", inspect::raw_socket()),
        needed("packet socket", inspect::packet_socket()),
        needed("TCP_REPAIR", inspect::tcp_repair()),
        ebpf(Ebpf::available()),
        wanted("real-time scheduling", "the SYN leaves less punctually", inspect::real_time()),
        wanted("locked memory", "a page fault may delay the SYN", inspect::lock_memory()),
        clock(clock::state()),
        loopback(inspect::loopback_up()),
    ];
    findings.extend(datapaths(running));
    let routes = inspect::default_routes();
    findings.push(route(&routes));
    findings.extend(routes.iter().map(|name| stamps(name, inspect::transmit_timestamps(name))));
    findings.push(host_firewall(firewall::inspect()));
    findings
}

fn status(findings: &[Finding]) -> Status {
    let mut failed = findings.iter().filter(|f| f.verdict == Verdict::Fail).peekable();
    if failed.peek().is_none() {
        Status::Done
    } else if failed.any(|finding| finding.privilege) {
        Status::Privilege
    } else {
        Status::Internal
    }
}

fn text(findings: &[Finding]) -> String {
    let mut text = String::new();
    for Finding { name, verdict, found, mend, .. } in findings {
        let verdict = match verdict {
            Verdict::Ok => "ok",
            Verdict::Warn => "warn",
            Verdict::Fail => "FAIL",
        };
        let _ = writeln!(text, "{verdict:<5} {name:<21} {}", super::exit::one_line(found));
        if !mend.is_empty() {
            let _ = writeln!(text, "{:27} -> {}", "", super::exit::one_line(mend));
        }
    }
    text
}

fn kernel(release: nix::Result<String>) -> Finding {
    const NAME: &str = "kernel";
    let (major, minor) = OLDEST_KERNEL;
    let release = match release {
        Ok(release) => release,
        Err(error) => return Finding::warn(NAME, format!("unknown: {error}"), "see uname -r"),
    };
    let mut numbers =
        release.split(|c: char| !c.is_ascii_digit()).map_while(|n| n.parse::<u32>().ok());
    match numbers.next().zip(numbers.next()) {
        Some(version) if version >= OLDEST_KERNEL => Finding::ok(NAME, release),
        Some(_) => Finding::fail(
            NAME,
            format!("{release} is older than {major}.{minor}"),
            format!("boot a kernel of at least {major}.{minor}"),
        ),
        None => Finding::warn(NAME, format!("{release} is no version"), "see uname -r"),
    }
}

fn capabilities() -> Finding {
    const NAME: &str = "capabilities";
    let mend = format!("run it with sudo, or once: {}", capability::setcap_line());
    let held = match (capability::require(), capability::held()) {
        (Ok(()), Ok(held)) => held,
        (Err(error), _) | (_, Err(error)) => {
            return Finding { privilege: true, ..Finding::fail(NAME, error.to_string(), mend) };
        }
    };
    let names: Vec<String> = held.iter().copied().map(capability::name).collect();
    let found = format!("held: {}", names.join(" "));
    if held.len() == NEEDED.len() + WANTED.len() {
        Finding::ok(NAME, found)
    } else {
        Finding::warn(NAME, found, mend)
    }
}

/// Informs only: root needs none.
fn file_capabilities() -> Finding {
    const NAME: &str = "file capabilities";
    let mask = std::env::current_exe()
        .map_err(|error| error.to_string())
        .and_then(|exe| inspect::file_capabilities(&exe).map_err(|error| error.to_string()));
    match mask {
        Err(error) => Finding::ok(NAME, format!("not readable: {error}")),
        Ok(0) => Finding::ok(NAME, "none: the program needs sudo"),
        Ok(mask) => {
            let names: Vec<String> = NEEDED
                .into_iter()
                .chain(WANTED)
                .filter(|capability| mask & capability.bitmask() != 0)
                .map(capability::name)
                .collect();
            Finding::ok(NAME, names.join(" "))
        }
    }
}

fn needed(name: &'static str, probe: nix::Result<()>) -> Finding {
    match probe {
        Ok(()) => Finding::ok(name, "works"),
        Err(error @ (Errno::EPERM | Errno::EACCES)) => Finding {
            privilege: true,
            ..Finding::fail(name, error.desc(), "run tcp-punch with sudo, or see capabilities")
        },
        Err(error) => Finding::fail(
            name,
            error.to_string(),
            "use a Linux kernel with it: a sandbox or emulation may lack it",
        ),
    }
}

/// Packet sockets do where it is not.
fn ebpf(available: Result<(), EbpfError>) -> Finding {
    const NAME: &str = "eBPF";
    match available {
        Ok(()) => Finding::ok(NAME, "can be used: --datapath ebpf, and auto does"),
        Err(error) => Finding::warn(
            NAME,
            format!("{error}: the peer's SYN is answered less quickly"),
            error.advice(),
        ),
    }
}

/// Informs only, as no punch needs another's datapath.
fn datapaths(running: &Result<Vec<Running>, CallFailed>) -> Vec<Finding> {
    const NAME: &str = "eBPF counters";
    match running {
        Ok(running) if running.is_empty() => vec![Finding::ok(NAME, "no datapath runs now")],
        Ok(running) => running.iter().map(|it| Finding::ok(NAME, it.to_string())).collect(),
        Err(error) if error.is_permission() => {
            vec![Finding::ok(
                NAME,
                "the kernel shows those that run to the host's root alone (CAP_SYS_ADMIN)",
            )]
        }
        Err(error) => vec![Finding::ok(NAME, format!("those that run are not seen: {error}"))],
    }
}

fn wanted(name: &'static str, without: &str, probe: nix::Result<()>) -> Finding {
    match probe {
        Ok(()) => Finding::ok(name, "works"),
        Err(error) => Finding::warn(
            name,
            format!("{}: {without}", error.desc()),
            "run tcp-punch with sudo, or see capabilities",
        ),
    }
}

fn clock(state: nix::Result<ClockState>) -> Finding {
    const NAME: &str = "clock";
    const MEND: &str = "sudo timedatectl set-ntp true (or start chronyd or ntpd), on both ends";
    match state {
        Err(error) => Finding::warn(NAME, format!("state unknown: {error}"), MEND),
        Ok(ClockState { synchronised: false, .. }) => {
            Finding::warn(NAME, "nothing synchronises it: the two ends may fire apart", MEND)
        }
        Ok(ClockState { estimated_error, max_error, .. }) => {
            let found = format!(
                "synchronised, estimated error {}, at most {}",
                span::say(estimated_error),
                span::say(max_error)
            );
            if estimated_error > LOOSE {
                Finding::warn(NAME, found, MEND)
            } else {
                Finding::ok(NAME, found)
            }
        }
    }
}

fn loopback(up: bool) -> Finding {
    match up {
        true => Finding::ok("loopback", "up"),
        false => Finding::warn(
            "loopback",
            "down: --connect and --listen cannot reach this host",
            "sudo ip link set lo up",
        ),
    }
}

fn route(names: &[String]) -> Finding {
    match names {
        [] => Finding::warn(
            "default route",
            "none: only peers on directly connected networks can be reached",
            "sudo ip route add default via ROUTER",
        ),
        names => Finding::ok("default route", format!("by {}", names.join(" "))),
    }
}

fn stamps(interface: &str, probe: nix::Result<bool>) -> Finding {
    const NAME: &str = "transmit timestamps";
    match probe {
        Ok(true) => Finding::ok(NAME, format!("{interface} stamps in software")),
        Ok(false) | Err(_) => Finding::warn(
            NAME,
            format!("{interface} gives none: reports cannot tell when the SYN left"),
            "none is needed to punch; another interface or driver may stamp",
        ),
    }
}

fn host_firewall(firewall: Firewall) -> Finding {
    const NAME: &str = "host firewall";
    match firewall {
        Firewall::NoTool => Finding::ok(NAME, "no nft or iptables here"),
        Firewall::Hidden => {
            Finding::warn(NAME, "nft and iptables tell only root", "sudo tcp-punch doctor")
        }
        Firewall::Rules(rules) if rules.is_empty() => Finding::ok(NAME, "drops nothing by policy"),
        Firewall::Rules(rules) => Finding::warn(
            NAME,
            rules.join("; "),
            "let the punch's port pass: sudo iptables -I INPUT -p tcp --dport PORT -j ACCEPT, \
             and OUTPUT with --sport",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels() {
        for (release, verdict) in [
            ("6.18.44-fc-v669", Verdict::Ok),
            ("4.20.0", Verdict::Ok),
            ("4.19.300-lts", Verdict::Fail),
            ("3.10.0-1160.el7", Verdict::Fail),
            ("strange", Verdict::Warn),
        ] {
            assert_eq!(kernel(Ok(release.to_owned())).verdict, verdict, "{release}");
        }
    }

    #[test]
    fn the_status_tells_privilege_from_the_rest() {
        let fine = needed("a", Ok(()));
        let refused = needed("b", Err(Errno::EPERM));
        let absent = needed("c", Err(Errno::ENOPROTOOPT));
        let loose = clock(Err(Errno::ENOSYS));
        assert_eq!(status(&[fine.clone(), loose]), Status::Done);
        assert_eq!(status(&[fine.clone(), absent.clone()]), Status::Internal);
        assert_eq!(status(&[fine, absent, refused]), Status::Privilege);
    }

    #[test]
    fn a_clock_is_judged_by_its_own_account() {
        let state = |synchronised, ms| ClockState {
            synchronised,
            estimated_error: Duration::from_millis(ms),
            max_error: Duration::from_secs(1),
        };
        assert_eq!(clock(Ok(state(true, 1))).verdict, Verdict::Ok);
        assert_eq!(clock(Ok(state(true, 11))).verdict, Verdict::Warn);
        assert_eq!(clock(Ok(state(false, 0))).verdict, Verdict::Warn);
    }

    #[test]
    fn datapaths_that_run_have_a_line_each_and_one_says_that_there_are_none() {
        let found = |running| {
            let findings = datapaths(&running);
            assert!(findings.iter().all(|it| it.verdict == Verdict::Ok), "{findings:?}");
            findings.into_iter().map(|it| it.found).collect::<Vec<_>>()
        };
        assert_eq!(found(Ok(vec![])), ["no datapath runs now"]);
        let one = Running { process: None, interface: None, counts: None };
        assert_eq!(found(Ok(vec![one.clone(), one.clone()])), [one.to_string(), one.to_string()]);
        let refused = |errno| Err(CallFailed { call: "bpf(BPF_MAP_GET_NEXT_ID)", errno });
        assert!(found(refused(Errno::EPERM))[0].contains("CAP_SYS_ADMIN"));
        assert!(found(refused(Errno::ENOSYS))[0].contains("BPF_MAP_GET_NEXT_ID"));
    }

    #[test]
    fn what_is_not_well_names_its_mend() {
        let findings = examine(&Running::all());
        for finding in &findings {
            assert_eq!(finding.verdict == Verdict::Ok, finding.mend.is_empty(), "{finding:?}");
        }
        let lines = text(&findings);
        assert!(lines.lines().all(|l| l.starts_with(['o', 'w', 'F', ' '])), "{lines}");
    }
}
