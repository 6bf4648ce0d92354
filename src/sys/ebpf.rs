//! The eBPF datapath: two programs at an interface take the segments of a punch before this host's
//! firewall and TCP see them, answer the peer's SYN in the kernel, and let no reset leave.
//!
//! The programs are in `ebpf/`; `docs/EBPF.md` says what they do.
#![allow(unsafe_code)]

mod abi;
mod counts;
mod error;
mod hook;
mod keeper;
mod netlink;
mod running;
mod support;

pub use counts::Counts;
pub use error::EbpfError;
pub use hook::Hook;
pub use running::{Interface, Process, Running};

use super::call::{CallFailed, Named};
use super::capability::{self, CapabilityError};
use super::capture::{Captured, Checksum};
use crate::punch::Offer;
use crate::wire::{Segment, Seq, Tuple, WallTime};
use abi::{Ends, Event, ExactTuple, Rule};
use aya::EbpfLoader;
use aya::maps::{Array, HashMap, MapData, MapError, PerCpuArray, RingBuf};
use nix::errno::Errno;
use nix::libc;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::time::{ClockId, clock_gettime};
use std::fmt;
use std::fs;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

/// What the build compiled; empty where it could not.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/datapath.o"));
/// Why it could not.
const MISSING: &str = env!("EBPF_MISSING");

/// Room for a window of segments that all come at once.
const RING: u32 = 1 << 20;
/// Room for 120,000 SYNs that all come at once.
const SEARCH_RING: u32 = 16 << 20;
/// How long the distance of the two clocks is taken for the same, nanoseconds: the wall clock may
/// be set at any time.
const CLOCKS_AGREE_NS: u64 = 10_000_000;

/// The programs at one interface, and what they have caught. They go when this is dropped, and when
/// the process ends, kill -9 included.
pub struct Ebpf {
    // Before the keeper, which removes what they could not.
    programs: aya::Ebpf,
    keeper: Option<keeper::Keeper>,
    hook: Option<Hook>,
    /// Where they hang.
    interface: u32,
    rules: HashMap<MapData, Ends, Rule>,
    tuples: HashMap<MapData, ExactTuple, u32>,
    reply: Array<MapData, abi::Reply>,
    strangers: Array<MapData, u64>,
    counts: PerCpuArray<MapData, u64>,
    ring: RingBuf<MapData>,
    ends: Ends,
    rule: Box<Rule>,
    search: bool,
    /// Tuples on which a SYN may be answered.
    answering: Vec<ExactTuple>,
    buffer: Vec<u8>,
    /// What is to be added to the kernel's clock, and until when on that clock it holds.
    wall_offset_ns: i64,
    offset_holds_ns: u64,
}

/// An interface.
struct Link {
    name: String,
    /// Bytes before the IP header.
    header: u32,
}

impl Link {
    fn of(interface: u32) -> Result<Self, EbpfError> {
        let name = hook::name(interface)?;
        let header = link_header(&name).map_err(|failed| match failed.errno {
            Errno::ENODEV => EbpfError::NoInterface(interface),
            _ => EbpfError::Call(failed),
        })?;
        Ok(Self { name, header })
    }
}

/// What is to be caught, and where.
#[derive(Clone, Debug)]
pub struct Watch {
    /// Index of the interface.
    pub interface: u32,
    /// Our address.
    pub local: IpAddr,
    /// The peer's address, as we reach it.
    pub peer: IpAddr,
    /// Our ports.
    pub locals: Vec<u16>,
    /// The peer's: everything from one of them to one of ours is the attempt's. What comes from
    /// another is shown, and left to the host.
    pub remotes: Vec<u16>,
    /// A search of many tuples, which wants no resets, and no ICMP but what answers echo requests.
    pub search: bool,
}

