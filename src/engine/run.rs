//! One punch from its configuration to a descriptor.

use super::config::{Opener, Progress, Punch};
use super::drive::{Completed, Drive, receive};
use super::error::{Failure, PunchError};
use super::field::Field;
use super::installation::Installation;
use super::prober::Prober;
use super::recorder::Recorder;
use super::report::{
    Fired, Handover, NatReport, OpenerReport, Outcome, PlanReport, Report, Resets,
};
use super::{Connection, clock_check};
use crate::punch::{AttemptConfig, Offer, Opener as LowTtlSyn, Purpose, Race, RaceConfig, tsval};
use crate::sys::{
    Aside, CallFailed, Capture, Guard, RawSender, Route, Spray, clock, receive_window_scale,
};
use crate::wire::{Segment, Seq, Tuple, WallTime};
use nix::errno::Errno;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// More than the window that we offered can hold in segments of any useful size.
const MOST_MISSED: usize = 256;
/// Less notice than that is too short for a punch that is late.
const NOTICE: Duration = Duration::from_millis(2);
/// What both ends offer at least, three quarters of what the field holds.
const LEAST_WINDOW: u16 = 0xc000;
/// From so many tuples on speed counts for more than that this host's firewall sees them all.
const LARGE: u32 = 20_000;
/// What is still on its way to a port that lost comes within a round trip and this.
const LINGER: Duration = Duration::from_millis(100);
/// The opener's hop limit is decided so long before a search's first opener is due.
const DECIDING: Duration = Duration::from_millis(10);

impl Punch {
    /// Punches. Blocks until the connection stands or there is a reason why not. `progress` hears
    /// how it goes, several times a second while the instant is awaited.
    ///
    /// Needs CAP_NET_RAW and CAP_NET_ADMIN; uses CAP_SYS_NICE and CAP_IPC_LOCK where held.
    /// Everything it opens belongs to the process and ends with it.
    ///
    /// # Errors
    /// [`Failure`]: the reason, and the report of what was seen until then.
    pub fn run(self, progress: &mut dyn FnMut(Progress)) -> Result<Connection, Failure> {
        let early = |error: PunchError| Failure { error, report: None };
        let mut drive = self.prepare().map_err(early)?;
        let aside = Aside::new();
        if let Some(plan) = &drive.plan {
            progress(Progress::Planned(plan.words()));
        }
        match drive.run(progress) {
            Ok(completed) => drive.hand_over(&completed, aside),
            Err(error) => Err(drive.fail(error)),
        }
    }

    fn prepare(mut self) -> Result<Drive, PunchError> {
        let now = clock::now();
        if self.may_be_late {
            self.at = self.at.max(now.after(NOTICE));
        }
        if self.at <= now {
            let late_ms = u64::try_from(self.at.until(now).as_millis()).unwrap_or(u64::MAX);
            return Err(PunchError::Late { late_ms });
        }
        self.strategies.check(self.key.is_some())?;
        let route = Route::to(self.peer.ip(), self.local_ip)?;
        let tuple =
            Tuple { local: SocketAddr::new(route.local_ip, self.local_port), remote: self.peer };
        tracing::debug!(%tuple, interface = route.interface, "route");
        let random = random()?;
        let field = Field::prepare(&self, tuple, random)?;
        let tuple = field.first();
        let ports = field.local_ports();
        let (interface, peer) = (route.interface_index, self.peer.ip());
        let captures = match &field.search {
            None => vec![Capture::new(interface, &ports, peer)?],
            // What answers the probes, which a search would have drown in what its openers draw.
            Some(_) => {
                vec![Capture::new(interface, &[], peer)?, Capture::search(interface, &ports, peer)?]
            }
        };
        let spray = field.search.as_ref().map(|search| match search.tuples() {
            0..LARGE => Spray::through_host(route.local_ip, peer),
            _ => Spray::new(&route, route.local_ip, peer),
        });
        let sender = RawSender::new(route.local_ip, tuple.remote.ip())?;
        let installation = Installation::new(tuple.local).map_err(|failed| match failed.errno {
            Errno::ENOPROTOOPT => PunchError::NoRepair,
            _ => failed.into(),
        })?;
        let recorder =
            Recorder::new(self.at, self.pcap, &route.interface).map_err(PunchError::Pcap)?;
        let iss = self.key.as_ref().map_or(Seq(random as u32), |key| key.iss(self.agreed));
        let attempt = AttemptConfig {
            tuple,
            at: self.at,
            agreed: self.agreed,
            iss,
            expected_irs: self.key.as_ref().map(|key| key.expected_irs(self.agreed)),
            offer: offer(&route, (random >> 48) as u16),
            strategy: field.strategy,
            racing: false,
            seed: random,
        };
        let lead = field.search.as_ref().map(|search| search.opens_at().until(self.at) + DECIDING);
        let Field { tuples, search, guards, plan, .. } = field;
        let race = Race::new(RaceConfig { attempt, timeout: self.timeout, tuples, search });
        let mut drive = Drive {
            tuple,
            at: self.at,
            firing: None,
            checks_clock: !self.common_clock,
            race,
            sender,
            captures,
            spray: spray.transpose()?,
            template: None,
            plan,
            guards,
            installation,
            recorder,
            prober: None,
            probed_at: now,
            one_way: None,
            sent_at: self.at,
            fired: Fired {
                asked_ns: self.at.unix_ns(),
                sent_ns: None,
                error_ns: None,
                send_cost_ns: None,
            },
            fired_id: None,
            send_error: None,
            priority: None,
            interrupt: self.interrupt,
            opener: OpenerReport::default(),
        };
        let lead = self.opener_lead.max(lead.unwrap_or_default());
        drive.plan_opener(self.opener, lead, route.on_link, (random >> 32) as u16);
        if let Some(prober) = &mut drive.prober {
            prober.usual = self.usual_hop_limit;
        }
        Ok(drive)
    }
}

