//! The programs at a device without a link-layer header, hung in, and what leaves by it.

use super::answers::engines_answer;
use super::*;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;

const NAME: &str = "l3";

/// What is written comes in by the device, and what leaves by it is read.
struct Tun(File);

impl Tun {
    fn up() -> Self {
        alone();
        let device = File::options().read(true).write(true).open("/dev/net/tun").unwrap();
        // SAFETY: all zero is a valid ifreq.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(NAME.bytes()) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
        // SAFETY: the request is one of this ioctl's and lives as long as the call.
        let made =
            unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) };
        Errno::result(made).expect("a tun device");
        ip(&format!("link set {NAME} up"));
        Self(device)
    }

    /// The next TCP segment that leaves; the host has things of its own to say.
    fn leaves(&mut self) -> Vec<u8> {
        loop {
            let mut ready = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
            assert_eq!(poll(&mut ready, PollTimeout::from(5_000u16)), Ok(1), "nothing leaves");
            let mut packet = vec![0; 2048];
            let size = self.0.read(&mut packet).unwrap();
            packet.truncate(size);
            if Segment::parse(&packet).is_ok() {
                return packet;
            }
        }
    }
}

#[test]
fn without_a_link_header_the_answer_is_the_same() {
    let mut tun = Tun::up();
    let interface = nix::net::if_::if_nametoindex(NAME).unwrap();
    for ends in [V4, V6] {
        let mut rig = Rig(Ebpf::new(&Watch { interface, ..watch(ends, false) }).unwrap());
        rig.arm(&[IRS], ReplyOn::Tuples(vec![tuple(ends)]));
        let packet = syn(ends).to_packet();
        tun.0.write_all(&packet).unwrap();
        let left = tun.leaves();
        let caught = rig.caught().expect("the engine is told");
        assert_eq!(caught.packet, packet);
        let answer = engines_answer(&packet, Some([IRS; 3]), caught.answered.unwrap());
        assert_eq!(left, answer, "\n{left:02x?}\n{answer:02x?}");
    }
}
