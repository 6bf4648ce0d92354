//! Whether the hand-over loses anything that the peer sends at once.

use std::collections::HashMap;
use std::error::Error;
use std::net::Ipv4Addr;
use std::time::Duration;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};

use crate::capture::{Capture, Captured};
use crate::job::{How, Outcome, Then};
use crate::pair::{Meeting, Pair};
use crate::table::{Measured, Row};

const PUNCHES: usize = 200;
const BYTES: usize = 8 << 10;
/// One end this much later than the other: it answers the SYN that it finds waiting, so that the
/// first end's data comes right behind the last segment of the handshake, into the hand-over.
const SKEW: Duration = Duration::from_millis(50);

#[derive(Default)]
struct Tally {
    retransmissions: u64,
    repeated: u64,
    with_early: usize,
    early_bytes: u64,
}

pub(crate) fn measure() -> Result<Measured, Box<dyn Error>> {
    let pair = Pair::behind_nats("10ms");
    let hosts = [pair.network.host_a(), pair.network.host_b()];
    let captures = hosts.map(|host| Capture::start(&host, "eth0"));
    let (mut ours, mut theirs) = (Tally::default(), Tally::default());
    let (mut asked, mut connects) = (0, 0);
    for number in 0..PUNCHES {
        let exchange = Then::Exchange { bytes: BYTES };
        let mut meeting = Meeting::of(How::Punch { opener: true }, exchange);
        if number % 2 == 1 {
            meeting.skew = SKEW;
        }
        ours.add(&pair.connected(meeting)?, &captures)?;
        asked += 1;
        if number % 4 == 0 {
            let outcomes = pair.outcomes(Meeting::of(How::Connect, exchange))?;
            if outcomes.iter().all(|outcome| outcome.error.is_none()) {
                theirs.add(&outcomes, &captures)?;
                connects += 1;
            }
        }
    }
    let total = ours.total();
    Ok(Measured {
        rows: vec![Row {
            figure: format!("retransmissions, {asked} punches, data at once both ways"),
            measured: total.to_string(),
            alternative: format!("timed connect(): {} in {connects}", theirs.total()),
            ratio: "-".into(),
            bar: "0",
            met: total == 0,
        }],
        samples: vec![],
        notes: vec![format!(
            "retransmissions: TCP_INFO's count at both ends ({}) and data segments leaving a \
             host twice ({}); {BYTES} bytes each way; in every second punch one end is {} ms \
             late, so that data comes into its hand-over; it came before the descriptor at {} of \
             {} ends, {} bytes in all",
            ours.retransmissions,
            ours.repeated,
            SKEW.as_millis(),
            ours.with_early,
            2 * asked,
            ours.early_bytes
        )],
    })
}

impl Tally {
    /// Both count the same unless one is blind to something.
    fn total(&self) -> u64 {
        self.retransmissions.max(self.repeated)
    }

    fn add(&mut self, outcomes: &[Outcome], captures: &[Capture]) -> Result<(), Box<dyn Error>> {
        for outcome in outcomes {
            let retransmissions = outcome.retransmissions.ok_or("an end without TCP_INFO")?;
            self.retransmissions += u64::from(retransmissions);
            let handover = outcome.report.as_ref().and_then(|report| report.handover.as_ref());
            let early = handover.map_or(0, |handover| handover.early_bytes);
            self.with_early += usize::from(early > 0);
            self.early_bytes += early;
        }
        for capture in captures {
            // Where it left: a host's own address is private, the peer's is its router's.
            let left = |packet: &[u8]| {
                payload(packet)
                    .is_some_and(|((source, _), _, _)| Ipv4Addr::from(source).is_private())
            };
            let data = capture.packets(left);
            self.repeated += repeated(&data)?;
        }
        Ok(())
    }
}

/// Source port and address with its first sequence number, and the bytes of payload.
type Data = (([u8; 4], u16), u32, u32);

fn payload(packet: &[u8]) -> Option<Data> {
    let sliced = SlicedPacket::from_ip(packet).ok()?;
    let (NetSlice::Ipv4(ip), TransportSlice::Tcp(tcp)) = (sliced.net?, sliced.transport?) else {
        return None;
    };
    let header = ip.header();
    // The capture keeps the beginning of a packet only, so its length is taken from the header.
    let headers = usize::from(header.ihl()) * 4 + usize::from(tcp.data_offset()) * 4;
    let bytes = usize::from(header.total_len()).checked_sub(headers)?;
    let bytes = u32::try_from(bytes).ok().filter(|bytes| *bytes > 0)?;
    Some(((header.source(), tcp.source_port()), tcp.sequence_number(), bytes))
}

/// How many data segments begin before the end of what the same sender had sent already.
fn repeated(data: &[Captured]) -> Result<u64, Box<dyn Error>> {
    let mut next: HashMap<_, u32> = HashMap::new();
    let mut count = 0;
    for captured in data {
        let (sender, seq, bytes) = payload(&captured.bytes).ok_or("data without payload")?;
        let end = seq.wrapping_add(bytes);
        let expected = next.entry(sender).or_insert(seq);
        if (seq.wrapping_sub(*expected) as i32) < 0 {
            count += 1;
        } else {
            *expected = end;
        }
    }
    Ok(count)
}
