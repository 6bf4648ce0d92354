//! One end: an attempt until it is established, then as much of a kernel as late segments meet.

use std::time::Duration;
use tcp_punch::punch::{
    AttemptConfig, EstablishedTcb, Offer, Opener, Output, Race, RaceConfig, Strategy,
};
use tcp_punch::wire::{Segment, Seq, Tuple, WallTime};

pub(crate) struct Host {
    race: Race,
    /// The peer's SYN was met, so that a kernel socket stands already.
    prepared: bool,
    pub(crate) tcb: Option<EstablishedTcb>,
    pub(crate) established_at: Option<WallTime>,
}

impl Host {
    pub(crate) fn new(tuple: Tuple, iss: u32, at: WallTime, opener: bool) -> Self {
        let attempt = AttemptConfig {
            tuple,
            at,
            timeout: Duration::from_secs(20),
            iss: Seq(iss),
            expected_irs: None,
            offer: Offer { mss: 1460, window_scale: 7, window: 65408 },
            strategy: Strategy::Syn,
            racing: false,
            seed: u64::from(iss).wrapping_mul(0x9e37_79b9_7f4a_7c15),
        };
        let mut race = Race::new(RaceConfig { attempt, tuples: vec![], search: None });
        if opener {
            race.set_opener(Opener { hop_limit: 2, at: at.before(Duration::from_millis(250)) });
        }
        Self { race, prepared: false, tcb: None, established_at: None }
    }

    pub(crate) fn poll_timeout(&self) -> Option<WallTime> {
        self.race.poll_timeout()
    }

    pub(crate) fn handle_timeout(&mut self, now: WallTime) -> Vec<Segment> {
        self.race.handle_timeout(now);
        self.sent(now)
    }

    pub(crate) fn receive(&mut self, segment: &Segment, now: WallTime) -> Vec<Segment> {
        if let Some(tcb) = &self.tcb {
            // RFC 9293 section 3.10.7.4: what is no acceptable segment is answered with an ACK.
            let acceptable = !segment.syn && segment.seq == tcb.rcv_nxt;
            let answered = !acceptable && !segment.rst;
            return answered.then(|| tcb.acknowledge(None)).into_iter().collect();
        }
        self.race.handle_segment(segment, now);
        let mut sent = self.sent(now);
        if let Some(tcb) = &self.tcb
            && (segment.syn || !self.prepared)
        {
            // The kernel socket challenges the SYN-ACK, or the engine completes the peer.
            sent.push(tcb.acknowledge(None));
        }
        sent
    }

    fn sent(&mut self, now: WallTime) -> Vec<Segment> {
        let mut segments = Vec::new();
        while let Some(output) = self.race.poll() {
            match output {
                Output::Transmit(segment, _) => segments.push(segment),
                Output::Prepare(_) => self.prepared = true,
                Output::Established(tcb) => {
                    self.established_at = Some(now);
                    self.tcb = Some(tcb);
                }
                Output::Spray(..) | Output::Expired => {}
            }
        }
        segments
    }
}
