//! How fast a spray leaves, beside the port scanners that send as fast as they can.

use std::env;
use std::error::Error;
use std::ffi::OsStr;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tcp_punch::sys::{Priority, Route, Spray};
use tcp_punch::wire::{Options, Segment, Seq, Template, Tuple};

use crate::network::Host;
use crate::sample::Sample;
use crate::table::{Measured, Row};
use crate::veth::{Veth, succeed};

pub(crate) const TUPLES: u64 = 65_536;
const ROUNDS: usize = 15;
/// The slowest takes half a second, and masscan as much again until it begins.
const PATIENCE: Duration = Duration::from_secs(20);
const SAMPLING: Duration = Duration::from_micros(500);
/// What comes and goes with a program's start and end is left out.
const COUNTED: [f64; 2] = [0.05, 0.95];

const SENDERS: [(&str, Start); 5] = [
    ("spray", |veth| own(veth, "link")),
    ("spray through the raw socket", |veth| own(veth, "raw")),
    ("masscan", masscan),
    ("zmap", zmap),
    ("hping3", hping3),
];

/// The first argument of the product's process, which is this program.
pub(crate) const SERVE: &str = "send-spray";

type Start = fn(&Veth) -> Command;

pub(crate) fn measure() -> Result<Measured, Box<dyn Error>> {
    let veth = Veth::up()?;
    let drops_by = drop_early(&veth.far)?;
    // No sender is to wait for its neighbour.
    veth.near.must(&format!(
        "ip neighbour replace {} lladdr {} dev {} nud permanent",
        Veth::FAR,
        Veth::FAR_MAC,
        Veth::NEAR_NAME
    ));
    let mut rates = SENDERS.map(|_| Vec::new());
    for _ in 0..ROUNDS {
        for ((name, start), rates) in SENDERS.iter().zip(&mut rates) {
            rates.push(rate(&veth, start(&veth)).map_err(|error| format!("{name}: {error}"))?);
        }
    }
    let rates = rates.map(Sample::from_iter);
    let [ours, raw, masscan, zmap, hping3] = rates.each_ref().map(Sample::median);
    let ratio = ours / masscan;
    Ok(Measured {
        rows: vec![Row {
            figure: format!("spray rate, far end drops early, {TUPLES} tuples"),
            measured: format!("{ours:.0} kpps"),
            alternative: format!("masscan: {masscan:.0}, zmap: {zmap:.0}, hping3: {hping3:.0}"),
            ratio: format!("{ratio:.2} times masscan's"),
            bar: ">= 1.5 times masscan's, above zmap's and hping3's",
            met: ratio >= 1.5 && ours > zmap && ours > hping3,
        }],
        samples: SENDERS
            .iter()
            .zip(&rates)
            .map(|((name, _), rates)| rates.summary(format!("packets, {name}"), "kpps"))
            .collect(),
        notes: vec![format!(
            "spray rate: {ROUNDS} runs of each in turn over one veth pair whose far end drops by \
             {drops_by}; packets by the far interface's own count, read every {} us, from 5 % to 95 % of \
             them; through the raw socket, which the host's firewall sees, {raw:.0} kpps",
            SAMPLING.as_micros()
        )],
    })
}

/// The host drops IPv4 before anything looks at it. Returns by what.
pub(crate) fn drop_early(host: &Host) -> Result<&'static str, String> {
    // A classic program of one instruction, whose result is TC_ACT_SHOT: other actions are modules
    // of their own, which a kernel may lack.
    let words = "filter add dev far0 ingress protocol ip bpf da bytecode";
    let mut filter = host.command("tc");
    filter.args(words.split(' ')).arg("1,6 0 0 2");
    let mut hook = host.command("tc");
    hook.args("qdisc add dev far0 clsact".split(' '));
    if succeed(&mut hook).and_then(|()| succeed(&mut filter)).is_ok() {
        return Ok("tc ingress");
    }
    let mut rule = host.command("iptables");
    succeed(rule.args("-t raw -A PREROUTING -j DROP".split(' ')))?;
    Ok("iptables' raw table")
}

/// Packets that the far interface has received. To be asked on the far host.
fn arrived() -> Result<u64, String> {
    let table =
        fs::read_to_string("/proc/thread-self/net/dev").map_err(|error| error.to_string())?;
    table
        .lines()
        .filter_map(|line| line.trim_start().split_once(':'))
        .find_map(|(name, counts)| {
            counts.split_whitespace().nth(1).filter(|_| name == Veth::FAR_NAME)
        })
        .and_then(|packets| packets.parse().ok())
        .ok_or_else(|| format!("no {} in: {table}", Veth::FAR_NAME))
}

/// Thousands of packets a second that arrive at the far end. The program is ended when all have.
pub(crate) fn rate(veth: &Veth, mut command: Command) -> Result<f64, Box<dyn Error>> {
    let scratch = env::temp_dir();
    command.current_dir(scratch).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let passed = veth.far.run(|| {
        let base = arrived()?;
        let mut running = Running(command.spawn().map_err(|error| error.to_string())?);
        let _on_time = Priority::raise();
        let mut passed = vec![];
        let end = Instant::now() + PATIENCE;
        loop {
            let count = arrived()? - base;
            passed.push((Instant::now(), count));
            if count >= TUPLES {
                return Ok(passed);
            }
            if Instant::now() > end {
                return Err(format!("{count} of {TUPLES} packets arrived"));
            }
            match running.0.try_wait() {
                Ok(Some(status)) if arrived()? - base < TUPLES => {
                    return Err(format!("{count} of {TUPLES} packets arrived, {status}"));
                }
                _ => thread::sleep(SAMPLING),
            }
        }
    })?;
    let [from, to] = COUNTED.map(|share| when(&passed, share * TUPLES as f64));
    Ok((COUNTED[1] - COUNTED[0]) * TUPLES as f64 / (to - from) / 1e3)
}

