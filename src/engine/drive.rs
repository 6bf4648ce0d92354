//! Drives one race: carries segments between it and the network, and calls it when time has
//! passed.

use super::config::Progress;
use super::error::PunchError;
use super::fire::is_timed;
use super::hand_over::Missed;
use super::installation::Installation;
use super::prober::Prober;
use super::recorder::Recorder;
use super::report::{Fired, OpenerReport};
use super::tap::{Answered, Tap};
use crate::punch::{Batch, EstablishedTcb, Output, Plan, Purpose, Race, Wave, tsval};
use crate::sys::ebpf::Reply;
use crate::sys::{
    CallFailed, Captured, Checksum, Guard, Priority, RawSender, Spray, clock, wait_readable,
};
use crate::wire::{Icmp, Quote, Segment, Template, Tuple, WallTime};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// All that one punch holds open.
pub(super) struct Drive {
    /// The connection that stands, or the likeliest one.
    pub(super) tuple: Tuple,
    pub(super) at: WallTime,
    /// The moment in step with the peer for which segments are being sent.
    pub(super) firing: Option<WallTime>,
    /// Whether a badly kept clock is worth a warning.
    pub(super) checks_clock: bool,
    pub(super) race: Race,
    pub(super) sender: RawSender,
    pub(super) tap: Tap,
    pub(super) missed: Missed,
    /// What the kernel is to answer by itself, until it has been told.
    pub(super) reply: Option<Reply>,
    /// The segment that was taken in last has its SYN-ACK already.
    pub(super) answered: Option<Answered>,
    pub(super) spray: Option<Spray>,
    /// What a search sends, for as long as it sends it.
    pub(super) template: Option<(Wave, Template)>,
    pub(super) plan: Option<Plan>,
    pub(super) guards: Vec<Guard>,
    pub(super) installation: Installation,
    pub(super) recorder: Recorder,
    pub(super) prober: Option<Prober>,
    pub(super) probed_at: WallTime,
    /// Half of the longest round trip that a probe has shown.
    pub(super) one_way: Option<Duration>,
    /// When the last segment left that draws an answer.
    pub(super) sent_at: WallTime,
    pub(super) fired: Fired,
    /// The SYN of the instant, by the number of its transmit timestamp.
    pub(super) fired_id: Option<u32>,
    /// Why the last segment did not leave.
    pub(super) send_error: Option<CallFailed>,
    pub(super) priority: Option<Priority>,
    pub(super) interrupt: Option<OwnedFd>,
    pub(super) opener: OpenerReport,
}

/// A segment of the peer's that came in.
pub(super) struct Arrival {
    pub(super) segment: Segment,
    pub(super) at: WallTime,
    /// Whether the kernel's TCP did not see it.
    pub(super) stolen: bool,
}

/// A completed handshake.
pub(super) struct Completed {
    pub(super) tcb: EstablishedTcb,
    /// Its last segment, which may carry data.
    pub(super) last: Arrival,
}

/// The clock is spun on this long before the instant: waking up and raising the priority fit in.
pub(super) const SPIN: Duration = Duration::from_millis(4);
/// How often somebody who watches hears of the time that remains.
const TICK: Duration = Duration::from_millis(100);
/// The priority is raised this long before the instant: on a busy host an ordinary thread may wake
/// up some milliseconds late.
const RAISE: Duration = Duration::from_millis(50);
/// The capture is spun on from so long before an answer is due until so long after. A sleeping
/// processor wakes up some 70 us after the packet came, which is most of what a hand-over takes,
/// and what the kernel's own connect() does not lose: it answers within the interrupt.
const EXPECT: Duration = Duration::from_micros(400);
const LINGER: Duration = Duration::from_micros(300);

/// At most so many packets are taken in before time is looked at again: a flood must not keep an
/// attempt from what is due.
const MOST_AT_ONCE: u32 = 64;

