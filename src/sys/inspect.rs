//! Probes of what this host allows: each tries the very thing that a punch will do, and undoes it.
#![allow(unsafe_code)]

use nix::errno::Errno;
use nix::libc;
use nix::sys::mman::{MlockAllFlags, mlockall, munlockall};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// linux/tcp.h: leaving repair mode without a window probe, since Linux 4.20.
const TCP_REPAIR_OFF_NO_WP: libc::c_int = -1;
/// linux/ethtool.h.
const ETHTOOL_GET_TS_INFO: u32 = 0x41;

/// The running kernel's release, as `6.12.3-arch1`.
///
/// # Errors
/// The error of uname(2).
pub fn kernel_release() -> nix::Result<String> {
    Ok(nix::sys::utsname::uname()?.release().to_string_lossy().into_owned())
}

/// Puts a fresh TCP socket into repair mode and back.
///
/// # Errors
/// EPERM without CAP_NET_ADMIN over the network namespace, ENOPROTOOPT without TCP_REPAIR.
pub fn tcp_repair() -> nix::Result<()> {
    let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    set_repair(&socket, 1)?;
    set_repair(&socket, TCP_REPAIR_OFF_NO_WP)
}

fn set_repair(socket: &OwnedFd, mode: libc::c_int) -> nix::Result<()> {
    // SAFETY: the pointer and length describe `mode`, which lives across the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_REPAIR,
            (&raw const mode).cast(),
            size_of_val(&mode) as libc::socklen_t,
        )
    };
    Errno::result(result).map(drop)
}

/// Opens a packet socket that captures nothing.
///
/// # Errors
/// EPERM without CAP_NET_RAW, EAFNOSUPPORT in a kernel without packet sockets.
pub fn packet_socket() -> nix::Result<()> {
    // Protocol 0 receives nothing until it is bound.
    socket(AddressFamily::Packet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).map(drop)
}

/// Opens a raw IP socket.
///
/// # Errors
/// EPERM without CAP_NET_RAW.
pub fn raw_socket() -> nix::Result<()> {
    let raw = SockProtocol::Raw;
    socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, raw).map(drop)
}

/// Whether a thread may run under SCHED_FIFO; tried on a thread of its own.
///
/// # Errors
/// EPERM without CAP_SYS_NICE and without RLIMIT_RTPRIO.
pub fn real_time() -> nix::Result<()> {
    let probe = std::thread::Builder::new().spawn(|| {
        let priority = libc::sched_param { sched_priority: 1 };
        // SAFETY: pid 0 is the calling thread; the pointer is to a live sched_param.
        let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const priority) };
        Errno::result(result).map(drop)
    });
    match probe.map(std::thread::JoinHandle::join) {
        Ok(Ok(result)) => result,
        _ => Err(Errno::EAGAIN),
    }
}

/// Locks this process's memory and unlocks it.
///
/// # Errors
/// EPERM or ENOMEM without CAP_IPC_LOCK and with a low RLIMIT_MEMLOCK.
pub fn lock_memory() -> nix::Result<()> {
    mlockall(MlockAllFlags::MCL_CURRENT)?;
    munlockall()
}

/// Whether the loopback interface of this network namespace is up.
pub fn loopback_up() -> bool {
    pnet::datalink::interfaces().iter().any(|i| i.is_loopback() && i.is_up())
}

/// Names of the interfaces with a default route of either IP version, without repetition.
pub fn default_routes() -> Vec<String> {
    let v4 = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    let v6 = std::fs::read_to_string("/proc/net/ipv6_route").unwrap_or_default();
    let mut names = default_v4(&v4);
    names.extend(default_v6(&v6));
    names.sort();
    names.dedup();
    names
}

/// Columns: interface, destination, gateway, flags, …, mask.
fn default_v4(table: &str) -> Vec<String> {
    let rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row.get(1) == Some(&"00000000") && row.get(7) == Some(&"00000000"))
        .filter_map(|row| row.first().map(|name| (*name).to_owned()))
        .collect()
}

