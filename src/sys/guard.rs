//! Keeps our own kernel from answering the peer's segments with resets.

use super::call::{CallFailed, Named, get_option};
use super::filter::Filter;
use nix::errno::Errno;
use nix::libc;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket,
    sockopt,
};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

/// A listening socket on the punch's port whose filter drops everything: the kernel finds a
/// listener, so it sends no reset, and the listener hears nothing. It needs no firewall rule and
/// dies with the process.
#[derive(Debug)]
pub struct Guard {
    socket: OwnedFd,
    port: u16,
}

/// Why the port cannot be guarded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GuardError {
    /// Another program has it.
    #[error("local port {0} is in use by another program")]
    PortInUse(u16),
    /// The address is not one of this host's.
    #[error("{0} is not an address of this host")]
    NotOurs(SocketAddr),
    /// Ports below `net.ipv4.ip_unprivileged_port_start` need CAP_NET_BIND_SERVICE.
    #[error("local port {0} needs CAP_NET_BIND_SERVICE")]
    Privileged(u16),
    /// Fewer ports are free than a search needs.
    #[error("only {free} of the {wanted} local ports needed are free")]
    TooFewFree {
        /// How many were to be guarded.
        wanted: usize,
        /// How many could have been.
        free: usize,
    },
    /// More descriptors than the process may ever have.
    #[error("{wanted} local ports need more descriptors than the limit allows (ulimit -Hn)")]
    DescriptorLimit {
        /// How many were to be guarded.
        wanted: usize,
    },
    /// Anything else.
    #[error(transparent)]
    Call(#[from] CallFailed),
}

impl GuardError {
    /// What `call`, a bind(2) to `local`, says.
    pub(super) fn of_bind(errno: Errno, local: SocketAddr, call: &'static str) -> Self {
        match errno {
            Errno::EADDRINUSE => Self::PortInUse(local.port()),
            Errno::EADDRNOTAVAIL => Self::NotOurs(local),
            Errno::EACCES => Self::Privileged(local.port()),
            errno => Self::Call(CallFailed { call, errno }),
        }
    }
}

impl GuardError {
    /// What to do about it, one line without its full stop.
    pub fn advice(&self) -> String {
        match self {
            Self::PortInUse(port) => format!(
                "see who has it with: ss -tanp 'sport = :{port}', or choose another with --local PORT"
            ),
            Self::NotOurs(_) => {
                "give --local one of this host's addresses (ip address), or a port alone".into()
            }
            Self::Privileged(_) => "choose a port above 1023, or run as root".into(),
            Self::TooFewFree { .. } => {
                "see which programs have so many ports with: ss -tanp".into()
            }
            Self::DescriptorLimit { .. } => {
                "raise the hard limit on open files: ulimit -Hn, or LimitNOFILE= of a service"
                    .into()
            }
            Self::Call(failed) => failed.advice(),
        }
    }
}

impl Guard {
    /// Guards `local`.
    ///
    /// # Errors
    /// [`GuardError`]; nothing stays behind.
    pub fn new(local: SocketAddr) -> Result<Self, GuardError> {
        let family = if local.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
        let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
            .named("socket(guard)")?;
        Filter::nothing().attach(&socket)?;
        // TIME_WAIT of the last punch on this port must not stand in the way of the next.
        setsockopt(&socket, sockopt::ReuseAddr, &true).named("setsockopt(SO_REUSEADDR)")?;
        if local.is_ipv6() {
            setsockopt(&socket, sockopt::Ipv6V6Only, &true).named("setsockopt(IPV6_V6ONLY)")?;
        }
        match bind(socket.as_raw_fd(), &SockaddrStorage::from(local)) {
            Ok(()) => {}
            Err(errno) => return Err(GuardError::of_bind(errno, local, "bind(guard)")),
        }
        match Backlog::new(1).and_then(|backlog| listen(&socket, backlog)) {
            // Two sockets with SO_REUSEADDR may bind one port, but only one may listen.
            Err(Errno::EADDRINUSE) => Err(GuardError::PortInUse(local.port())),
            other => {
                Ok(other.named("listen(guard)").map(|()| Self { socket, port: local.port() })?)
            }
        }
    }