impl Drive {
    /// Runs until the handshake completes.
    pub(super) fn run(
        &mut self,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Completed, PunchError> {
        let mut last = None;
        let mut taken = 0;
        loop {
            while let Some(output) = self.race.poll() {
                match output {
                    Output::Prepare(tcb) => {
                        let tsval = tsval(clock::now());
                        self.installation.install(&tcb, tsval).map_err(PunchError::HandOver)?;
                        self.tap.let_in(tcb.tuple).map_err(PunchError::HandOver)?;
                    }
                    Output::Transmit(segment, purpose) => match self.firing {
                        Some(due) if is_timed(purpose) => self.fire(&segment, purpose, due),
                        _ => self.transmit(&segment, purpose),
                    },
                    Output::Spray(segment, batch) => self.spray(&segment, &batch),
                    Output::Established(tcb) => {
                        // A segment established it, and the last one kept is that.
                        let Some(last) = last.take() else { continue };
                        self.tuple = tcb.tuple;
                        return Ok(Completed { tcb, last });
                    }
                    Output::Expired => {
                        return Err(PunchError::expired(
                            &self.race.evidence(),
                            self.fired_id.is_some() || self.template.is_some(),
                            self.send_error.clone(),
                        ));
                    }
                }
            }
            if self.answered.take().is_some() {
                // The race would not have answered. It has left all the same.
                self.recorder.packets.sent += 1;
            }
            if self.firing.take().is_some() {
                self.note_transmissions();
            }
            let now = clock::now();
            if now >= self.at.before(RAISE) {
                self.priority.get_or_insert_with(Priority::raise);
            }
            if let Some(due) = self.race.fires_at().filter(|due| now >= due.before(SPIN)) {
                self.firing = Some(due);
                self.race.handle_timeout(due);
                progress(Progress::Fired);
                continue;
            }
            if taken < MOST_AT_ONCE
                && let Some(arrival) = self.receive()
            {
                last = Some(arrival);
                taken += 1;
                continue;
            }
            let was_flooded = std::mem::take(&mut taken) == MOST_AT_ONCE;
            self.decide_opener(now);
            if self.race.poll_timeout().is_some_and(|due| due <= now) {
                self.race.handle_timeout(now);
                continue;
            }
            self.note_transmissions();
            if was_flooded {
                continue;
            }
            if now < self.at {
                progress(Progress::Waiting(now.until(self.at)));
            }
            if self.wait(now)? {
                return Err(PunchError::Interrupted);
            }
        }
    }

    /// Takes one packet. Returns it if it is a segment of the race.
    fn receive(&mut self) -> Option<Arrival> {
        let captured = match self.tap.receive()? {
            Ok(captured) => captured,
            Err(error) => {
                tracing::warn!("{error}");
                self.send_error = Some(error);
                return None;
            }
        };
        let Captured { packet, at, checksum, stolen, answered } = captured;
        if let Some(icmp) = Icmp::parse(packet) {
            let what = match icmp.about {
                Quote::Tcp(tuple) if self.race.covers(tuple) => self.race.handle_icmp(tuple, &icmp),
                Quote::Tcp(_) => return None,
                Quote::Echo { .. } => {
                    if !self.prober.as_mut().is_some_and(|prober| prober.handle(&icmp)) {
                        return None;
                    }
                    let round_trip = self.probed_at.until(at);
                    self.one_way = self.one_way.max(Some(round_trip / 2));
                    let decided =
                        self.prober.as_ref().is_none_or(|prober| prober.poll_timeout().is_none());
                    if let (Some(one_way), true) = (self.one_way, decided) {
                        self.race.set_one_way(one_way);
                    }
                    "answer to a probe"
                }
            };
            let tuple = match icmp.about {
                Quote::Tcp(tuple) => tuple,
                Quote::Echo { .. } => self.tuple,
            };
            self.recorder.received_icmp(&icmp, tuple, packet, at, what);
            return None;
        }
        let segment = Segment::parse(packet).ok()?;
        if checksum == Checksum::Unchecked && !Segment::has_right_checksum(packet) {
            self.recorder.received(&segment, packet, at, "damaged, ignored");
            return None;
        }
        if !self.race.covers(segment.tuple.reversed()) {
            self.race.handle_other_port(&segment);
            self.recorder.received(&segment, packet, at, "from another port of the peer");
            return None;
        }
        let what = self.race.handle_segment(&segment, at.max(clock::now()));
        self.recorder.received(&segment, packet, at, what);
        if stolen {
            self.missed.keep(&segment);
        }
        self.answered =
            answered.map(|tsval| Answered { tuple: segment.tuple.reversed(), tsval, at });
        Some(Arrival { segment, at, stolen })
    }

    /// Whether this is the SYN-ACK that the kernel has sent by itself, which then is written down.
    fn is_answered(&mut self, segment: &Segment) -> bool {
        let is_it =
            |it: &mut Answered| segment.syn && segment.ack.is_some() && it.tuple == segment.tuple;
        let Some(Answered { tsval, at, .. }) = self.answered.take_if(is_it) else { return false };
        let mut sent = segment.clone();
        if let Some((ours, _)) = &mut sent.options.timestamps {
            *ours = tsval;
        }
        self.sent_at = at;
        self.recorder.sent_by_kernel(&sent, at, "SYN-ACK, by the kernel");
        true
    }

    pub(super) fn transmit(&mut self, segment: &Segment, purpose: Purpose) {
        if self.is_answered(segment) {
            return;
        }
        let packet = segment.to_packet();
        let now = clock::now();
        match self.sender.send(&packet) {
            Ok(id) => {
                if !matches!(purpose, Purpose::Opener | Purpose::Reopener) {
                    self.sent_at = now;
                }
                self.send_error = None;
                self.recorder.sent(segment, &packet, now, id, purpose.words());
                self.arm();
            }
            Err(error) => self.refused(error),
        }
    }

    /// Sends `segment` on many tuples.
    pub(super) fn spray(&mut self, segment: &Segment, batch: &Batch) {
        let (Some(search), Some(spray)) = (self.race.search(), &mut self.spray) else { return };
        let now = clock::now();
        let begins = self.template.as_ref().is_none_or(|(wave, _)| *wave != batch.wave);
        if begins {
            self.template = Some((batch.wave, Template::new(segment)));
            let what = match batch.wave {
                Wave::Opener(_) => "opener, the first of a search",
                Wave::First => "the first segment of a search",
                Wave::UnaskedSynAck => "SYN-ACK, unasked, the first of a search",
            };
            self.recorder.wave(&Segment { tuple: search.first(), ..segment.clone() }, now, what);
        }
        let Some((_, template)) = &self.template else { return };
        if begins && batch.wave == Wave::First {
            self.fired.sent_ns.get_or_insert(now.unix_ns());
            self.fired.error_ns.get_or_insert(now.ns_since(self.at));
        }
        match spray.send(template, batch.tuples.clone().map(|place| search.tuple(place))) {
            Ok(sent) => {
                self.recorder.packets.sent += u64::from(sent);
                if self.recorder.keeps_packets() {
                    let mut packet = vec![0; template.len()];
                    for place in batch.tuples.clone().take(sent as usize) {
                        let (local, remote) = search.tuple(place);
                        template.write(local, remote, &mut packet);
                        self.recorder.log(now, true, &packet);
                    }
                }
                self.send_error = None;
                self.arm();
            }
            Err(error) => self.refused(error),
        }
    }

    /// Something has left, so the router is open, and this host's connection tracking, if it is
    /// active, has shown itself: from now on the kernel side may answer.
    pub(super) fn arm(&mut self) {
        if let Some(reply) = self.reply.take() {
            self.tap.arm(&reply);
        }
    }

    /// The system would not send; it may the next time.
    pub(super) fn refused(&mut self, error: CallFailed) {
        if self.send_error.as_ref() != Some(&error) {
            tracing::warn!("{error}");
        }
        self.send_error = Some(error);
    }

    pub(super) fn note_transmissions(&mut self) {
        while let Some(time) = self.sender.transmit_time() {
            self.note_transmission(time.id, time.at);
        }
    }

    pub(super) fn note_transmission(&mut self, id: u32, at: WallTime) {
        self.recorder.transmitted(id, at);
        if self.fired_id == Some(id) {
            self.fired.sent_ns = Some(at.unix_ns());
            self.fired.error_ns = Some(at.ns_since(self.at));
        }
    }

    fn decide_opener(&mut self, now: WallTime) {
        let Some(prober) = &mut self.prober else { return };
        if prober.poll_timeout().is_some_and(|due| due <= now) {
            let opener = prober.decide(now);
            if let Some(opener) = opener {
                self.race.set_opener(opener);
            }
            self.tap.stop_probes();
            if let Some(one_way) = self.one_way {
                self.race.set_one_way(one_way);
            }
            if self.checks_clock {
                super::clock_check::warn_if_loose(self.one_way);
            }
        }
    }

    /// When the next answer comes in if the peer is as far as probes say: its SYN, or what one of
    /// our segments draws.
    fn answer_due(&self, now: WallTime) -> Option<WallTime> {
        let one_way = self.one_way?;
        let dues =
            [self.at.after(one_way), self.at.after(one_way * 2), self.sent_at.after(one_way * 2)];
        dues.into_iter().filter(|due| now < due.after(LINGER)).min()
    }

    /// Sleeps until something comes in or is due. Returns whether the caller asked to stop.
    fn wait(&mut self, now: WallTime) -> Result<bool, PunchError> {
        let expect = self.answer_due(now).map(|due| due.before(EXPECT));
        if expect.is_some_and(|expect| expect <= now) {
            std::hint::spin_loop();
            return Ok(false);
        }
        let due = [
            expect,
            self.race.poll_timeout(),
            self.race.fires_at().map(|at| at.before(SPIN)),
            self.prober.as_ref().and_then(Prober::poll_timeout),
            (now < self.at).then(|| now.after(TICK)),
            Some(self.at.before(RAISE)).filter(|raise| now < *raise),
        ];
        let until = due.into_iter().flatten().min().unwrap_or(now.after(TICK));
        let mut sockets = self.tap.descriptors();
        sockets.push(self.sender.as_fd());
        let interrupt = self.interrupt.as_ref().map(AsFd::as_fd);
        Ok(wait_readable(&sockets, interrupt, now.until(until))?)
    }
}
