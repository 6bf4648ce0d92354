//! The link-layer header towards the peer, learnt from the kernel.
#![allow(unsafe_code)]

use super::aside::Aside;
use super::call::{CallFailed, Named, bind_packet};
use super::filter::Filter;
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// Packet sockets: one overhears one packet of ours on its way out, and the other then sends frames
/// with the same Ethernet header. The kernel itself has chosen the next hop and asked for its address, and
/// a frame that holds exactly the packet we sent shows that nothing of this host's alters packets.
#[derive(Debug)]
pub(super) struct Link {
    /// Bound to no protocol: the kernel shows it nothing.
    sender: OwnedFd,
    /// Closed once the header is known: while it listens, every packet takes 4 % longer.
    listener: Option<(OwnedFd, Aside)>,
    state: State,
}

#[derive(Debug)]
enum State {
    Fresh,
    /// This packet is on its way; so many looks are left.
    Asked {
        packet: Vec<u8>,
        looks: u32,
    },
    Learnt([u8; HEADER]),
    GivenUp,
}

/// Length of an Ethernet header.
const HEADER: usize = 14;
/// A neighbour on the same network answers within a few milliseconds, and the kernel drops what is
/// sent meanwhile but for a few packets (neigh unres_qlen_bytes).
const PATIENCE: Duration = Duration::from_millis(10);
/// Later looks cost a system call each.
const LOOKS: u32 = 64;

impl Link {
    /// Nothing is known yet of the way over the interface with this index.
    pub(super) fn unknown(interface: u32, peer: IpAddr) -> Result<Self, CallFailed> {
        let (sender, listener) = (packet_socket()?, packet_socket()?);
        bind_packet(&sender, interface, 0)?;
        Filter::departing(peer).attach(&listener)?;
        bind_packet(&listener, interface, libc::ETH_P_ALL as u16)?;
        Ok(Self { sender, listener: Some((listener, Aside::new())), state: State::Fresh })
    }

    /// Whether a packet is wanted, to learn from.
    pub(super) fn is_fresh(&self) -> bool {
        matches!(self.state, State::Fresh)
    }

    /// Waits a little for the frame of this packet, which has just been sent alone.
    pub(super) fn learn_from(&mut self, packet: Vec<u8>) {
        self.state = State::Asked { packet, looks: LOOKS };
        let until = Instant::now() + PATIENCE;
        while self.learnt().is_none() {
            let Some((listener, _)) = &self.listener else { return };
            let left = until.saturating_duration_since(Instant::now());
            let mut ready = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
            if left.is_zero() || poll(&mut ready, timeout) == Ok(0) {
                break;
            }
        }
    }

    /// The header, if it is known by now.
    pub(super) fn learnt(&mut self) -> Option<[u8; HEADER]> {
        while let (State::Asked { packet, looks }, Some((listener, _))) =
            (&mut self.state, &self.listener)
        {
            let mut frame = vec![0; HEADER + packet.len()];
            // SAFETY: the buffer is as long as said; MSG_TRUNC tells of what did not fit.
            let result = unsafe {
                libc::recv(
                    listener.as_raw_fd(),
                    frame.as_mut_ptr().cast(),
                    frame.len(),
                    libc::MSG_TRUNC,
                )
            };
            *looks = looks.saturating_sub(1);
            let seen = usize::try_from(result).ok().and_then(|length| frame.get(..length));
            match seen.and_then(|frame| frame.strip_suffix(packet.as_slice())) {
                Some(header) => {
                    self.state = header.try_into().map_or(State::GivenUp, State::Learnt);
                }
                None if *looks == 0 => self.state = State::GivenUp,
                None if result < 0 => return None,
                None => continue,
            }
            // The kernel takes ten milliseconds to close a packet socket, which the spray has not.
            if let Some((listener, aside)) = self.listener.take() {
                aside.close(listener);
            }
        }
        self.header()
    }

    /// The header, if it is known already.
    pub(super) fn header(&self) -> Option<[u8; HEADER]> {
        match self.state {
            State::Learnt(header) => Some(header),
            _ => None,
        }
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.sender.as_fd()
    }
}

fn packet_socket() -> Result<OwnedFd, CallFailed> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: plain system call; protocol 0 receives nothing until bind.
    let fd = Errno::result(unsafe { libc::socket(libc::AF_PACKET, kind, 0) });
    let fd = fd.named("socket(AF_PACKET)")?;
    // SAFETY: a descriptor that was just made and that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
