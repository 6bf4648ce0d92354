//! What the eBPF datapath costs others, and how many SYNs it takes in.

use std::error::Error;
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::net::if_::if_nametoindex;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::Value;
use tcp_punch::sys::ebpf::{Ebpf, Watch};

use crate::sample::Sample;
use crate::spray;
use crate::table::{Measured, Row};
use crate::veth::Veth;

/// Many short ones: one is as likely 10 % faster as slower than the next.
const COST_RUNS: usize = 150;
const COST_BYTES: &str = "1G";
/// Of the client and of the server: where the scheduler puts them makes more of a difference than
/// anything that is measured here.
const PROCESSORS: &str = "0,1";
const RATE_RUNS: usize = 15;
/// Thousands of SYNs a second that are enough, whatever the sender can.
const ENOUGH_KPPS: f64 = 500.0;
/// A rate that is the sender's own, as a share of it: a full queue of 1000 between the two, and how
/// far apart their clocks are read, come to 1.8 % of those counted.
const AS_SENT: f64 = 0.98;
const PATIENCE: Duration = Duration::from_secs(20);

/// A search of the far end of the veth pair, for what the spray sends there.
fn watch() -> Result<Watch, Box<dyn Error + Send + Sync>> {
    Ok(Watch {
        interface: if_nametoindex(Veth::FAR_NAME)?,
        local: IpAddr::V4(Veth::FAR),
        peer: IpAddr::V4(Veth::NEAR),
        locals: (1024..5120).collect(),
        remotes: (40_000..40_016).collect(),
        search: true,
        most: 65_536,
    })
}

/// Unrelated traffic through an interface with and without the datapath.
pub(crate) fn cost() -> Result<Measured, Box<dyn Error>> {
    let veth = Veth::up()?;
    let mut server = veth.far.command("iperf3");
    let server = server.args(["--server", "--port", "5201"]).stdout(Stdio::null()).spawn()?;
    let server = Ended(server);
    let (mut with, mut without) = (Vec::new(), Vec::new());
    carried(&veth)?;
    for run in 0..COST_RUNS {
        // Whoever comes second may find a warmer or a busier machine.
        for attached in [run % 2 == 0, run % 2 != 0] {
            let ebpf = attached.then(|| veth.far.run(|| Ok(Ebpf::new(&watch()?)?)));
            let ebpf: Option<Ebpf> = ebpf
                .transpose()
                .map_err(|error: Box<dyn Error + Send + Sync>| error.to_string())?;
            if attached { &mut with } else { &mut without }.push(carried(&veth)?);
            drop(ebpf);
        }
    }
    drop(server);
    // The machine may be faster in one minute than in the next, but hardly in one second.
    let ratios: Sample = with.iter().zip(&without).map(|(with, without)| with / without).collect();
    let [with, without] = [with, without].map(Sample::from_iter);
    let ratio = ratios.median();
    let spread = |sample: &Sample| {
        let [low, high] = [0, 100].map(|share| sample.percentile(share));
        format!("{:.1} Gbit/s ({low:.1} to {high:.1})", sample.median())
    };
    Ok(Measured {
        rows: vec![Row {
            figure: "unrelated traffic through an interface with the eBPF datapath".into(),
            measured: spread(&with),
            alternative: format!("without: {}", spread(&without)),
            ratio: format!(
                "{ratio:.3} (quartiles {:.3}, {:.3})",
                ratios.percentile(25),
                ratios.percentile(75)
            ),
            bar: ">= 0.98",
            met: ratio >= 0.98,
        }],
        samples: vec![
            with.summary("iperf3, eBPF datapath attached", "Gbit/s"),
            without.summary("iperf3, nothing attached", "Gbit/s"),
            ratios.summary("iperf3, attached to not attached", "ratio"),
        ],
        notes: vec![format!(
            "cost of the eBPF datapath: {COST_RUNS} runs of {COST_BYTES}B of iperf3 of each \
             kind in turn over one veth pair, the datapath at the receiving end, client and server \
             on a processor each; the ratio is the median of those of two runs in a row"
        )],
    })
}

/// Gigabits per second.
fn carried(veth: &Veth) -> Result<f64, Box<dyn Error>> {
    let mut client = veth.near.command("iperf3");
    client.args(["--client", &Veth::FAR.to_string(), "--port", "5201"]);
    client.args(["--bytes", COST_BYTES, "--affinity", PROCESSORS, "--json"]);
    let until = Instant::now() + PATIENCE;
    loop {
        let output = client.output()?;
        let said: Value = serde_json::from_slice(&output.stdout)?;
        if let Some(bits) = said["end"]["sum_received"]["bits_per_second"].as_f64() {
            return Ok(bits / 1e9);
        }
        // The server may not listen yet.
        if Instant::now() > until {
            return Err(format!("iperf3: {said}").into());
        }
    }
}

