//! From the peer's SYN coming in to the SYN-ACK leaving, on the host's own interface.

use std::error::Error;

use tcp_punch::wire::Segment;

use crate::capture::{Capture, Captured};
use crate::job::{How, Then, Tuning, Way};
use crate::pair::{Meeting, Pair};
use crate::sample::{Sample, us};
use crate::table::{Measured, Row};

/// Each has two ends.
const PUNCHES: usize = 150;
const LONGEST_US: f64 = 10.0;
const TIMES: f64 = 5.0;

pub(crate) fn measure() -> Result<Measured, Box<dyn Error>> {
    let pair = Pair::behind_nats("10ms");
    let hosts = [pair.network.host_a(), pair.network.host_b()];
    let captures = hosts.map(|host| Capture::start(&host, "eth0"));
    let mut took = [Vec::new(), Vec::new()];
    for _ in 0..PUNCHES {
        for (way, took) in [Way::Ebpf, Way::Packet].into_iter().zip(&mut took) {
            let how = How::Tuned(Tuning { datapath: Some(way), ..Tuning::default() });
            pair.connected(Meeting::of(how, Then::Close))?;
            for capture in &captures {
                took.extend(reply_us(&capture.packets(|_| true)));
            }
        }
    }
    let [ours, theirs] = took.map(Sample::from_iter);
    let words = |sample: &Sample| {
        format!("p50 {:.1} us, p99 {:.1} us", sample.median(), sample.percentile(99))
    };
    let ratio = theirs.median() / ours.median();
    Ok(Measured {
        rows: vec![Row {
            figure: format!("the peer's SYN in to SYN-ACK out, eBPF, {} times", ours.len()),
            measured: words(&ours),
            alternative: format!("packet sockets: {}", words(&theirs)),
            ratio: format!("{ratio:.1} times better"),
            bar: "p50 <= 10 us, 5 times better",
            met: ours.median() <= LONGEST_US && ratio >= TIMES,
        }],
        samples: vec![
            ours.summary("SYN in to SYN-ACK out, eBPF", "us"),
            theirs.summary("SYN in to SYN-ACK out, packet sockets", "us"),
        ],
        notes: vec![
            "reply: both ends of punches with each datapath in turn; the kernel's time stamps of \
             both packets at one packet socket on the host's eth0"
                .into(),
        ],
    })
}

/// How long the first SYN of the peer's waited for its answer.
fn reply_us(packets: &[Captured]) -> Option<f64> {
    let parsed = packets.iter().filter_map(|it| Some((it.at, Segment::parse(&it.bytes).ok()?)));
    let mut segments = parsed.filter(|(_, it)| it.syn);
    // Hosts have private addresses, and reach each other by public ones.
    let is_ours = |it: &Segment| match it.tuple.local.ip() {
        std::net::IpAddr::V4(ip) => ip.is_private(),
        std::net::IpAddr::V6(_) => false,
    };
    let (came, syn) = segments.find(|(_, it)| it.ack.is_none() && !is_ours(it))?;
    let (left, _) = segments.find(|(_, it)| it.ack == Some(syn.seq + 1) && is_ours(it))?;
    Some(us(i64::try_from((left.checked_sub(came)?).as_nanos()).ok()?))
}
