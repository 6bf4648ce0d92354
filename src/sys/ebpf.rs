//! The eBPF datapath: two programs at an interface take the segments of a punch before this host's
//! firewall and TCP see them, answer the peer's SYN in the kernel, and let no reset leave.
//!
//! The programs are in `ebpf/`; `docs/EBPF.md` says what they do.
#![allow(unsafe_code)]

mod abi;
mod blind;
mod counts;
mod error;
mod hook;
mod keeper;
mod link;
mod loader;
mod running;
mod support;
mod tc;

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
use aya::maps::{Array, HashMap, MapData, MapError, PerCpuArray, RingBuf};
use link::{Link, LinkHeader};
use nix::errno::Errno;
use nix::libc;
use nix::time::{ClockId, clock_gettime};
use std::fmt;
use std::fs;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

/// Room for a window of segments that all come at once, or for [`FEW`] SYNs.
const RING: u32 = 1 << 20;
const FEW: u32 = 7_000;
/// Room for 120,000 SYNs that all come at once.
const LARGE_RING: u32 = 16 << 20;
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
    /// The rule, where the programs read it.
    rules: Array<MapData, Rule>,
    tuples: HashMap<MapData, ExactTuple, u32>,
    reply: Array<MapData, abi::Reply>,
    strangers: Array<MapData, u64>,
    counts: PerCpuArray<MapData, u64>,
    ring: RingBuf<MapData>,
    rule: Box<Rule>,
    /// Whether its ring has room for more than few.
    roomy: bool,
    search: bool,
    /// Tuples on which a SYN may be answered.
    answering: Vec<ExactTuple>,
    buffer: Vec<u8>,
    /// What is to be added to the kernel's clock, and until when on that clock it holds.
    wall_offset_ns: i64,
    offset_holds_ns: u64,
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
    /// So many SYNs may come in at once.
    pub most: u32,
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
        loader::check()
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

    /// Loads the programs, hangs them in, and catches this.
    ///
    /// # Errors
    /// [`EbpfError`]; nothing stays behind.
    pub fn new(watch: &Watch) -> Result<Self, EbpfError> {
        Self::ahead(watch.interface, watch.most)?.watching(watch)
    }

    /// Likewise, by this hook and no other.
    ///
    /// # Errors
    /// [`EbpfError`]; nothing stays behind.
    pub fn hooked(watch: &Watch, hook: Hook) -> Result<Self, EbpfError> {
        Self::hung_in(watch.interface, watch.most, Some(hook))?.watching(watch)
    }

    /// Loads the programs and hangs them in, and catches nothing yet: that takes the kernel some
    /// milliseconds, which there may be before it is known what is to be caught. So many SYNs may
    /// come in at once.
    ///
    /// # Errors
    /// [`EbpfError`]; nothing stays behind.
    pub fn ahead(interface: u32, most: u32) -> Result<Self, EbpfError> {
        Self::hung_in(interface, most, None)
    }

    /// Whether what was made [`Ebpf::ahead`] hangs where this is to be caught, and has the room.
    pub fn suits(&self, watch: &Watch) -> bool {
        self.interface == watch.interface && (self.roomy || watch.most <= FEW)
    }

    /// Catches this from now on, where it [`Ebpf::suits`].
    ///
    /// # Errors
    /// [`EbpfError`]; nothing stays behind.
    pub fn watching(mut self, watch: &Watch) -> Result<Self, EbpfError> {
        let wanted =
            if watch.search { Rule::PROBES } else { Rule::RESETS | Rule::PROBES | Rule::ERRORS };
        self.search = watch.search;
        *self.rule = Rule {
            ends: Ends { local: abi::mapped(watch.local), peer: abi::mapped(watch.peer) },
            flags: wanted,
            unused: 0,
            locals: abi::port_set(&watch.locals),
            remotes: abi::port_set(&watch.remotes),
        };
        self.look_for_tracking();
        self.write_rule()?;
        Ok(self)
    }

    fn hung_in(interface: u32, most: u32, wanted: Option<Hook>) -> Result<Self, EbpfError> {
        let link = Link::of(interface)?;
        let mut ebpf = Self::loaded(link.header, most)?;
        let (hook, keeper) = Hook::attach(&mut ebpf.programs, interface, wanted)?;
        tracing::debug!(interface = link.name, ?hook, "eBPF datapath");
        (ebpf.hook, ebpf.keeper, ebpf.interface) = (Some(hook), keeper, interface);
        Ok(ebpf)
    }

    fn loaded(link_header: &'static LinkHeader, most: u32) -> Result<Self, EbpfError> {
        let roomy = most > FEW;
        let ring = if roomy { LARGE_RING } else { RING };
        let mut programs = loader::load(link_header, ring)?;
        let mut map = |name: &str| {
            let missing = || EbpfError::Object(format!("it has no map {name}"));
            programs.take_map(name).ok_or_else(missing)
        };
        let nobody = abi::mapped(std::net::Ipv4Addr::UNSPECIFIED.into());
        let no_ports = abi::port_set(&[]);
        Ok(Self {
            rules: map("rule")?.try_into()?,
            tuples: map("tuples")?.try_into()?,
            reply: map("reply")?.try_into()?,
            strangers: map("strangers")?.try_into()?,
            counts: map(counts::MAP)?.try_into()?,
            ring: map("events")?.try_into()?,
            programs,
            keeper: None,
            hook: None,
            interface: 0,
            rule: Box::new(Rule {
                ends: Ends { local: nobody, peer: nobody },
                flags: 0,
                unused: 0,
                locals: no_ports,
                remotes: no_ports,
            }),
            roomy,
            search: false,
            answering: Vec::new(),
            buffer: Vec::new(),
            wall_offset_ns: 0,
            offset_holds_ns: 0,
        })
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
        self.rules.set(0, *self.rule, 0).named("bpf(BPF_MAP_UPDATE_ELEM, rule)")
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

#[cfg(test)]
mod tests;