/// When so many had arrived, seconds after the first look; between two looks at an even rate.
fn when(passed: &[(Instant, u64)], wanted: f64) -> f64 {
    let began = passed[0].0;
    let at = passed.partition_point(|(_, count)| (*count as f64) < wanted).max(1);
    let seconds = |index: usize| passed[index].0.duration_since(began).as_secs_f64();
    let count = |index: usize| passed[index].1 as f64;
    let share = (wanted - count(at - 1)) / (count(at) - count(at - 1));
    seconds(at - 1) + share * (seconds(at) - seconds(at - 1))
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Every sender alike goes before other work on the machine, which is not what is measured: in a
/// session of its own, since the kernel shares time among sessions first (sched(7), autogroup).
fn program(veth: &Veth, name: impl AsRef<OsStr>) -> Command {
    let mut command = veth.near.command("setsid");
    command.args(["sh", "-c", FIRST, "sh"]).arg(name);
    command
}

/// Real-time priority would be firmer, but zmap never starts with it.
const FIRST: &str = "{ echo -20 >/proc/self/autogroup; } 2>/dev/null; exec nice -n -20 \"$@\"";

pub(crate) fn own(veth: &Veth, way: &str) -> Command {
    let mut command = program(veth, env::current_exe().unwrap_or_default());
    command.args([SERVE, way]);
    command
}

/// The whole of the product's process. Says how many thousands a second it sent, if it sent all.
pub(crate) fn serve(way: &str) -> Result<(), Box<dyn Error>> {
    let (local, peer) = (IpAddr::V4(Veth::NEAR), IpAddr::V4(Veth::FAR));
    let mut spray = match way {
        "raw" => Spray::through_host(local, peer)?,
        _ => Spray::new(&Route::to(peer, Some(local))?, local, peer)?,
    };
    let tuple = Tuple { local: SocketAddr::new(local, 1), remote: SocketAddr::new(peer, 1) };
    let template = Template::new(&Segment {
        syn: true,
        window: 64_240,
        options: Options {
            mss: Some(1460),
            window_scale: Some(7),
            sack_permitted: true,
            timestamps: Some((1, 0)),
        },
        ..Segment::new(tuple, Seq(1))
    });
    let tuples = (0..16).flat_map(|local| (1024..5120).map(move |remote| (40_000 + local, remote)));
    // When the packets of either end of what is counted went to the kernel, a batch or so early.
    let [from, to] = COUNTED.map(|share| (share * TUPLES as f64) as u64);
    let (mut began, mut ended) = (None, None);
    let timed = (0..).zip(tuples).map(|(number, tuple)| {
        if number == from {
            began = Some(Instant::now());
        } else if number == to {
            ended = Some(Instant::now());
        }
        tuple
    });
    let sent = spray.send(&template, timed)?;
    if u64::from(sent) < TUPLES {
        return Err(format!("{sent} sent").into());
    }
    let took = began.zip(ended).map_or(Duration::ZERO, |(began, ended)| ended - began);
    println!("{}", (to - from) as f64 / took.as_secs_f64() / 1e3);
    Ok(())
}

fn masscan(veth: &Veth) -> Command {
    let mut command = program(veth, "masscan");
    command.arg(Veth::FAR.to_string()).args(["--ports", "0-65535", "--adapter", Veth::NEAR_NAME]);
    command.args(["--adapter-ip", &Veth::NEAR.to_string(), "--adapter-port", "40000"]);
    command.args(["--adapter-mac", Veth::NEAR_MAC, "--router-mac", Veth::FAR_MAC]);
    command.args(["--rate", "10000000", "--wait", "0"]);
    command
}

fn zmap(veth: &Veth) -> Command {
    let mut command = program(veth, "zmap");
    // One probe for each source port is the most that every version sends to one host.
    command.arg(format!("{}/32", Veth::FAR)).args(["--probes", "65536", "--target-port", "80"]);
    command.args(["--source-port", "40000-40015", "--interface", Veth::NEAR_NAME]);
    command.args(["--source-ip", &Veth::NEAR.to_string(), "--source-mac", Veth::NEAR_MAC]);
    command.args(["--gateway-mac", Veth::FAR_MAC, "--rate", "0", "--cooldown-time", "0"]);
    command.args(["-b", "/dev/null", "--output-file", "/dev/null"]);
    command
}

fn hping3(veth: &Veth) -> Command {
    let mut command = program(veth, "hping3");
    command.arg(Veth::FAR.to_string()).args([
        "--syn",
        "--flood",
        "--quiet",
        "--destport",
        "++1024",
    ]);
    command.args(["--baseport", "40000", "--interface", Veth::NEAR_NAME]);
    command
}