/// SYNs that are taken in and judged, beside what their sender could send at that time.
pub(crate) fn rate() -> Result<Measured, Box<dyn Error>> {
    let veth = Veth::up()?;
    veth.near.must(&format!(
        "ip neighbour replace {} lladdr {} dev {} nud permanent",
        Veth::FAR,
        Veth::FAR_MAC,
        Veth::NEAR_NAME
    ));
    let runs: Result<Vec<Judged>, _> = (0..RATE_RUNS).map(|_| judged(&veth)).collect();
    let runs = runs?;
    spray::drop_early(&veth.far)?;
    let alone: Result<Vec<f64>, _> =
        (0..RATE_RUNS).map(|_| spray::rate(&veth, spray::own(&veth, "link"))).collect();
    let alone = Sample::from_iter(alone?);
    let sample = |of: fn(&Judged) -> f64| Sample::from_iter(runs.iter().map(of));
    let (taken, sent, shares) =
        (sample(|it| it.kpps), sample(|it| it.sender_kpps), sample(Judged::share));
    let syns = spray::TUPLES * RATE_RUNS as u64;
    let judged: u64 = runs.iter().map(|it| it.syns).sum();
    let overruns: u64 = runs.iter().map(|it| it.overruns).sum();
    let whole = runs.iter().all(Judged::is_whole);
    let (ours, share) = (taken.median(), shares.median());
    Ok(Measured {
        rows: vec![Row {
            figure: format!("SYNs taken in and judged by the eBPF datapath, {}", spray::TUPLES),
            measured: format!("{ours:.0} kpps; {judged} of {syns} sent, {overruns} ring overruns"),
            alternative: format!(
                "the sender in the same runs: {:.0} kpps; the sender with nobody judging: {:.0}",
                sent.median(),
                alone.median()
            ),
            ratio: format!("{share:.3} of the sender's in the same run"),
            bar: "none lost, and >= 500 kpps or the sender's rate",
            met: whole && (ours >= ENOUGH_KPPS || share >= AS_SENT),
        }],
        samples: vec![
            taken.summary("SYNs taken in", "kpps"),
            sent.summary("SYNs sent, the judge attached", "kpps"),
            shares.summary("SYNs taken in, of those sent in the same time", "ratio"),
            alone.summary("SYNs sent, far end drops early", "kpps"),
        ],
        notes: vec![format!(
            "SYNs taken in: {RATE_RUNS} sprays of {} tuples over one veth pair, from 5 % to 95 % \
             of them: judged by the programs' own time stamps, sent by the sender's own clock as it \
             hands them to the kernel; every one is read from the ring while they come in. With a \
             queue of 1000 between the two, {AS_SENT} of the sender's rate is the sender's rate; \
             the ratio is the median of the runs. The sender's processor runs the programs too, as \
             a veth pair has it: what they cost slows the sender, so the ratio shows what is lost \
             or falls behind, and the sender with nobody judging, whose far end drops early, what \
             they cost",
            spray::TUPLES
        )],
    })
}

/// One spray that the datapath took in.
struct Judged {
    syns: u64,
    /// Not shown for want of room in the ring.
    overruns: u64,
    /// Thousands a second, by the time stamps of the packets.
    kpps: f64,
    /// By the sender's account.
    sender_kpps: f64,
}

impl Judged {
    fn share(&self) -> f64 {
        self.kpps / self.sender_kpps
    }

    /// Nothing was lost, be it before the programs or behind them.
    fn is_whole(&self) -> bool {
        self.syns == spray::TUPLES && self.overruns == 0
    }
}

fn judged(veth: &Veth) -> Result<Judged, Box<dyn Error>> {
    let mut sender = spray::own(veth, "link");
    sender.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let (stamps, overruns, sent) = veth
        .far
        .run(|| {
            let mut ebpf = Ebpf::new(&watch()?)?;
            let mut sender = Ended(sender.spawn()?);
            let mut stamps = Vec::with_capacity(spray::TUPLES as usize);
            let until = Instant::now() + PATIENCE;
            loop {
                let (through, before) = (sender.0.try_wait()?.is_some(), stamps.len());
                while let Some(caught) = ebpf.receive()? {
                    stamps.push(caught.at.unix_ns());
                }
                let mut ready = [PollFd::new(ebpf.as_fd(), PollFlags::POLLIN)];
                let woken = poll(&mut ready, PollTimeout::from(100u8))? > 0;
                // What has not come in by then never will.
                if through && !woken && stamps.len() == before {
                    break;
                }
                if Instant::now() > until {
                    return Err("the sender does not end".into());
                }
            }
            Ok((stamps, ebpf.counts().lost, sender.said()?))
        })
        .map_err(|error: Box<dyn Error + Send + Sync>| error.to_string())?;
    let at = |share: usize| stamps.get(stamps.len() * share / 100).copied().unwrap_or(0);
    let seconds = (at(95) - at(5)) as f64 / 1e9;
    Ok(Judged {
        syns: stamps.len() as u64,
        overruns,
        kpps: 0.9 * stamps.len() as f64 / seconds / 1e3,
        sender_kpps: sent.trim().parse().map_err(|_| format!("the sender says {sent:?}"))?,
    })
}

struct Ended(Child);

impl Ended {
    /// Its standard output, if it succeeds.
    fn said(&mut self) -> io::Result<String> {
        let mut texts = [String::new(), String::new()];
        if let Some(stdout) = &mut self.0.stdout {
            stdout.read_to_string(&mut texts[0])?;
        }
        if let Some(stderr) = &mut self.0.stderr {
            stderr.read_to_string(&mut texts[1])?;
        }
        let [said, complaint] = texts;
        match self.0.wait()?.success() {
            true => Ok(said),
            false => Err(io::Error::other(format!("the sender: {complaint}"))),
        }
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
