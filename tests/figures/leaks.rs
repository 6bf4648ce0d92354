//! Resets of a host's own that leave while it searches.

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use tcp_punch::sys::clock;

use crate::job::{How, Job, Then, Tuning, Way};
use crate::network::{Host, Network};
use crate::pair::{Pair, fresh_port};
use crate::table::{Measured, Row};

/// With each datapath.
const SEARCHES: usize = 4;
const WIDE: &str = "random:1024-65535";
/// As in the figure of the search itself.
const BUDGET: [u32; 3] = [260_000, 130_000, 40_000];
/// The openers of 130,000 tuples leave before the instant, and programs have to start.
const NOTICE: Duration = Duration::from_millis(4_000);
const PATIENCE_MS: u64 = 5_000;
/// What is still under way when the connection stands comes within that.
const AFTERWARDS_MS: u64 = 500;
/// Counts what passes it, and lets it pass.
const RESETS: &str = "PREROUTING -i lan -p tcp --tcp-flags RST RST";

/// What searches came to.
#[derive(Default)]
struct Tally {
    connected: usize,
    leaked: u64,
    /// What drew no reset.
    held_back: u64,
    answered: u64,
}

pub(crate) fn measure() -> Result<Measured, Box<dyn Error>> {
    let [ours, theirs] =
        [searches(Way::Ebpf)?, searches(Way::Packet)?].map(|tally| (tally.words(), tally));
    Ok(Measured {
        rows: vec![Row {
            figure: format!("resets leaked, {SEARCHES} searches over 64,512 ports, eBPF"),
            measured: ours.0,
            alternative: format!("packet sockets: {}", theirs.0),
            ratio: "-".into(),
            bar: "0",
            met: ours.1.leaked == 0,
        }],
        samples: vec![],
        notes: vec![
            "leaks: resets from either host that reach its router, by iptables, until half a \
             second after the connection; in brackets segments that would have drawn one"
                .into(),
            format!("leaks: SYNs answered in the kernel: {}", ours.1.answered),
        ],
    })
}

impl Tally {
    fn words(&self) -> String {
        let Self { connected, leaked, held_back, .. } = self;
        format!("{leaked} (of {held_back}), {connected} of {SEARCHES} connected")
    }
}

fn searches(way: Way) -> Result<Tally, Box<dyn Error>> {
    let mut tally = Tally::default();
    for seed in 1..=SEARCHES {
        let kind = "random-fully";
        let seed = seed.to_string();
        let options = ["--delay", "10ms", "--nat-a", kind, "--nat-b", kind, "--seed", &seed];
        let network = Network::up(options);
        let routers = [network.router_a(), network.router_b()];
        for router in &routers {
            router.must(&format!("iptables -t raw -A {RESETS}"));
        }
        let at_ns = clock::now().after(NOTICE).unix_ns();
        let port = fresh_port();
        let job = |peer: &str, then| -> Result<Job, Box<dyn Error>> {
            let tuning = Tuning {
                budget: Some(BUDGET),
                anyway: true,
                datapath: Some(way),
                ..Tuning::default()
            };
            Ok(Job {
                at_ns,
                peer: SocketAddr::new(peer.parse()?, port),
                port,
                patience_ms: PATIENCE_MS,
                how: How::Tuned(tuning),
                then,
                key: Some([7; 32]),
                models: Some([WIDE.into(), WIDE.into()]),
            })
        };
        let a = job("203.0.113.1", Then::Send { ms: AFTERWARDS_MS })?;
        let b = job("198.51.100.1", Then::Receive)?;
        let running = [Pair::start(&network.host_a(), &a)?, Pair::start(&network.host_b(), &b)?];
        let [a, b] = running.map(|end| end.outcome());
        let ends = [a?, b?];
        tally.connected += usize::from(ends.iter().all(|end| end.fd_ns.is_some()));
        for report in ends.iter().filter_map(|end| end.report.as_ref()) {
            tally.held_back += report.rst.own_suppressed;
            let counts = report.datapath.as_ref().and_then(|it| it.counts);
            tally.answered += counts.map_or(0, |counts| counts.answered);
        }
        for router in &routers {
            tally.leaked += counted(router)?;
        }
    }
    Ok(tally)
}

/// Packets that the rule has seen.
fn counted(router: &Host) -> Result<u64, Box<dyn Error>> {
    let list = "-t raw -L PREROUTING -v -x -n".split(' ');
    let output = router.command("iptables").args(list).output()?;
    let text = String::from_utf8(output.stdout)?;
    // A line of policy, a heading, the rule: packets come first in it.
    let packets = text.lines().nth(2).and_then(|rule| rule.split_whitespace().next());
    Ok(packets.ok_or("no rule")?.parse()?)
}