/// How the peer's SYN is answered in the kernel: with the SYN-ACK of a
/// [`crate::punch::Handshake`] made of the same.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Where we start.
    pub iss: Seq,
    /// Where the peer may start; anywhere if empty, and there is no key.
    pub expected_irs: Vec<Seq>,
    /// What we offer.
    pub offer: Offer,
    /// On which tuples.
    pub on: ReplyOn,
}

/// The tuples on which SYNs are answered.
#[derive(Clone, Debug)]
pub enum ReplyOn {
    /// These.
    Tuples(Vec<Tuple>),
    /// Every pair of the watch's local and remote ports.
    All,
}

impl Ebpf {
    /// Whether this host and build have the datapath, as far as can be told without loading it.
    ///
    /// # Errors
    /// [`EbpfError`] says why not.
    pub fn available() -> Result<(), EbpfError> {
        support::check(MISSING)
    }

    /// Drops CAP_BPF of this thread, which nothing needs once [`Ebpf::new`] is through. Before Linux
    /// 5.19 it stays: maps still need it where `kernel.unprivileged_bpf_disabled` is set.
    ///
    /// # Errors
    /// [`CapabilityError`] if the kernel refuses.
    pub fn give_up_capability() -> Result<(), CapabilityError> {
        if support::maps_need_no_capability() {
            capability::give_up(capability::LOADING_PROGRAMS)?;
        }
        Ok(())
    }

    /// Loads the programs and hangs them in.
    ///
    /// # Errors
    /// [`EbpfError`]; nothing stays behind.
    pub fn new(watch: &Watch) -> Result<Self, EbpfError> {
        Self::at(watch, None)
    }

    /// Likewise, by this hook and no other.
    ///
    /// # Errors
    /// [`EbpfError`]; nothing stays behind.
    pub fn hooked(watch: &Watch, hook: Hook) -> Result<Self, EbpfError> {
        Self::at(watch, Some(hook))
    }

    /// Loads the programs and hangs them in, and catches nothing yet: that takes the kernel tens of
    /// milliseconds, which there may be before it is known what is to be caught.
    ///
    /// # Errors
    /// [`EbpfError`]; nothing stays behind.
    pub fn ahead(interface: u32) -> Result<Self, EbpfError> {
        let link = Link::of(interface)?;
        Self::loaded(link.header, RING)?.attach(interface, &link, None)
    }

    /// Catches this from now on, if it was made [`Ebpf::ahead`] for that; else as [`Ebpf::new`].
    ///
    /// # Errors
    /// [`EbpfError`]; nothing stays behind.
    pub fn watching(mut self, watch: &Watch) -> Result<Self, EbpfError> {
        if watch.search || self.interface != watch.interface {
            return Self::new(watch);
        }
        self.watch(watch)?;
        Ok(self)
    }

    fn at(watch: &Watch, wanted: Option<Hook>) -> Result<Self, EbpfError> {
        let link = Link::of(watch.interface)?;
        Self::load(watch, link.header)?.attach(watch.interface, &link, wanted)
    }

    fn attach(
        mut self,
        interface: u32,
        link: &Link,
        wanted: Option<Hook>,
    ) -> Result<Self, EbpfError> {
        let (hook, keeper) = Hook::attach(&mut self.programs, interface, wanted)?;
        tracing::debug!(interface = link.name, ?hook, "eBPF datapath");
        (self.hook, self.keeper, self.interface) = (Some(hook), keeper, interface);
        Ok(self)
    }

    /// Loads the programs and fills their maps.
    fn load(watch: &Watch, link_header: u32) -> Result<Self, EbpfError> {
        let ring = if watch.search { SEARCH_RING } else { RING };
        let mut ebpf = Self::loaded(link_header, ring)?;
        ebpf.watch(watch)?;
        Ok(ebpf)
    }

