//! Finds the opener's hop limit: echo requests with rising hop limits, all at once.

use super::error::PunchError;
use crate::nat::{NoOpener, Path};
use crate::punch::Opener;
use crate::sys::{Capture, RawSender, Route, clock, wait_readable};
use crate::wire::{Icmp, Quote, WallTime, echo_request};
use std::net::IpAddr;
use std::ops::Range;
use std::os::fd::AsFd;
use std::time::Duration;

/// One run of probes and what it has drawn so far.
#[derive(Debug)]
pub(super) struct Prober {
    id: u16,
    pub(super) path: Path,
    /// When the opener is to leave, and when at the latest.
    due: Range<WallTime>,
    /// So long answers are awaited, if that is not too long.
    patience: WallTime,
    pub(super) why: String,
    /// The hop limit if no answer comes in time.
    usual: Option<u8>,
    decided: bool,
}

/// Probes go this far: routers past it are never the outermost NAT of ours.
const FURTHEST: u8 = 12;
/// On short notice, probes get this long at least, unless all have been answered…
const PATIENCE: Duration = Duration::from_millis(250);
/// …or they only confirm what is known.
const SHORT_PATIENCE: Duration = Duration::from_millis(60);
/// The opener leaves this long before the instant at the latest.
pub(super) const LAST_CALL: Duration = Duration::from_millis(20);

impl Prober {
    /// Probes from `local` whose answers are awaited until the opener is `due`, or on short notice
    /// a little longer. `usual` is the hop limit to be expected, if there is one.
    pub(super) fn new(
        id: u16,
        local: IpAddr,
        now: WallTime,
        due: Range<WallTime>,
        usual: Option<u8>,
    ) -> Self {
        let patience = now.after(if usual.is_some() { SHORT_PATIENCE } else { PATIENCE });
        let path = Path::new(local);
        Self { id, path, due, patience, why: String::new(), usual, decided: false }
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
        (!self.decided).then(|| self.decides_at())
    }

    fn decides_at(&self) -> WallTime {
        let Range { start, end } = self.due;
        let complete = self.path.opener_hop_limit().is_ok() && self.path.peer_distance().is_some();
        if complete { start } else { start.max(self.patience.min(end)) }
    }

    /// The opener, from what has come in until now; at most once.
    pub(super) fn decide(&mut self, now: WallTime) -> Option<Opener> {
        let at = self.decides_at();
        if self.decided || now < at {
            return None;
        }
        self.decided = true;
        let limit = self.path.opener_hop_limit();
        if let (Err(_), None, Some(hop_limit)) = (limit, self.path.peer_distance(), self.usual) {
            self.why = format!("hop {hop_limit} is the first past the outermost NAT elsewhere");
            return Some(Opener { hop_limit, at });
        }
        match limit {
            Ok(hop_limit) => {
                self.why = format!("hop {hop_limit} is the first past the outermost NAT");
                if let Some(distance) = self.path.peer_distance() {
                    self.why += &format!(", the peer is at hop {distance}");
                }
                Some(Opener { hop_limit, at })
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
    let deadline = began.after(patience);
    let mut prober = Prober::new(id, local, began, deadline..deadline, None);
    for probe in prober.probes(local, remote) {
        sender.send(&probe)?;
    }
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
        usually(None, now)
    }

    /// For an opener that leaves from 250 to 20 ms before the instant, which is at 10,000.
    fn usually(hop_limit: Option<u8>, now: i64) -> Prober {
        let local = "192.168.1.2".parse().unwrap();
        Prober::new(9, local, ms(now), ms(9_750)..ms(9_980), hop_limit)
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
        assert_eq!(usually(Some(2), 9_000).poll_timeout(), Some(ms(9_750)));
        let mut expecting = usually(Some(2), 9_720);
        assert_eq!(expecting.poll_timeout(), Some(ms(9_780)));
        assert_eq!(expecting.decide(ms(9_780)), Some(Opener { hop_limit: 2, at: ms(9_780) }));
        assert_eq!(usually(Some(2), 9_950).poll_timeout(), Some(ms(9_980)));
    }

    #[test]
    fn on_short_notice_an_opener_leaves_as_soon_as_the_whole_path_is_known() {
        let mut prober = prober(9_740);
        for (ttl, from) in [(1, "192.168.1.1"), (2, "192.0.2.1"), (3, "192.0.2.2")] {
            prober.handle(&answer(9, ttl, from));
            assert_eq!(prober.poll_timeout(), Some(ms(9_980)), "the peer is still to come");
        }
        let kind = IcmpKind::EchoReply;
        prober.handle(&Icmp { kind, ..answer(9, 4, "203.0.113.1") });
        assert_eq!(prober.poll_timeout(), Some(ms(9_750)));
        assert_eq!(prober.decide(ms(9_765)), Some(Opener { hop_limit: 2, at: ms(9_750) }));
    }
}
