//! Finds the opener's hop limit: echo requests with rising hop limits, all at once.

use super::error::PunchError;
use crate::nat::{NoOpener, Path};
use crate::punch::Opener;
use crate::sys::{Capture, RawSender, Route, clock, wait_readable};
use crate::wire::{Icmp, Quote, WallTime, echo_request};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::Duration;

/// One run of probes and what it has drawn so far.
#[derive(Debug)]
pub(super) struct Prober {
    id: u16,
    pub(super) path: Path,
    decide_at: WallTime,
    pub(super) why: String,
    /// The hop limit if no answer comes in time.
    pub(super) usual: Option<u8>,
    decided: bool,
}

/// Probes go this far: routers past it are never the outermost NAT of ours.
const FURTHEST: u8 = 12;
/// On short notice, probes get this long at least…
const PATIENCE: Duration = Duration::from_millis(250);
/// …and the opener leaves this long before the instant at the latest.
const LAST_CALL: Duration = Duration::from_millis(20);

impl Prober {
    /// Probes from `local` whose answers are awaited until the opener's time, or on short notice
    /// a little longer.
    pub(super) fn new(id: u16, local: IpAddr, now: WallTime, at: WallTime, lead: Duration) -> Self {
        let decide_at = at.before(lead).max(now.after(PATIENCE).min(at.before(LAST_CALL)));
        Self {
            id,
            path: Path::new(local),
            decide_at,
            why: String::new(),
            usual: None,
            decided: false,
        }
    }

    /// The probes, as whole packets.
    pub(super) fn probes(&self, local: IpAddr, peer: IpAddr) -> impl Iterator<Item = Vec<u8>> {
        let id = self.id;
        (1..=FURTHEST).map(move |ttl| echo_request(local, peer, ttl, id, ttl.into()))
    }

    /// An ICMP message came in. Whether it answers one of our probes.
    pub(super) fn handle(&mut self, icmp: &Icmp) -> bool {
        let Quote::Echo { id, seq } = icmp.about else { return false };
        match u8::try_from(seq) {
            Ok(ttl @ 1..=FURTHEST) if id == self.id => {
                self.path.observe(ttl, icmp);
                true
            }
            _ => false,
        }
    }

    /// When [`Prober::decide`] is to be called; `None` once it was.
    pub(super) fn poll_timeout(&self) -> Option<WallTime> {
        (!self.decided).then_some(self.decide_at)
    }

    /// The opener, from what has come in until now; at most once.
    pub(super) fn decide(&mut self, now: WallTime) -> Option<Opener> {
        if self.decided || now < self.decide_at {
            return None;
        }
        self.decided = true;
        let limit = self.path.opener_hop_limit();
        if let (Err(_), None, Some(hop_limit)) = (limit, self.path.peer_distance(), self.usual) {
            self.why = format!("hop {hop_limit} is the first past the outermost NAT elsewhere");
            return Some(Opener { hop_limit, at: self.decide_at });
        }
        match limit {
            Ok(hop_limit) => {
                self.why = format!("hop {hop_limit} is the first past the outermost NAT");
                if let Some(distance) = self.path.peer_distance() {
                    self.why += &format!(", the peer is at hop {distance}");
                }
                Some(Opener { hop_limit, at: self.decide_at })
            }
            Err(reason @ (NoOpener::Silent | NoOpener::TooNear)) => {
                tracing::warn!("no opener: {reason}; --opener TTL sets one by hand");
                self.why = reason.to_string();
                None
            }
        }
    }
}

/// The routers on the way from `local` towards `remote`, for which their answers are awaited so
/// long at most.
///
/// # Errors
/// EPERM without CAP_NET_RAW; the routing table's.
pub(super) fn walk(local: IpAddr, remote: IpAddr, patience: Duration) -> Result<Path, PunchError> {
    let began = clock::now();
    let route = Route::to(remote, Some(local))?;
    let mut capture = Capture::new(route.interface_index, &[], remote)?;
    let mut sender = RawSender::new(local, remote)?;
    let id = getrandom::u32().unwrap_or(1) as u16;
    let mut prober = Prober::new(id, local, began, began.after(patience), Duration::ZERO);
    for probe in prober.probes(local, remote) {
        sender.send(&probe)?;
    }
    let deadline = began.after(patience);
    loop {
        while let Some(captured) = capture.receive()? {
            if let Some(icmp) = Icmp::parse(captured.packet) {
                prober.handle(&icmp);
            }
        }
        let now = clock::now();
        if now >= deadline || prober.path.peer_distance().is_some() {
            return Ok(prober.path);
        }
        wait_readable(&[capture.as_fd()], None, now.until(deadline))?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::IcmpKind;

    fn ms(at: i64) -> WallTime {
        WallTime::from_unix_ns(at * 1_000_000)
    }

    fn prober(now: i64) -> Prober {
        let local = "192.168.1.2".parse().unwrap();
        Prober::new(9, local, ms(now), ms(10_000), Duration::from_millis(250))
    }

    fn answer(id: u16, ttl: u16, from: &str) -> Icmp {
        Icmp {
            from: from.parse().unwrap(),
            hop_limit: 60,
            kind: IcmpKind::TimeExceeded,
            about: Quote::Echo { id, seq: ttl },
        }
    }

    #[test]
    fn the_opener_is_decided_when_it_is_due() {
        let mut prober = prober(8_000);
        assert!(prober.handle(&answer(9, 1, "192.168.1.1")));
        assert!(prober.handle(&answer(9, 2, "192.0.2.1")));
        assert!(!prober.handle(&answer(8, 3, "192.0.2.2")), "another program's probe");
        assert_eq!(prober.decide(ms(9_749)), None);
        assert_eq!(prober.decide(ms(9_750)), Some(Opener { hop_limit: 2, at: ms(9_750) }));
        assert_eq!(prober.poll_timeout(), None);
    }

    #[test]
    fn on_short_notice_probes_get_what_time_there_is() {
        assert_eq!(prober(9_700).poll_timeout(), Some(ms(9_950)));
        assert_eq!(prober(9_900).poll_timeout(), Some(ms(9_980)));
    }
}