    fn loaded(link_header: u32, ring: u32) -> Result<Self, EbpfError> {
        Self::available()?;
        raise_memory_limit();
        let mut programs = EbpfLoader::new()
            .override_global("link_header", &link_header, true)
            .map_max_entries("events", ring)
            .load(OBJECT)?;
        for name in ["ingress", "egress"] {
            hook::program(&mut programs, name)?.load()?;
        }
        let mut map = |name: &str| {
            let missing = || EbpfError::Object(format!("it has no map {name}"));
            programs.take_map(name).ok_or_else(missing)
        };
        let nobody = abi::mapped(std::net::Ipv4Addr::UNSPECIFIED.into());
        let no_ports = abi::port_set(&[]);
        Ok(Self {
            rules: map("rules")?.try_into()?,
            tuples: map("tuples")?.try_into()?,
            reply: map("reply")?.try_into()?,
            strangers: map("strangers")?.try_into()?,
            counts: map(counts::MAP)?.try_into()?,
            ring: map("events")?.try_into()?,
            programs,
            keeper: None,
            hook: None,
            interface: 0,
            ends: Ends { local: nobody, peer: nobody },
            rule: Box::new(Rule { flags: 0, locals: no_ports, remotes: no_ports }),
            search: false,
            answering: Vec::new(),
            buffer: Vec::new(),
            wall_offset_ns: 0,
            offset_holds_ns: 0,
        })
    }

    fn watch(&mut self, watch: &Watch) -> Result<(), EbpfError> {
        let wanted =
            if watch.search { Rule::PROBES } else { Rule::RESETS | Rule::PROBES | Rule::ERRORS };
        self.search = watch.search;
        self.ends = Ends { local: abi::mapped(watch.local), peer: abi::mapped(watch.peer) };
        *self.rule = Rule {
            flags: wanted,
            locals: abi::port_set(&watch.locals),
            remotes: abi::port_set(&watch.remotes),
        };
        self.look_for_tracking();
        Ok(self.write_rule()?)
    }

    /// By what it is hung in.
    pub fn hook(&self) -> Option<Hook> {
        self.hook
    }