impl Drive {
    fn plan_opener(&mut self, opener: Opener, lead: Duration, on_link: bool, id: u16) {
        let local = self.tuple.local.ip();
        match opener {
            Opener::Off => self.opener.why = "switched off".into(),
            Opener::HopLimit(hop_limit) => {
                self.opener =
                    OpenerReport { ttl: Some(hop_limit), why: "as asked".into(), path: vec![] };
                let at = self.at.before(lead);
                self.race.set_opener(LowTtlSyn { hop_limit, at });
            }
            Opener::Auto if on_link => {
                self.opener.why = "the peer is on this host's own network".into()
            }
            Opener::Auto => {
                let now = clock::now();
                let prober = Prober::new(id, local, now, self.at, lead);
                for probe in prober.probes(local, self.tuple.remote.ip()) {
                    match self.sender.send(&probe) {
                        Ok(_) => self.recorder.sent_probe(&probe, clock::now()),
                        Err(error) => self.refused(error),
                    }
                }
                self.probed_at = now;
                self.prober = Some(prober);
            }
        }
    }

    fn hand_over(mut self, completed: &Completed, aside: Aside) -> Result<Connection, Failure> {
        let Completed { tcb, last, at } = completed;
        let installed = self.installation.install(tcb, tsval(clock::now()));
        if let Ok(false) = installed {
            // The peer answered our SYN and waits for this. No kernel sends anything before it gets
            // it, but a peer may.
            let installed_at = clock::now();
            let now = tsval(installed_at);
            if let Some((theirs, _)) = last.options.timestamps.filter(|_| tcb.agreed.timestamps) {
                let shown = tcb.peer_acknowledges((theirs, now));
                self.deliver_locally(&shown, "the first timestamp that the kernel echoes is 0");
            }
            let echo = last.options.timestamps.map(|(theirs, _)| (now, theirs));
            self.transmit(&tcb.acknowledge(echo), Purpose::Ack);
            self.deliver_missed(completed, installed_at);
        }
        let finished = installed.and_then(|_| self.finish_installation());
        let (fd, early_bytes) = match finished {
            Ok(finished) => finished,
            Err(error) => return Err(self.fail(PunchError::HandOver(error))),
        };
        let ready = clock::now();
        self.note_transmissions();
        let mut report = self.report(Outcome::Connected);
        report.established_ns = Some(at.ns_since(self.at));
        report.fd_ns = Some(ready.ns_since(self.at));
        report.handover =
            Some(Handover { took_ns: ready.ns_since(*at), early_bytes: early_bytes.into() });
        report.verdict = verdict(ready.ns_since(self.at));
        if let Some(remark) = self.race.remark() {
            tracing::warn!("{remark}");
            report.verdict += "; ";
            report.verdict += remark;
        }
        self.dismantle(aside);
        Ok(Connection { fd, report })
    }

    fn finish_installation(&mut self) -> Result<(OwnedFd, u32), CallFailed> {
        let Some(socket) = self.installation.take(self.tuple) else {
            return Err(CallFailed { call: "installation", errno: Errno::ENOTCONN });
        };
        let unread = socket.unread()?;
        Ok((socket.finish()?, unread))
    }

    /// Gives the kernel what came in between the handshake's last segment, that included, and the
    /// installation. What it has already it recognises.
    fn deliver_missed(&mut self, completed: &Completed, installed_at: WallTime) {
        let Completed { tcb, last, .. } = completed;
        let mut missed = vec![Segment { seq: tcb.rcv_nxt, syn: false, ..last.clone() }];
        while let (true, Some(Ok(captured))) =
            (missed.len() < MOST_MISSED, receive(&mut self.captures))
        {
            let Ok(segment) = Segment::parse(captured.packet) else { continue };
            if segment.tuple == tcb.tuple.reversed() && captured.at <= installed_at {
                self.recorder.received(&segment, captured.packet, captured.at, "early");
                missed.push(segment);
            }
        }
        for segment in missed.iter().filter(|missed| missed.fin || !missed.payload.is_empty()) {
            self.deliver_locally(segment, "what came early waits for its repetition");
        }
    }

