//! The capabilities that a punch needs: which are held, which are missing, dropping the rest.

use caps::{CapSet, Capability, CapsHashSet, errors::CapsError};
use std::fmt::Write as _;
use std::path::Path;

/// Without these nothing can be sent, caught or installed: raw and packet sockets, TCP_REPAIR.
pub const NEEDED: [Capability; 2] = [Capability::CAP_NET_RAW, Capability::CAP_NET_ADMIN];

/// With these the instant is met better: real-time scheduling and locked memory; and the eBPF
/// datapath can be loaded.
pub const WANTED: [Capability; 3] =
    [Capability::CAP_SYS_NICE, Capability::CAP_IPC_LOCK, LOADING_PROGRAMS];

/// What loading the eBPF datapath takes, and nothing after it: see [`give_up`].
pub const LOADING_PROGRAMS: Capability = Capability::CAP_BPF;

/// What a process that was started as root needs later, to become the user who called sudo and to
/// empty its bounding set; pass it to [`narrow`] then.
pub const CHANGING_USER: [Capability; 3] =
    [Capability::CAP_SETUID, Capability::CAP_SETGID, Capability::CAP_SETPCAP];

/// What the guard needs to bind a port below 1024.
pub const BINDING_LOW_PORTS: Capability = Capability::CAP_NET_BIND_SERVICE;

/// Why the process cannot have the capabilities that it needs.
#[derive(Debug, thiserror::Error)]
pub enum CapabilityError {
    /// Some are not in the permitted set.
    #[error("{} missing", join(.missing))]
    Missing {
        /// Those of [`NEEDED`] that are not held.
        missing: Vec<Capability>,
        /// The command that gives the binary all that it can use; empty if its path is unknown.
        setcap: String,
    },
    /// The kernel would not tell or change the sets.
    #[error("capabilities cannot be {doing}: {source}")]
    System {
        /// `read`, `raised` or `dropped`.
        doing: &'static str,
        /// What capget(2), capset(2) or prctl(2) said.
        source: CapsError,
    },
}

/// Which of [`NEEDED`] and [`WANTED`] this thread may use (its permitted set).
///
/// # Errors
/// [`CapabilityError::System`] if they cannot be read.
pub fn held() -> Result<Vec<Capability>, CapabilityError> {
    let permitted = read(CapSet::Permitted)?;
    Ok(NEEDED.into_iter().chain(WANTED).filter(|c| permitted.contains(c)).collect())
}

