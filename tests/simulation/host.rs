//! One end: a race until it is established, and as much of a kernel as the peer's segments meet.

use tcp_punch::punch::{EstablishedTcb, Opener, Output, Race, RaceConfig};
use tcp_punch::wire::{Segment, WallTime};

/// RFC 7323 section 3.2: once agreed, they stand in every segment.
const TIMESTAMPS: Option<(u32, u32)> = Some((1, 1));

pub(crate) struct Host {
    race: Race,
    /// Kernel sockets: one on each tuple on which the peer was met, in the end the winner's alone.
    sockets: Vec<EstablishedTcb>,
    /// A listener that hears nothing keeps the kernel silent elsewhere.
    pub(crate) tcb: Option<EstablishedTcb>,
    pub(crate) established_at: Option<WallTime>,
}

impl Host {
    pub(crate) fn new(config: RaceConfig, opener: Option<Opener>) -> Self {
        let mut race = Race::new(config);
        if let Some(opener) = opener {
            race.set_opener(opener);
        }
        Self { race, sockets: Vec::new(), tcb: None, established_at: None }
    }

    pub(crate) fn race(&mut self) -> &mut Race {
        &mut self.race
    }

    pub(crate) fn poll_timeout(&self) -> Option<WallTime> {
        self.race.poll_timeout()
    }

    pub(crate) fn handle_timeout(&mut self, now: WallTime) -> Vec<Segment> {
        self.race.handle_timeout(now);
        self.sent(now)
    }

    pub(crate) fn receive(&mut self, segment: &Segment, now: WallTime) -> Vec<Segment> {
        // The kernel is first; what it sends leaves before the race is asked.
        let mut sent: Vec<_> = self.answer(segment).into_iter().collect();
        if self.tcb.is_none() && self.race.covers(segment.tuple.reversed()) {
            self.race.handle_segment(segment, now);
            sent.extend(self.sent(now));
        }
        sent
    }

    /// RFC 9293 section 3.10.7.4: what is no acceptable segment is answered with an ACK, and so is
    /// a SYN (RFC 5961 section 4). A filter keeps resets out.
    fn answer(&self, segment: &Segment) -> Option<Segment> {
        let tuple = segment.tuple.reversed();
        let socket = self.sockets.iter().find(|socket| socket.tuple == tuple)?;
        let acceptable = !segment.syn && segment.seq == socket.rcv_nxt;
        (!acceptable && !segment.rst).then(|| socket.acknowledge(TIMESTAMPS))
    }

    fn sent(&mut self, now: WallTime) -> Vec<Segment> {
        let mut segments = Vec::new();
        while let Some(output) = self.race.poll() {
            match output {
                Output::Transmit(segment, _) => segments.push(segment),
                Output::Spray(segment, batch) => {
                    let Some(search) = self.race.search() else { continue };
                    for place in batch.tuples {
                        let (local, remote) = search.tuple(place);
                        let mut segment = Segment { options: segment.options, ..segment.clone() };
                        segment.tuple.local.set_port(local);
                        segment.tuple.remote.set_port(remote);
                        segments.push(segment);
                    }
                }
                Output::Prepare(tcb) => {
                    self.sockets.retain(|socket| socket.tuple != tcb.tuple);
                    self.sockets.push(tcb);
                }
                Output::Established(tcb) => {
                    if !self.sockets.iter().any(|socket| socket.is_same(&tcb)) {
                        segments.push(tcb.acknowledge(TIMESTAMPS));
                    }
                    self.sockets = vec![tcb.clone()];
                    self.established_at = Some(now);
                    self.tcb = Some(tcb);
                }
                Output::Expired => {}
            }
        }
        segments
    }
}
