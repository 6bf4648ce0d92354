//! One punch from its configuration to a descriptor.

use super::config::{Opener, Progress, Punch};
use super::drive::Drive;
use super::error::{Failure, PunchError};
use super::field::Field;
use super::hand_over::Missed;
use super::installation::Installation;
use super::prober::{LAST_CALL, Prober};
use super::recorder::Recorder;
use super::report::{Fired, NatReport, OpenerReport, Outcome, PlanReport, Report, Resets};
use super::tap::Tap;
use super::{Connection, clock_check};
use crate::punch::{AttemptConfig, Offer, Opener as LowTtlSyn, Race, RaceConfig, Reserve, Search};
use crate::sys::ebpf::{Reply, Watch};
use crate::sys::{Aside, CallFailed, Guard, RawSender, Route, Spray, clock, receive_window_scale};
use crate::wire::{Seq, Tuple, WallTime};
use nix::errno::Errno;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

/// Less notice than that is too short for a punch that is late.
const NOTICE: Duration = Duration::from_millis(2);
/// What both ends offer at least, three quarters of what the field holds.
const LEAST_WINDOW: u16 = 0xc000;
/// From so many tuples on speed counts for more than that this host's firewall sees them all.
const LARGE: u32 = 20_000;
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
        let (interface, peer) = (route.interface_index, self.peer.ip());
        let tap = Tap::open(
            self.datapath,
            self.stock.as_ref(),
            now.until(field.search.as_ref().map_or(self.at, |search| search.opens_at())),
            &Watch {
                interface,
                local: route.local_ip,
                peer,
                locals: field.local_ports(),
                remotes: field.remote_ports(),
                search: field.search.is_some(),
                most: field.search.as_ref().map_or(0, Search::incoming),
            },
        )?;
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
            offer: offer(&route, self.decides, random),
            strategy: field.strategy,
            racing: false,
            seed: random,
        };
        let reply = field.answering().map(|on| Reply {
            iss,
            expected_irs: attempt.expected_irs.map_or_else(Vec::new, Vec::from),
            offer: attempt.offer,
            on,
        });
        let opening = field.search.as_ref().map(|search| {
            let latest = search.opening_takes() + LAST_CALL;
            [search.opens_at().until(self.at), latest].map(|lead| lead + DECIDING)
        });
        let Field { tuples, reserve, search, guards, plan, .. } = field;
        let reserve = reserve.map(|(tuple, strategy)| {
            let offer =
                Offer { window: window((random >> 16) as u16, self.decides), ..attempt.offer };
            Reserve { tuple, strategy, offer }
        });
        let race = RaceConfig { attempt, timeout: self.timeout, tuples, reserve, search };
        let mut drive = Drive {
            tuple,
            at: self.at,
            firing: None,
            checks_clock: !self.common_clock,
            race: Race::new(race),
            sender,
            tap,
            missed: Missed::default(),
            answered: None,
            reply,
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
        let [lead, last_call] = opening.unwrap_or([Duration::ZERO, LAST_CALL]);
        let due = self.at.before(self.opener_lead.max(lead))..self.at.before(last_call);
        let usual = self.usual_hop_limit;
        drive.plan_opener(self.opener, due, usual, route.on_link, (random >> 32) as u16);
        Ok(drive)
    }
}

impl Drive {
    fn plan_opener(
        &mut self,
        opener: Opener,
        due: Range<WallTime>,
        usual: Option<u8>,
        on_link: bool,
        id: u16,
    ) {
        let local = self.tuple.local.ip();
        match opener {
            Opener::Off => self.opener.why = "switched off".into(),
            Opener::HopLimit(hop_limit) => {
                self.opener =
                    OpenerReport { ttl: Some(hop_limit), why: "as asked".into(), path: vec![] };
                self.race.set_opener(LowTtlSyn { hop_limit, at: due.start });
            }
            Opener::Auto if on_link => {
                self.opener.why = "the peer is on this host's own network".into()
            }
            Opener::Auto => {
                let now = clock::now();
                let prober = Prober::new(id, local, now, due, usual);
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

    pub(super) fn fail(mut self, error: PunchError) -> Failure {
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

    pub(super) fn report(&mut self, outcome: Outcome) -> Report {
        let mut timeline = std::mem::take(&mut self.recorder.timeline);
        timeline.sort_by_key(|event| event.at_ns);
        if let Some(prober) = &self.prober {
            self.opener.why.clone_from(&prober.why);
            self.opener.ttl =
                prober.path.opener_hop_limit().ok().filter(|_| prober.poll_timeout().is_none());
            self.opener.path =
                prober.path.hops().map(|(hop, from)| (hop, from.to_string())).collect();
        }
        let datapath = self.tap.report();
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
                own_suppressed: self.guards.iter().map(Guard::swallowed).sum::<u64>()
                    + datapath.held_back(),
                foreign: self.recorder.resets,
            },
            datapath: Some(datapath),
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
}

/// What a kernel socket would offer on this route, with a window and a mark that no two ends are
/// likely to have in common: by them an end knows what is its own, and the larger window nominates.
fn offer(route: &Route, decides: Option<bool>, random: u64) -> Offer {
    let headers = if route.local_ip.is_ipv6() { 60 } else { 40 };
    Offer {
        mss: u16::try_from(route.mtu.saturating_sub(headers)).unwrap_or(u16::MAX).max(88),
        window_scale: receive_window_scale(),
        window: window((random >> 48) as u16, decides),
        mark: (random >> 40) as u8,
    }
}

/// Ends that know which of them decides have different ones, whatever else a router strips.
fn window(random: u16, decides: Option<bool>) -> u16 {
    let window = LEAST_WINDOW | random >> 2;
    decides.map_or(window, |decides| window & !1 | u16::from(decides))
}

fn random() -> Result<u64, CallFailed> {
    getrandom::u64().map_err(|_| CallFailed { call: "getrandom", errno: Errno::ENOSYS })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_that_know_which_of_them_decides_never_offer_the_same_window() {
        let windows = |decides| (0..=u16::MAX).map(move |it| window(it, Some(decides)));
        assert!(windows(true).all(|it| it % 2 == 1));
        assert!(windows(false).all(|it| it % 2 == 0 && it >= LEAST_WINDOW));
        assert_eq!(window(u16::MAX, None), u16::MAX);
    }
}