/// Makes sure that [`NEEDED`] are held; changes nothing.
///
/// # Errors
/// [`CapabilityError::Missing`] if not.
pub fn require() -> Result<(), CapabilityError> {
    let held = held()?;
    let missing: Vec<_> = NEEDED.into_iter().filter(|c| !held.contains(c)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(CapabilityError::Missing { missing, setcap: setcap_line() })
}

/// Keeps, of all capabilities, [`NEEDED`], [`WANTED`] and `extra` as far as they are held, raises
/// these into the effective set, drops all others, and clears the inheritable and ambient sets so
/// that no child gets any.
///
/// Capabilities belong to threads: call it before any other thread exists. Files that only root
/// may open have to be open by now, since CAP_DAC_OVERRIDE goes too.
///
/// # Errors
/// [`CapabilityError::Missing`] if one of [`NEEDED`] is not held, [`CapabilityError::System`] if
/// the kernel refuses; what was dropped by then stays dropped.
pub fn narrow(extra: &[Capability]) -> Result<(), CapabilityError> {
    require()?;
    let permitted = read(CapSet::Permitted)?;
    let keep: CapsHashSet = NEEDED
        .into_iter()
        .chain(WANTED)
        .chain(extra.iter().copied())
        .filter(|c| permitted.contains(c))
        .collect();
    let system = |doing| move |source| CapabilityError::System { doing, source };
    // Effective before permitted: a set may never hold what its limit no longer holds.
    caps::set(None, CapSet::Effective, &keep).map_err(system("raised"))?;
    caps::set(None, CapSet::Permitted, &keep).map_err(system("dropped"))?;
    caps::clear(None, CapSet::Inheritable).map_err(system("dropped"))?;
    caps::clear(None, CapSet::Ambient).map_err(system("dropped"))
}

/// Drops one capability of this thread, which is needed no more.
///
/// # Errors
/// [`CapabilityError::System`] if the kernel refuses.
pub fn give_up(capability: Capability) -> Result<(), CapabilityError> {
    for set in [CapSet::Effective, CapSet::Permitted] {
        caps::drop(None, set, capability)
            .map_err(|source| CapabilityError::System { doing: "dropped", source })?;
    }
    Ok(())
}

/// The command that gives this very binary all the capabilities it can use; empty if the path of
/// the binary is unknown.
pub fn setcap_line() -> String {
    let Ok(path) = std::env::current_exe() else { return String::new() };
    let list: Vec<String> = NEEDED.into_iter().chain(WANTED).map(name).collect();
    format!("sudo setcap {}=ep {}", list.join(","), quoted(&path))
}

/// The name as setcap(8) and getcap(8) write it.
pub fn name(capability: Capability) -> String {
    capability.to_string().to_lowercase()
}

fn read(set: CapSet) -> Result<CapsHashSet, CapabilityError> {
    caps::read(None, set).map_err(|source| CapabilityError::System { doing: "read", source })
}

fn join(missing: &[Capability]) -> String {
    let mut text = String::new();
    for (i, capability) in missing.iter().enumerate() {
        let _ = write!(text, "{}{capability}", if i == 0 { "" } else { " and " });
    }
    text.push_str(if missing.len() == 1 { " is" } else { " are" });
    text
}

/// The path as a shell takes it back.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-+".contains(&b);
    if text.bytes().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_names_what_is_missing() {
        let error = |missing: &[_]| CapabilityError::Missing {
            missing: missing.to_vec(),
            setcap: String::new(),
        };
        assert_eq!(error(&NEEDED).to_string(), "CAP_NET_RAW and CAP_NET_ADMIN are missing");
        assert_eq!(error(&NEEDED[1..]).to_string(), "CAP_NET_ADMIN is missing");
    }

    #[test]
    fn the_line_names_this_binary() {
        let line = setcap_line();
        let path = std::env::current_exe().unwrap();
        assert_eq!(
            line,
            format!(
                "sudo setcap cap_net_raw,cap_net_admin,cap_sys_nice,cap_ipc_lock,cap_bpf=ep {}",
                quoted(&path)
            )
        );
        assert_eq!(quoted(Path::new("/a b/it's")), r"'/a b/it'\''s'");
    }

    #[test]
    fn what_was_given_up_does_not_come_back_and_the_rest_stays() {
        std::thread::spawn(|| {
            let before = caps::read(None, CapSet::Permitted).unwrap();
            give_up(LOADING_PROGRAMS).unwrap();
            let mut expected = before;
            expected.remove(&LOADING_PROGRAMS);
            assert_eq!(caps::read(None, CapSet::Permitted).unwrap(), expected);
            assert!(caps::raise(None, CapSet::Effective, LOADING_PROGRAMS).is_err());
        })
        .join()
        .unwrap();
    }

    /// On its own thread, since capabilities are per thread. Without privilege the same call is
    /// refused, which is the other half of its contract.
    #[test]
    fn narrowing_leaves_only_what_is_asked() {
        std::thread::spawn(|| {
            let may = require().is_ok();
            let extra = [Capability::CAP_SETUID];
            let before = caps::read(None, CapSet::Permitted).unwrap();
            let narrowed = narrow(&extra);
            assert_eq!(narrowed.is_ok(), may, "{narrowed:?}");
            let after = caps::read(None, CapSet::Permitted).unwrap();
            if may {
                let wide: CapsHashSet = NEEDED.into_iter().chain(WANTED).chain(extra).collect();
                let expected: CapsHashSet = before.intersection(&wide).copied().collect();
                assert_eq!(after, expected);
                assert_eq!(caps::read(None, CapSet::Effective).unwrap(), expected);
                for set in [CapSet::Inheritable, CapSet::Ambient] {
                    assert!(caps::read(None, set).unwrap().is_empty());
                }
            } else {
                assert_eq!(after, before);
            }
        })
        .join()
        .unwrap();
    }
}