/// Columns: destination, prefix length, …, flags, interface. The kernel's own reject route at the
/// table's end is on lo.
fn default_v6(table: &str) -> Vec<String> {
    let zero = "0".repeat(32);
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row.first() == Some(&zero.as_str()) && row.get(1) == Some(&"00"))
        .filter_map(|row| row.get(9).map(|name| (*name).to_owned()))
        .filter(|name| name != "lo")
        .collect()
}

/// Whether the driver of `interface` stamps packets in software when it sends them.
///
/// # Errors
/// The error of the SIOCETHTOOL ioctl; EOPNOTSUPP means that nothing is stamped.
pub fn transmit_timestamps(interface: &str) -> nix::Result<bool> {
    // struct ethtool_ts_info: cmd, so_timestamping, phc_index, tx_types, 3 reserved, rx_filters,
    // 3 reserved.
    let mut info = [0u32; 11];
    info[0] = ETHTOOL_GET_TS_INFO;
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    if interface.len() >= libc::IFNAMSIZ {
        return Err(Errno::ENODEV);
    }
    // SAFETY: ifreq is a C struct for which zero is valid; its name stays terminated, being
    // shorter than the field; the kernel writes at most one ethtool_ts_info to `info`, which is as
    // large and lives across the call.
    let result = unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_data = info.as_mut_ptr().cast();
        libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request)
    };
    Errno::result(result)?;
    Ok(info[1] & libc::SOF_TIMESTAMPING_TX_SOFTWARE != 0)
}

/// The permitted capabilities that the file at `path` gives, as a bit mask; 0 if none.
///
/// # Errors
/// The error of getxattr(2); EOPNOTSUPP on file systems that hold no capabilities.
pub fn file_capabilities(path: &Path) -> nix::Result<u64> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)?;
    let mut value = [0u8; 64];
    // SAFETY: both strings are terminated, and the length is that of the buffer.
    let length = unsafe {
        libc::getxattr(
            path.as_ptr(),
            c"security.capability".as_ptr(),
            value.as_mut_ptr().cast(),
            value.len(),
        )
    };
    match Errno::result(length) {
        Err(Errno::ENODATA) => Ok(0),
        Err(error) => Err(error),
        Ok(length) => Ok(permitted(value.get(..length.unsigned_abs()).unwrap_or_default())),
    }
}

/// struct vfs_cap_data, little-endian: magic, then (permitted, inheritable) for either half.
fn permitted(value: &[u8]) -> u64 {
    let word = |i: usize| {
        let bytes = value.get(4 * i..4 * i + 4).and_then(|b| b.try_into().ok());
        u64::from(bytes.map_or(0, u32::from_le_bytes))
    };
    word(1) | word(3) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_routes_are_found_in_either_table() {
        let v4 = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
                  eth0\t00000000\t0100A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                  eth1\t0000A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        assert_eq!(default_v4(v4), ["eth0"]);
        let zero = "0".repeat(32);
        let row = |to: &str, name: &str| {
            format!("{to} 00 {zero} 00 {zero} 00000400 00000001 00000000 00000003 {name}\n")
        };
        assert_eq!(default_v6(&(row(&zero, "wlan0") + &row(&zero, "lo"))), ["wlan0"]);
        assert!(default_v6("").is_empty() && default_v4("").is_empty());
    }

    #[test]
    fn file_capabilities_are_read_from_their_bytes() {
        // setcap cap_net_raw,cap_net_admin=ep: version 2, effective.
        let value = [1, 0, 0, 2, 0, 0x30, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(permitted(&value), 1 << 12 | 1 << 13);
        assert_eq!(permitted(&[]), 0);
        let exe = std::env::current_exe().unwrap();
        assert!(matches!(file_capabilities(&exe), Ok(0) | Err(Errno::EOPNOTSUPP)));
    }

    #[test]
    fn probes_answer_without_privilege() {
        assert!(kernel_release().unwrap().contains('.'));
        for probe in [tcp_repair, packet_socket, raw_socket, real_time, lock_memory] {
            let _ = probe();
        }
        assert_eq!(transmit_timestamps("nosuch0"), Err(Errno::ENODEV));
        assert_eq!(transmit_timestamps(&"x".repeat(40)), Err(Errno::ENODEV));
    }
}
