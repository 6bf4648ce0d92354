//! What the eBPF datapath costs others, and how many SYNs it takes in.

use std::error::Error;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::net::if_::if_nametoindex;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::Value;
use tcp_punch::sys::ebpf::{Counts, Ebpf, Watch};

use crate::sample::Sample;
use crate::spray;
use crate::table::{Measured, Row};
use crate::veth::Veth;

const COST_RUNS: usize = 10;
const COST_SECONDS: &str = "2";
const RATE_RUNS: usize = 15;
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
    let [with, without] = [with, without].map(Sample::from_iter);
    let ratio = with.median() / without.median();
    let spread = |sample: &Sample| {
        let [low, high] = [0, 100].map(|share| sample.percentile(share));
        format!("{:.1} Gbit/s ({low:.1} to {high:.1})", sample.median())
    };
    Ok(Measured {
        rows: vec![Row {
            figure: "unrelated traffic through an interface with the eBPF datapath".into(),
            measured: spread(&with),
            alternative: format!("without: {}", spread(&without)),
            ratio: format!("{ratio:.3}"),
            bar: ">= 0.98",
            met: ratio >= 0.98,
        }],
        samples: vec![
            with.summary("iperf3, eBPF datapath attached", "Gbit/s"),
            without.summary("iperf3, nothing attached", "Gbit/s"),
        ],
        notes: vec![format!(
            "cost of the eBPF datapath: {COST_RUNS} runs of {COST_SECONDS} s of iperf3 of each \
             kind in turn over one veth pair, the datapath at the receiving end"
        )],
    })
}

/// Gigabits per second.
fn carried(veth: &Veth) -> Result<f64, Box<dyn Error>> {
    let mut client = veth.near.command("iperf3");
    client.args(["--client", &Veth::FAR.to_string(), "--port", "5201"]);
    client.args(["--time", COST_SECONDS, "--json"]);
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

/// SYNs that are taken in and judged, none lost.
pub(crate) fn rate() -> Result<Measured, Box<dyn Error>> {
    let veth = Veth::up()?;
    veth.near.must(&format!(
        "ip neighbour replace {} lladdr {} dev {} nud permanent",
        Veth::FAR,
        Veth::FAR_MAC,
        Veth::NEAR_NAME
    ));
    let (mut taken, mut lost) = (Vec::new(), 0);
    for _ in 0..RATE_RUNS {
        let (rate, counts) = taken_in(&veth, spray::own(&veth, "link"))?;
        taken.push(rate);
        lost += counts.lost;
    }
    spray::drop_early(&veth.far)?;
    let sent: Result<Vec<f64>, _> =
        (0..RATE_RUNS).map(|_| spray::rate(&veth, spray::own(&veth, "link"))).collect();
    let (taken, sent) = (Sample::from_iter(taken), Sample::from_iter(sent?));
    let (ours, senders) = (taken.median(), sent.median());
    Ok(Measured {
        rows: vec![Row {
            figure: format!("SYNs taken in and judged by the eBPF datapath, {}", spray::TUPLES),
            measured: format!("{ours:.0} kpps, {lost} lost"),
            alternative: format!("the sender alone, far end drops early: {senders:.0} kpps"),
            ratio: format!("{:.2}", ours / senders),
            bar: "none lost, and >= 500 kpps or the sender's rate",
            met: lost == 0 && ours >= 500_f64.min(senders),
        }],
        samples: vec![
            taken.summary("SYNs taken in", "kpps"),
            sent.summary("SYNs sent, far end drops early", "kpps"),
        ],
        notes: vec![format!(
            "SYNs taken in: {RATE_RUNS} sprays of {} tuples over one veth pair, by the programs' \
             own time stamps, from 5 % to 95 % of them; every one is read from the ring while they \
             come in. The sender's processor runs the receiving programs too, as a veth pair has it",
            spray::TUPLES
        )],
    })
}

/// Thousands a second, by the time stamps of the packets.
fn taken_in(veth: &Veth, mut sender: Command) -> Result<(f64, Counts), Box<dyn Error>> {
    sender.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let (stamps, counts) = veth
        .far
        .run(|| {
            let mut ebpf = Ebpf::new(&watch()?)?;
            let _sender = Ended(sender.spawn()?);
            let mut stamps = Vec::with_capacity(spray::TUPLES as usize);
            let until = Instant::now() + PATIENCE;
            while (stamps.len() as u64) < spray::TUPLES {
                while let Some(caught) = ebpf.receive()? {
                    stamps.push(caught.at.unix_ns());
                }
                let lost = ebpf.counts().lost;
                if Instant::now() > until || stamps.len() as u64 + lost >= spray::TUPLES {
                    break;
                }
                let mut ready = [PollFd::new(ebpf.as_fd(), PollFlags::POLLIN)];
                poll(&mut ready, PollTimeout::from(100u8))?;
            }
            Ok((stamps, ebpf.counts()))
        })
        .map_err(|error: Box<dyn Error + Send + Sync>| error.to_string())?;
    let at = |share: usize| stamps.get(stamps.len() * share / 100).copied().unwrap_or(0);
    let seconds = (at(95) - at(5)) as f64 / 1e9;
    Ok((0.9 * stamps.len() as f64 / seconds / 1e3, counts))
}

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