    /// The next packet, if one has come in.
    ///
    /// # Errors
    /// None so far.
    pub fn receive(&mut self) -> Result<Option<Captured<'_>>, CallFailed> {
        let event = loop {
            let Some(item) = self.ring.next() else { return Ok(None) };
            // What the programs could not read is empty.
            if let Some((event, packet)) = Event::read(&item).filter(|(_, p)| !p.is_empty()) {
                self.buffer.clear();
                self.buffer.extend_from_slice(packet);
                break event;
            }
        };
        if event.at_ns >= self.offset_holds_ns {
            self.wall_offset_ns = wall_offset_ns();
            self.offset_holds_ns = event.at_ns + CLOCKS_AGREE_NS;
        }
        let at_ns = (event.at_ns as i64).saturating_add(self.wall_offset_ns);
        let has = |flag| event.flags & flag != 0;
        let settled =
            has(Event::CHECKSUM_SETTLED) || Segment::has_unfinished_checksum(&self.buffer);
        Ok(Some(Captured {
            packet: &self.buffer,
            at: WallTime::from_unix_ns(at_ns),
            checksum: if settled { Checksum::Settled } else { Checksum::Unchecked },
            stolen: has(Event::STOLEN),
            answered: has(Event::ANSWERED).then_some(event.reply_tsval),
        }))
    }

    /// From now on the peer's SYN is answered in the kernel: one that is as expected, on one of
    /// these tuples, with the usual options, while no more than a few strangers have been heard.
    /// Everything else, and every SYN where this host's own connection tracking is active and would
    /// lose the connection, is left to the caller. So call it once the first segment has left.
    ///
    /// # Errors
    /// The kernel's; E2BIG for more numbers than eight.
    pub fn arm(&mut self, reply: &Reply) -> Result<(), CallFailed> {
        if reply.expected_irs.len() > abi::MOST_EXPECTED {
            return Err(CallFailed { call: "arm(expected numbers)", errno: Errno::E2BIG });
        }
        self.disarm()?;
        if self.look_for_tracking() {
            self.write_rule()?;
        }
        let everywhere = match &reply.on {
            ReplyOn::All => true,
            ReplyOn::Tuples(tuples) => {
                for tuple in tuples {
                    let exact = self.exact(*tuple);
                    self.mark(exact, ExactTuple::ANSWER)?;
                    self.answering.push(exact);
                }
                false
            }
        };
        let first = reply.expected_irs.first().map_or(0, |number| number.0);
        let mut expected = [first; abi::MOST_EXPECTED];
        for (slot, Seq(number)) in expected.iter_mut().zip(&reply.expected_irs) {
            *slot = *number;
        }
        let mut how = abi::Reply {
            wall_offset_ns: wall_offset_ns(),
            armed: 0,
            iss: reply.iss.0,
            expected,
            expected_count: reply.expected_irs.len() as u32,
            everywhere: everywhere.into(),
            window: reply.offer.window,
            mss: reply.offer.mss,
            window_scale: reply.offer.window_scale,
            mark: reply.offer.mark,
            unused: 0,
        };
        self.strangers.set(0, 0, 0).named("bpf(BPF_MAP_UPDATE_ELEM, strangers)")?;
        // In two steps: the programs may look in between, and nothing of it is half true then.
        self.set_reply(how)?;
        how.armed = 1;
        self.set_reply(how)
    }

    /// From now on every SYN is left to the caller.
    ///
    /// # Errors
    /// The kernel's.
    pub fn disarm(&mut self) -> Result<(), CallFailed> {
        let how = self.reply.get(&0, 0).named("bpf(BPF_MAP_LOOKUP_ELEM, reply)")?;
        if how.armed != 0 {
            self.set_reply(abi::Reply { armed: 0, ..how })?;
        }
        for exact in std::mem::take(&mut self.answering) {
            let flags = self.flags(exact)? & !ExactTuple::ANSWER;
            self.set_flags(exact, flags)?;
        }
        Ok(())
    }

    /// A socket is installed for this tuple: its segments still come in here, but go on to the
    /// socket. Resets do not.
    ///
    /// # Errors
    /// The kernel's.
    pub fn let_in(&mut self, tuple: Tuple) -> Result<(), CallFailed> {
        let exact = self.exact(tuple);
        self.mark(exact, ExactTuple::LET_IN)
    }

    /// The connection of this tuple is handed over: nothing of it is touched any more, and resets
    /// may leave.
    ///
    /// # Errors
    /// The kernel's.
    pub fn release(&mut self, tuple: Tuple) -> Result<(), CallFailed> {
        let exact = self.exact(tuple);
        self.mark(exact, ExactTuple::RELEASED)
    }

    /// Ends what [`Ebpf::let_in`] began: the socket of this tuple is gone.
    ///
    /// # Errors
    /// The kernel's.
    pub fn keep_out(&mut self, tuple: Tuple) -> Result<(), CallFailed> {
        let exact = self.exact(tuple);
        let flags = self.flags(exact)? & !ExactTuple::LET_IN;
        self.set_flags(exact, flags)
    }

    /// No more ICMP in a search.
    pub fn stop_probes(&mut self) {
        if self.search {
            self.rule.flags &= !(Rule::PROBES | Rule::ERRORS);
            if let Err(error) = self.write_rule() {
                tracing::debug!("{error}");
            }
        }
    }

    /// What the programs have done so far.
    pub fn counts(&self) -> Counts {
        Counts::of(&self.counts)
    }

    /// Whether this host's connection tracking has been found active just now.
    fn look_for_tracking(&mut self) -> bool {
        let count = fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count");
        let active = count.is_ok_and(|count| count.trim().parse::<u64>().is_ok_and(|n| n > 0));
        let new = active && self.rule.flags & Rule::HOST_TRACKS == 0;
        if new {
            self.rule.flags |= Rule::HOST_TRACKS;
        }
        new
    }

    fn write_rule(&mut self) -> Result<(), CallFailed> {
        self.rules.insert(self.ends, *self.rule, 0).named("bpf(BPF_MAP_UPDATE_ELEM, rules)")
    }

    fn set_reply(&mut self, how: abi::Reply) -> Result<(), CallFailed> {
        self.reply.set(0, how, 0).named("bpf(BPF_MAP_UPDATE_ELEM, reply)")
    }

    fn exact(&self, tuple: Tuple) -> ExactTuple {
        ExactTuple {
            ends: Ends {
                local: abi::mapped(tuple.local.ip()),
                peer: abi::mapped(tuple.remote.ip()),
            },
            local_port: tuple.local.port(),
            peer_port: tuple.remote.port(),
        }
    }

    fn mark(&mut self, exact: ExactTuple, flag: u32) -> Result<(), CallFailed> {
        let flags = self.flags(exact)? | flag;
        self.set_flags(exact, flags)
    }

    fn flags(&self, exact: ExactTuple) -> Result<u32, CallFailed> {
        match self.tuples.get(&exact, 0) {
            Err(MapError::KeyNotFound) => Ok(0),
            other => other.named("bpf(BPF_MAP_LOOKUP_ELEM, tuples)"),
        }
    }

    fn set_flags(&mut self, exact: ExactTuple, flags: u32) -> Result<(), CallFailed> {
        self.tuples.insert(exact, flags, 0).named("bpf(BPF_MAP_UPDATE_ELEM, tuples)")
    }
}

