//! How far from the instant the SYN leaves.

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use etherparse::{SlicedPacket, TransportSlice};
use tcp_punch::sys::clock;

use crate::capture::Capture;
use crate::job::{How, Job, Then};
use crate::pair::{Pair, fresh_port};
use crate::sample::{Sample, us};
use crate::table::{Measured, Row};

const FIRINGS: usize = 200;
/// Enough for a process to start and to raise its priority.
const NOTICE: Duration = Duration::from_millis(100);
/// Nobody is to answer; what counts has left by then.
const PATIENCE_MS: u64 = 5;

pub(crate) fn measure() -> Result<Measured, Box<dyn Error>> {
    let pair = Pair::behind_nats("10ms");
    let capture = Capture::start(&pair.network.host_a(), "eth0");
    let (mut product, mut alternative, mut reported) = (vec![], vec![], vec![]);
    for _ in 0..FIRINGS {
        let (error, own) = fire(&pair, &capture, How::Punch { opener: false })?;
        product.push(error);
        reported.extend(own);
        alternative.push(fire(&pair, &capture, How::Connect)?.0);
    }
    // Too early is as wrong as too late.
    let distance =
        |errors: &[i64]| errors.iter().map(|ns| us(ns.saturating_abs())).collect::<Sample>();
    let (ours, theirs) = (distance(&product), distance(&alternative));
    let own = distance(&reported);
    let signed = product.iter().copied().map(us).collect::<Sample>();
    let ratio = theirs.median() / ours.median();
    let (p50, p99) = (ours.median(), ours.percentile(99));
    let both = |sample: &Sample| {
        format!("p50 {:.1} us, p99 {:.1} us", sample.median(), sample.percentile(99))
    };
    Ok(Measured {
        rows: vec![Row {
            figure: format!("send error at the instant, {FIRINGS} firings"),
            measured: both(&ours),
            alternative: format!("sleep, connect(): {}", both(&theirs)),
            ratio: format!("{ratio:.1} times better"),
            bar: "p50 <= 10 us, p99 <= 100 us, 10 times better",
            met: p50 <= 10.0 && p99 <= 100.0 && ratio >= 10.0,
        }],
        samples: vec![
            ours.summary("send error, punch", "us"),
            signed.summary("send error with its sign, punch", "us"),
            own.summary("send error, punch, as its own report has it", "us"),
            theirs.summary("send error, sleep then connect()", "us"),
        ],
        notes: vec![
            "send error: for both kinds the kernel's time stamp of the outgoing SYN at a packet \
             socket on the host's eth0, since a connecting socket has no transmit timestamp of its \
             SYN; the punch's report has the driver's (SO_TIMESTAMPING), just behind it"
                .into(),
        ],
    })
}

/// Fires once. Returns the SYN's distance from the instant as captured and as reported, in
/// nanoseconds.
fn fire(pair: &Pair, capture: &Capture, how: How) -> Result<(i64, Option<i64>), Box<dyn Error>> {
    let port = fresh_port();
    let at_ns = clock::now().after(NOTICE).unix_ns();
    let peer = SocketAddr::new(pair.b().parse()?, port);
    let job = Job {
        at_ns,
        peer,
        port,
        patience_ms: PATIENCE_MS,
        how,
        then: Then::Close,
        key: None,
        models: None,
    };
    let outcome = Pair::start(&pair.network.host_a(), &job)?.outcome()?;
    let syns = capture.packets(|packet| is_syn(packet, port));
    let syn = syns.first().ok_or_else(|| format!("no SYN left: {:?}", outcome.error))?;
    let sent_ns = i64::try_from(syn.at.as_nanos())?;
    Ok((sent_ns - at_ns, outcome.report.and_then(|report| report.fired.error_ns)))
}

fn is_syn(packet: &[u8], port: u16) -> bool {
    let transport = SlicedPacket::from_ip(packet).ok().and_then(|packet| packet.transport);
    matches!(transport, Some(TransportSlice::Tcp(tcp)) if tcp.syn() && tcp.source_port() == port)
}
