//! Trials of one pair of routers by the product's own programs, which are told a code and nothing
//! else.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use tcp_punch::engine::Report;

use crate::kind::Kind;
use crate::network::Network;
use crate::peer::{Heard, Peer, Rendezvous};
use crate::trial::{Trial, Trials, network, settled};

/// The server's, apart from those of the hops.
const ADDRESSES: [&str; 2] = ["192.0.2.250", "192.0.2.251"];
/// The first peer has been there for a while, as a person needs to read a code out.
const READING: Duration = Duration::from_millis(700);
/// Until both have met, and for what both say of a failure.
const MEETING: Duration = Duration::from_secs(6);
/// For so long a trial has the processors to itself. Who needs longer is late for another reason.
const TURN: Duration = Duration::from_millis(1500);

/// Of all networks' trials only so many have the processors at a time, and none while a network is
/// made or removed: one lock of the kernel's is for the interfaces of all of them, and who wants a
/// program at an interface waits for it, up to a second.
pub(crate) struct Turns {
    under_way: Mutex<UnderWay>,
    changed: Condvar,
    at_once: usize,
}

#[derive(Default)]
struct UnderWay {
    meetings: usize,
    /// Networks that are made or removed, or are to be as soon as no meeting is under way.
    building: usize,
}

/// One of them; dropping it lets the next begin.
struct Turn<'a>(&'a Turns);

impl Turns {
    pub(crate) fn new(at_once: usize) -> Self {
        let (under_way, changed) = (Mutex::default(), Condvar::new());
        Self { under_way, changed, at_once: at_once.max(1) }
    }

    fn take(&self) -> Turn<'_> {
        let busy = |it: &mut UnderWay| it.meetings == self.at_once || it.building > 0;
        self.wait_while(self.now(), busy).meetings += 1;
        Turn(self)
    }

    /// Makes a network, or removes one.
    fn build<T>(&self, work: impl FnOnce() -> T) -> T {
        let mut now = self.now();
        now.building += 1;
        drop(self.wait_while(now, |it| it.meetings > 0));
        let built = work();
        self.now().building -= 1;
        self.changed.notify_all();
        built
    }

    fn now(&self) -> MutexGuard<'_, UnderWay> {
        self.under_way.lock().expect("nobody panics holding it")
    }

    fn wait_while<'a>(
        &self,
        now: MutexGuard<'a, UnderWay>,
        busy: impl Fn(&mut UnderWay) -> bool,
    ) -> MutexGuard<'a, UnderWay> {
        self.changed.wait_while(now, busy).expect("nobody panics holding it")
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.now().meetings -= 1;
        self.0.changed.notify_all();
    }
}

/// So many trials of these kinds.
pub(crate) fn trials(
    pair: [&Kind; 2],
    count: usize,
    patience: Duration,
    turns: &Turns,
) -> io::Result<Trials> {
    let network = turns.build(|| network(pair, &["--server", &ADDRESSES.join(",")]));
    let hosts = [network.host_a(), network.host_b()];
    // By IPv6 there would be nothing to punch but firewalls.
    hosts.iter().for_each(|host| host.must("sysctl -qw net.ipv6.conf.all.disable_ipv6=1"));
    let server = Rendezvous::start(&network.server(), &ADDRESSES)?;
    let reports = tempfile::tempdir()?;
    let mut done = Trials::default();
    for _ in 0..count {
        hosts.iter().try_for_each(settled)?;
        network.flush_routers();
        done.trials.push(trial(&network, patience, turns, reports.path())?);
    }
    drop(server);
    turns.build(|| drop(network));
    Ok(done)
}

fn trial(
    network: &Network,
    patience: Duration,
    turns: &Turns,
    reports: &Path,
) -> io::Result<Trial> {
    let timeout = format!("{}ms", patience.as_millis());
    let files = ["a", "b"].map(|name| reports.join(name));
    for file in &files {
        // A trial that fails may write none.
        let _ = std::fs::remove_file(file);
    }
    let reports = files.each_ref().map(|file| file.to_string_lossy());
    // A program at an interface takes that lock for tens of milliseconds, of which there are hardly
    // more for all networks together.
    let options = |side: usize| {
        ["-v", "--timeout", &timeout, "--report", &reports[side], "--datapath", "packet"]
    };
    let mut a = Peer::start(&network.host_a(), ADDRESSES[0], &options(0))?;
    let code = a.code()?;
    thread::sleep(READING);
    let turn = turns.take();
    let began = Instant::now();
    let mut b =
        Peer::start(&network.host_b(), ADDRESSES[0], &[&options(1)[..], &[&code]].concat())?;
    let mut heard = [a.hear(began + TURN)?, b.hear(began + TURN)?];
    drop(turn);
    for (peer, heard) in [&mut a, &mut b].into_iter().zip(&mut heard) {
        if matches!(heard, Heard::Nothing) {
            *heard = peer.hear(began + MEETING + patience)?;
        }
    }
    let fd_ms = match heard {
        [Heard::Byte(a), Heard::Byte(b)] => Some(a.max(b).duration_since(began)),
        _ => None,
    };
    let said = [a.said(), b.said()];
    let reports = files.map(|file| {
        File::open(file).ok().and_then(|file| serde_json::from_reader::<_, Report>(file).ok())
    });
    Ok(Trial {
        connected: fd_ms.is_some(),
        fd_ms: fd_ms.map(|time| time.as_secs_f64() * 1e3),
        packets: reports.each_ref().map(|it| it.as_ref().map_or(0, |it| it.packets.sent)),
        strategy: reports[0].as_ref().map(|report| report.strategy.to_string()),
        verdicts: said,
    })
}