impl AsFd for Ebpf {
    /// Readable while packets wait.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

impl fmt::Debug for Ebpf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ebpf").field("hook", &self.hook).finish_non_exhaustive()
    }
}

impl<T> Named<T> for Result<T, MapError> {
    fn named(self, call: &'static str) -> Result<T, CallFailed> {
        self.map_err(|error| {
            let raw = match &error {
                MapError::SyscallError(call) => call.io_error.raw_os_error(),
                MapError::IoError(error) => error.raw_os_error(),
                MapError::KeyNotFound | MapError::ElementNotFound => Some(libc::ENOENT),
                _ => None,
            };
            CallFailed { call, errno: Errno::from_raw(raw.unwrap_or(libc::EINVAL)) }
        })
    }
}

/// From the clock of the programs, CLOCK_MONOTONIC, to the wall clock.
fn wall_offset_ns() -> i64 {
    let read = |clock| {
        clock_gettime(clock).map_or(0, |time| time.tv_sec() * 1_000_000_000 + time.tv_nsec())
    };
    let before = read(ClockId::CLOCK_MONOTONIC);
    let wall = read(ClockId::CLOCK_REALTIME);
    let after = read(ClockId::CLOCK_MONOTONIC);
    wall - (before + (after - before) / 2)
}

/// How many bytes stand before the IP header on this interface: 14, or none where the link layer is
/// not Ethernet's.
fn link_header(interface: &str) -> Result<u32, CallFailed> {
    const CALL: &str = "ioctl(SIOCGIFHWADDR)";
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    use std::os::fd::AsRawFd;
    let probe = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None);
    let probe = probe.named("socket(SOCK_DGRAM)")?;
    // SAFETY: all zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // One byte less, so that the name ends.
    let room = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name.iter_mut().take(room).zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    // SAFETY: the request is one of this ioctl's and lives as long as the call, which fills the
    // field that is read then.
    let family = unsafe {
        let result = libc::ioctl(probe.as_raw_fd(), libc::SIOCGIFHWADDR as _, &raw mut request);
        Errno::result(result).named(CALL)?;
        request.ifr_ifru.ifru_hwaddr.sa_family
    };
    Ok(if matches!(family, libc::ARPHRD_ETHER | libc::ARPHRD_LOOPBACK) { 14 } else { 0 })
}

/// Before Linux 5.11 maps count as locked memory, of which 64 KiB are usual. It may not be granted.
fn raise_memory_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_MEMLOCK)
        && soft < hard
    {
        let _ = setrlimit(Resource::RLIMIT_MEMLOCK, hard, hard);
    }
}

#[cfg(test)]
mod tests;
