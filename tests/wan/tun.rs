//! A TUN interface in another network namespace.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;

use nix::libc;
use nix::sched::{CloneFlags, setns};

use crate::packet::Packet;

nix::ioctl_write_ptr_bad!(
    tun_set_iff,
    nix::request_code_write!(b'T', 202, size_of::<libc::c_int>()),
    libc::ifreq
);

/// An interface whose packets this process sends and receives.
pub(crate) struct Tun(File);

/// What a read found.
pub(crate) enum Read {
    Packet,
    Empty,
}

impl Tun {
    /// Makes the interface; it goes when the process does.
    pub(crate) fn open(netns: &Path, interface: &str) -> io::Result<Self> {
        let failed = |what: &str, error: io::Error| {
            io::Error::new(error.kind(), format!("{what} {}: {error}", netns.display()))
        };
        // The namespace is a property of the thread; the descriptor keeps it.
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    let namespace = File::open(netns).map_err(|e| failed("open", e))?;
                    setns(namespace, CloneFlags::CLONE_NEWNET)
                        .map_err(|e| failed("setns", e.into()))?;
                    create(interface).map_err(|e| failed("make a TUN interface in", e))
                })
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("the opening thread panicked")))
        })
        .map(Self)
    }

    pub(crate) fn read(&self, packet: &mut Packet) -> io::Result<Read> {
        match (&self.0).read(packet.room_mut()) {
            Ok(len) => {
                packet.set_len(len);
                Ok(Read::Packet)
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(Read::Empty),
            Err(e) => Err(e),
        }
    }

    /// What the interface does not take is lost, as on any wire.
    pub(crate) fn write(&self, bytes: &[u8]) {
        let _ = (&self.0).write(bytes);
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn create(interface: &str) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")?;
    if interface.len() >= libc::IFNAMSIZ {
        return Err(io::Error::other("the interface's name is too long"));
    }
    // SAFETY: ifreq is plain data, and all zeroes is one of its values.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: TUNSETIFF reads one ifreq, which lives for the whole call.
    unsafe { tun_set_iff(file.as_raw_fd(), &raw const request) }?;
    Ok(file)
}
