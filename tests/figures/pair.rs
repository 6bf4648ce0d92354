//! Two hosts, and the ends of one connection on them.

use std::env;
use std::io;
use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use tcp_punch::sys::clock;
use tcp_punch::wire::WallTime;

use crate::job::{How, Job, Outcome, Then};
use crate::network::{Host, Network};

/// Time for two processes to start and, in the product's case, to find the opener's hop limit.
pub(crate) const NOTICE: Duration = Duration::from_millis(200);

const TRIES: usize = 5;

/// The two hosts of a network.
pub(crate) struct Pair {
    pub(crate) network: Network,
    /// Where each host is to be reached.
    a: &'static str,
    b: &'static str,
}

/// One connection to be.
#[derive(Clone, Copy)]
pub(crate) struct Meeting {
    /// Both ends' instant.
    pub(crate) at: WallTime,
    /// By how much the instant of b is later.
    pub(crate) skew: Duration,
    pub(crate) how: [How; 2],
    pub(crate) then: [Then; 2],
    pub(crate) patience: Duration,
}

impl Meeting {
    /// Both ends alike, soon and on time.
    pub(crate) fn of(how: How, then: Then) -> Self {
        Self {
            at: clock::now().after(NOTICE),
            skew: Duration::ZERO,
            how: [how; 2],
            then: [then; 2],
            patience: Duration::from_secs(4),
        }
    }
}

impl Pair {
    /// Two hosts behind MASQUERADE routers that answer an unsolicited SYN with RST.
    pub(crate) fn behind_nats(delay: &str) -> Self {
        let network = Network::up(["--delay", delay]);
        Self { network, a: "198.51.100.1", b: "203.0.113.1" }
    }

    /// Likewise, but host b has a public address, so that it can be connected to.
    pub(crate) fn half_open(delay: &str) -> Self {
        let network = Network::up(["--delay", delay, "--nat-b", "none"]);
        Self { network, a: "198.51.100.1", b: "203.0.113.2" }
    }

    /// Where host b is to be reached.
    pub(crate) fn b(&self) -> &'static str {
        self.b
    }

    /// A job for one process on `host`.
    pub(crate) fn start(host: &Host, job: &Job) -> io::Result<Running> {
        let child = host
            .command(env::current_exe()?)
            .args(["end", &serde_json::to_string(job)?])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        Ok(Running(child))
    }

    /// Starts both ends on a port that no earlier connection of this run has used.
    pub(crate) fn meet(&self, meeting: Meeting) -> io::Result<[Running; 2]> {
        let port = fresh_port();
        let job = |side: usize, peer: &str, skew: Duration| -> io::Result<Job> {
            let peer = peer.parse().map_err(io::Error::other)?;
            Ok(Job {
                at_ns: meeting.at.after(skew).unix_ns(),
                peer: SocketAddr::new(peer, port),
                port,
                patience_ms: meeting.patience.as_millis() as u64,
                how: meeting.how[side],
                then: meeting.then[side],
                key: None,
                models: None,
            })
        };
        // The later one first: it needs its time most when both are on time.
        let b = Self::start(&self.network.host_b(), &job(1, self.a, meeting.skew)?)?;
        let a = Self::start(&self.network.host_a(), &job(0, self.b, Duration::ZERO)?)?;
        Ok([a, b])
    }

    /// Both outcomes of one meeting.
    pub(crate) fn outcomes(&self, meeting: Meeting) -> io::Result<[Outcome; 2]> {
        let [a, b] = self.meet(meeting)?;
        Ok([a.outcome()?, b.outcome()?])
    }

    /// Likewise, where anything but a connection is a failure of the measurement. Only an end that
    /// was not ready by the instant has another try.
    pub(crate) fn connected(&self, mut meeting: Meeting) -> io::Result<[Outcome; 2]> {
        for _ in 0..TRIES {
            let outcomes = self.outcomes(meeting)?;
            if outcomes.iter().any(|outcome| outcome.late) {
                meeting.at = clock::now().after(NOTICE * 2);
                continue;
            }
            return match outcomes.iter().find_map(|outcome| outcome.error.as_ref()) {
                None => Ok(outcomes),
                Some(error) => Err(io::Error::other(error.as_str())),
            };
        }
        Err(io::Error::other("this machine is too busy: processes are not ready in time"))
    }
}

/// An end at work.
pub(crate) struct Running(Child);

impl Running {
    /// Waits for its outcome.
    pub(crate) fn outcome(self) -> io::Result<Outcome> {
        let output = self.0.wait_with_output()?;
        serde_json::from_slice(&output.stdout)
            .map_err(|error| io::Error::other(format!("an end failed, {}: {error}", output.status)))
    }
}

/// A port that nothing in this run has used yet.
pub(crate) fn fresh_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(20_000);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