    /// Guards the first `count` of the ports that are free, and says which; a port in use, or one
    /// that would need a privilege, is passed over. Each takes a descriptor: where the limit is
    /// too low, it is raised as far as the process may raise it.
    ///
    /// # Errors
    /// [`GuardError::TooFewFree`], [`GuardError::DescriptorLimit`]; nothing stays behind.
    pub fn several(
        ip: IpAddr,
        ports: impl Iterator<Item = u16>,
        count: usize,
    ) -> Result<(Vec<Self>, Vec<u16>), GuardError> {
        let (mut guards, mut guarded) = (Vec::new(), Vec::new());
        for port in ports {
            if guards.len() == count {
                break;
            }
            let local = SocketAddr::new(ip, port);
            let guard = match Self::new(local) {
                Err(error) if lacks_descriptors(&error) && raise_descriptor_limit() => {
                    Self::new(local)
                }
                other => other,
            };
            match guard {
                Ok(guard) => {
                    guards.push(guard);
                    guarded.push(port);
                }
                Err(GuardError::PortInUse(_) | GuardError::Privileged(_)) => {}
                Err(error) if lacks_descriptors(&error) => {
                    return Err(GuardError::DescriptorLimit { wanted: count });
                }
                Err(error) => return Err(error),
            }
        }
        if guards.len() < count {
            return Err(GuardError::TooFewFree { wanted: count, free: guards.len() });
        }
        Ok((guards, guarded))
    }

    /// The local port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How many segments it has swallowed, each of which would have drawn a reset.
    pub fn swallowed(&self) -> u64 {
        const SK_MEMINFO_DROPS: usize = 8; // linux/sock_diag.h
        let (level, option) = (libc::SOL_SOCKET, libc::SO_MEMINFO);
        get_option::<[u32; 9]>(&self.socket, level, option, "getsockopt(SO_MEMINFO)")
            .map_or(0, |info| info[SK_MEMINFO_DROPS].into())
    }
}

fn lacks_descriptors(error: &GuardError) -> bool {
    matches!(error, GuardError::Call(CallFailed { errno: Errno::EMFILE, .. }))
}

/// Raises the soft limit to the hard one, and says whether that changed anything.
fn raise_descriptor_limit() -> bool {
    getrlimit(Resource::RLIMIT_NOFILE).is_ok_and(|(soft, hard)| {
        soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::net::{Ipv4Addr, TcpListener};

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 77));

    #[test]
    fn a_port_in_use_is_passed_over_and_the_others_are_guarded() {
        let taken = TcpListener::bind((HERE, 0)).unwrap();
        let taken = taken.local_addr().map(|address| (taken, address.port())).unwrap();
        let near =
            (1..).map_while(|step| taken.1.checked_sub(step)).take_while(|port| *port > 1024);
        let (guards, ports) = Guard::several(HERE, [taken.1].into_iter().chain(near), 5).unwrap();
        assert_eq!((guards.len(), ports.len()), (5, 5));
        assert!(!ports.contains(&taken.1));
        assert_eq!(ports.iter().collect::<HashSet<_>>().len(), 5);
        for port in ports {
            assert!(TcpListener::bind((HERE, port)).is_err(), "{port} is not guarded");
        }
    }

    #[test]
    fn too_few_free_ports_are_a_clear_error_and_nothing_stays_behind() {
        let taken = TcpListener::bind((HERE, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let free = TcpListener::bind((HERE, 0)).unwrap();
        let other = free.local_addr().unwrap().port();
        drop(free);
        let error = Guard::several(HERE, [port, other].into_iter(), 2).unwrap_err();
        assert_eq!(error, GuardError::TooFewFree { wanted: 2, free: 1 });
        assert_eq!(error.to_string(), "only 1 of the 2 local ports needed are free");
        TcpListener::bind((HERE, other)).unwrap();
    }

    /// In a process of its own, whose limit is no other test's.
    #[test]
    fn the_descriptor_limit_is_raised_as_far_as_it_may_be() {
        const LIMIT: &str = "GUARD_TEST_LIMIT";
        let several =
            || Guard::several(HERE, 20_000..=u16::MAX, 100).map(|(guards, _)| guards.len());
        match std::env::var(LIMIT).as_deref() {
            Ok("soft") => assert_eq!(several(), Ok(100)),
            Ok(_) => assert_eq!(several(), Err(GuardError::DescriptorLimit { wanted: 100 })),
            Err(_) => {
                for (limit, ulimit) in [("soft", "ulimit -Sn 64"), ("hard", "ulimit -n 64")] {
                    let name =
                        "sys::guard::tests::the_descriptor_limit_is_raised_as_far_as_it_may_be";
                    let output = std::process::Command::new("sh")
                        .args(["-c", &format!("{ulimit} && exec \"$0\" --exact {name}")])
                        .arg(std::env::current_exe().unwrap())
                        .env(LIMIT, limit)
                        .output()
                        .unwrap();
                    let said = String::from_utf8_lossy(&output.stdout);
                    assert!(output.status.success() && said.contains("1 passed"), "{said}");
                }
            }
        }
    }

    #[test]
    fn an_address_that_is_not_ours_is_an_error_at_once() {
        let elsewhere = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1));
        let error = Guard::several(elsewhere, 40_000..=u16::MAX, 3).unwrap_err();
        assert_eq!(error, GuardError::NotOurs(SocketAddr::new(elsewhere, 40_000)));
    }
}