    /// Shows the kernel a segment of the peer over the loopback interface.
    fn deliver_locally(&self, segment: &Segment, otherwise: &str) {
        let local = self.tuple.local.ip();
        if let Err(error) = self.sender.deliver_locally(&segment.to_packet(), local) {
            tracing::debug!("{otherwise}: {error}");
        }
    }

    fn fail(mut self, error: PunchError) -> Failure {
        self.note_transmissions();
        let mut report = self.report(match &error {
            PunchError::TimedOut(_) => Outcome::TimedOut,
            PunchError::Refused(_) => Outcome::Refused,
            PunchError::Interrupted => Outcome::Interrupted,
            _ => Outcome::Failed,
        });
        report.verdict = error.to_string();
        report.advice = error.advice();
        let error = self.recorder.finish().map_or_else(PunchError::Pcap, |()| error);
        Failure { error, report: Some(Box::new(report)) }
    }

    fn report(&mut self, outcome: Outcome) -> Report {
        let mut timeline = std::mem::take(&mut self.recorder.timeline);
        timeline.sort_by_key(|event| event.at_ns);
        if let Some(prober) = &self.prober {
            self.opener.why.clone_from(&prober.why);
            self.opener.ttl =
                prober.path.opener_hop_limit().ok().filter(|_| prober.poll_timeout().is_none());
            self.opener.path =
                prober.path.hops().map(|(hop, from)| (hop, from.to_string())).collect();
        }
        Report {
            schema_version: Report::SCHEMA_VERSION,
            outcome,
            strategy: self.race.strategy().traits().name.into(),
            tuple: self.tuple.into(),
            fired: self.fired.clone(),
            timeline,
            timeline_dropped: self.recorder.dropped,
            established_ns: None,
            fd_ns: None,
            handover: None,
            packets: self.recorder.packets,
            rst: Resets {
                own_suppressed: self.guards.iter().map(Guard::swallowed).sum(),
                foreign: self.recorder.resets,
            },
            plan: self.plan.as_ref().map(PlanReport::from),
            opener: std::mem::take(&mut self.opener),
            clock: clock_check::report(self.one_way),
            ways: Vec::new(),
            nat: self
                .prober
                .as_ref()
                .map(|prober| NatReport { nats_on_path: prober.path.nats_on_path() }),
            verdict: String::new(),
            advice: String::new(),
        }
    }

    /// Closes everything. The kernel takes some ten milliseconds to close a packet socket (it waits
    /// for an RCU grace period), and 0.2 ms to unlock memory, which the connection need not wait
    /// for. The connection's guard goes at once, or the port would not be free for the next punch;
    /// the others stay until what is on its way to their ports has come, lest it draw resets.
    fn dismantle(mut self, aside: Aside) {
        if let Err(error) = self.recorder.finish() {
            tracing::warn!("the capture file cannot be written: {error}");
        }
        if let Some(priority) = &mut self.priority {
            priority.lower();
        }
        let Self { tuple, guards, captures, sender, spray, priority, one_way, .. } = self;
        let (winner, losers): (Vec<_>, Vec<_>) =
            guards.into_iter().partition(|guard| guard.port() == tuple.local.port());
        drop(winner);
        let linger = one_way.map_or(LINGER, |one_way| LINGER + one_way * 2);
        let linger = if losers.is_empty() { Duration::ZERO } else { linger };
        aside.close_in_turn((captures, sender, spray, priority), losers, linger);
    }
}

fn verdict(connected_ns: i64) -> String {
    let ms = connected_ns.unsigned_abs() as f64 / 1e6;
    let side = if connected_ns < 0 { "before" } else { "after" };
    format!("connected {ms:.1} ms {side} the instant")
}

/// What a kernel socket would offer on this route, with a window that no two ends are likely to
/// have in common: the larger one nominates.
fn offer(route: &Route, random: u16) -> Offer {
    let headers = if route.local_ip.is_ipv6() { 60 } else { 40 };
    Offer {
        mss: u16::try_from(route.mtu.saturating_sub(headers)).unwrap_or(u16::MAX).max(88),
        window_scale: receive_window_scale(),
        window: LEAST_WINDOW | random >> 2,
        mark: random as u8,
    }
}

fn random() -> Result<u64, CallFailed> {
    getrandom::u64().map_err(|_| CallFailed { call: "getrandom", errno: Errno::ENOSYS })
}
