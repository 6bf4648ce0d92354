//! Questions to the kernel by netlink(7). Nothing here allocates, so that a process may ask right
//! after fork(2).

use super::call::{CallFailed, Named};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

/// Lengths of a message's header and of an attribute's (linux/netlink.h).
const HEADER: usize = 16;
const ATTRIBUTE: usize = 4;
/// The longest question: the header, and sock_diag(7)'s description of a connection.
const QUESTION: usize = HEADER + 56;
/// The kernel gives no more at a time to whoever lists something.
const ANSWER: usize = 32_768;

/// A socket for questions to this part of the kernel, of the network namespace of the caller.
///
/// # Errors
/// The kernel's, in a sandbox without AF_NETLINK for instance.
pub(super) fn open(protocol: SockProtocol) -> Result<OwnedFd, CallFailed> {
    let (family, flags) = (AddressFamily::Netlink, SockFlag::SOCK_CLOEXEC);
    let socket = socket(family, SockType::Raw, flags, protocol).named("socket(AF_NETLINK)")?;
    // The kernel answers before sendto(2) returns; this is for one that would not.
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(1))
        .named("setsockopt(SO_RCVTIMEO)")?;
    Ok(socket)
}

/// Asks for one thing, or has it done: `each` learns kind and body of whatever comes in answer.
///
/// # Errors
/// What the kernel answers if it refuses.
pub(super) fn ask(
    socket: BorrowedFd<'_>,
    kind: u16,
    body: &[u8],
    each: impl FnMut(u16, &[u8]),
) -> nix::Result<()> {
    exchange(socket, kind, libc::NLM_F_ACK, body, each)
}

/// Asks for all there is of a kind.
///
/// # Errors
/// As of [`ask`].
pub(super) fn list(
    socket: BorrowedFd<'_>,
    kind: u16,
    body: &[u8],
    each: impl FnMut(u16, &[u8]),
) -> nix::Result<()> {
    exchange(socket, kind, libc::NLM_F_DUMP, body, each)
}

fn exchange(
    socket: BorrowedFd<'_>,
    kind: u16,
    flags: libc::c_int,
    body: &[u8],
    mut each: impl FnMut(u16, &[u8]),
) -> nix::Result<()> {
    let length = HEADER + body.len();
    let mut question = [0; QUESTION];
    question[..4].copy_from_slice(&(length as u32).to_ne_bytes());
    question[4..6].copy_from_slice(&kind.to_ne_bytes());
    question[6..8].copy_from_slice(&((libc::NLM_F_REQUEST | flags) as u16).to_ne_bytes());
    // Sequence and port may stay zero.
    question[HEADER..length].copy_from_slice(body);
    let kernel = NetlinkAddr::new(0, 0);
    sendto(socket.as_raw_fd(), &question[..length], &kernel, MsgFlags::empty())?;
    let mut answer = [0; ANSWER];
    loop {
        let length = match recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty()) {
            Err(Errno::EINTR) => continue,
            other => other?,
        };
        if let Some(end) = read(answer.get(..length).unwrap_or(&answer), &mut each) {
            return end;
        }
    }
}

/// The messages of one datagram. `None` if more are to come.
fn read(mut messages: &[u8], each: &mut impl FnMut(u16, &[u8])) -> Option<nix::Result<()>> {
    while let Some((length, kind)) = head(messages) {
        let body = messages.get(HEADER..length).unwrap_or_default();
        match libc::c_int::from(kind) {
            libc::NLMSG_DONE => return Some(Ok(())),
            // The negative error number, or zero: that is how a question ends that lists nothing.
            libc::NLMSG_ERROR => {
                let number = body.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
                let refused = number != 0;
                let errno = Errno::from_raw(number.saturating_neg());
                return Some(if refused { Err(errno) } else { Ok(()) });
            }
            _ => each(kind, body),
        }
        messages = messages.get(length.max(HEADER).next_multiple_of(4)..).unwrap_or_default();
    }
    None
}

fn head(message: &[u8]) -> Option<(usize, u16)> {
    let [a, b, c, d, e, f] = *message.first_chunk()?;
    Some((u32::from_ne_bytes([a, b, c, d]) as usize, u16::from_ne_bytes([e, f])))
}

/// Kind and value of each attribute; nonsense ends them.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let [len_0, len_1, kind_0, kind_1] = *bytes.first_chunk()?;
        let length = usize::from(u16::from_ne_bytes([len_0, len_1]));
        let value = bytes.get(ATTRIBUTE..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([kind_0, kind_1]), value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let length = ((HEADER + body.len()) as u32).to_ne_bytes();
        let mut message = [&length[..], &kind.to_ne_bytes(), &[0; 10], body].concat();
        message.resize(message.len().next_multiple_of(4), 0);
        message
    }

    type Message = (u16, Vec<u8>);

    fn heard(datagram: &[u8]) -> (Vec<Message>, Option<nix::Result<()>>) {
        let mut heard = Vec::new();
        let end = read(datagram, &mut |kind, body| heard.push((kind, body.to_vec())));
        (heard, end)
    }

    #[test]
    fn messages_of_a_datagram_are_told_apart_until_the_last() {
        let [first, second] = [message(20, b"abcde"), message(21, b"")];
        let told = vec![(20, b"abcde".to_vec()), (21, vec![])];
        assert_eq!(heard(&[&first[..], &second].concat()), (told.clone(), None));
        let done = message(libc::NLMSG_DONE as u16, &[0; 4]);
        let after = [&first[..], &second, &done, &first].concat();
        assert_eq!(heard(&after), (told, Some(Ok(()))));
    }

    #[test]
    fn an_acknowledgment_is_no_refusal() {
        let error = |number: i32| message(libc::NLMSG_ERROR as u16, &number.to_ne_bytes());
        assert_eq!(heard(&error(0)).1, Some(Ok(())));
        assert_eq!(heard(&error(-libc::ENOENT)).1, Some(Err(Errno::ENOENT)));
    }

    #[test]
    fn nonsense_ends_the_reading() {
        assert_eq!(heard(&[]), (vec![], None));
        assert_eq!(heard(&[255; 64]).1, None);
        assert!(heard(&[0; 64]).0.iter().all(|(_, body)| body.is_empty()));
        assert_eq!(attributes(&[0; 64]).count(), 0);
        assert_eq!(attributes(&[255; 64]).count(), 0);
    }

    #[test]
    fn attributes_are_padded_to_four_bytes() {
        let bytes = [9, 0, 15, 0, 1, 2, 3, 4, 5, 0, 0, 0, 6, 0, 5, 0, 7, 8];
        let told: Vec<_> = attributes(&bytes).collect();
        assert_eq!(told, [(15, &[1, 2, 3, 4, 5][..]), (5, &[7, 8])]);
        assert_eq!(attributes(&bytes[..17]).count(), 1, "cut off");
    }

    #[test]
    fn the_kernel_refuses_what_it_does_not_know() {
        let socket = open(SockProtocol::NetlinkRoute).unwrap();
        let refused = ask(socket.as_fd(), 9999, &[0; 4], |_, _| {});
        assert!(refused.is_err(), "{refused:?}");
    }
}
