//! What a NAT remembers of a TCP connection: enough for RFC 5382 REQ-1, REQ-2 and REQ-5.

use std::time::Duration;

/// Where a packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Out,
    In,
}

/// The control bits that matter here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flags(u8);

impl Flags {
    pub(crate) fn new(octet: u8) -> Self {
        Self(octet)
    }

    pub(crate) fn fin(self) -> bool {
        self.0 & 1 != 0
    }

    pub(crate) fn syn(self) -> bool {
        self.0 & 2 != 0
    }

    pub(crate) fn rst(self) -> bool {
        self.0 & 4 != 0
    }

    pub(crate) fn ack(self) -> bool {
        self.0 & 16 != 0
    }

    /// A SYN that acknowledges nothing: it asks for a connection.
    pub(crate) fn opens(self) -> bool {
        self.syn() && !self.ack() && !self.rst()
    }
}

/// How far a connection is, as far as its idle time goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// One side alone has been heard.
    Unanswered,
    /// Partially open, or partially closed, or reset.
    Transitory,
    Established,
}

impl Phase {
    pub(crate) fn idle_time(self) -> Duration {
        Duration::from_secs(match self {
            // As netfilter's SYN_SENT, and as there a repetition does not prolong it.
            Self::Unanswered => 120,
            // RFC 5382 REQ-5.
            Self::Transitory => 4 * 60,
            Self::Established => 2 * 3600 + 4 * 60,
        })
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Side {
    heard: bool,
    acknowledges: bool,
}

/// One connection. Any order of SYNs, SYN-ACKs and ACKs opens it, simultaneous ones included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Connection {
    inside: Side,
    outside: Side,
    closing: bool,
}

impl Connection {
    /// A segment passes, or is seen and then dropped.
    pub(crate) fn observe(&mut self, way: Way, flags: Flags) {
        if flags.opens() && self.closing {
            *self = Self::default();
        }
        if flags.fin() || flags.rst() {
            self.closing = true;
        }
        let side = match way {
            Way::Out => &mut self.inside,
            Way::In => &mut self.outside,
        };
        side.heard = true;
        side.acknowledges |= flags.ack() && !flags.rst();
    }

    /// Whether the outside has never answered.
    pub(crate) fn is_unanswered(&self) -> bool {
        !self.outside.heard
    }

    /// Whether a SYN would begin a new connection.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing
    }

    pub(crate) fn phase(&self) -> Phase {
        if self.closing {
            Phase::Transitory
        } else if !(self.inside.heard && self.outside.heard) {
            Phase::Unanswered
        } else if self.inside.acknowledges && self.outside.acknowledges {
            Phase::Established
        } else {
            Phase::Transitory
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIN_ACK: u8 = 17;
    const SYN: u8 = 2;
    const SYN_ACK: u8 = 18;
    const RST: u8 = 4;
    const ACK: u8 = 16;

    fn phases(segments: &[(Way, u8)]) -> Vec<Phase> {
        let mut connection = Connection::default();
        let phase = |(way, flags): &(Way, u8)| {
            connection.observe(*way, Flags::new(*flags));
            connection.phase()
        };
        segments.iter().map(phase).collect()
    }

    use Phase::{Established, Transitory, Unanswered};
    use Way::{In, Out};

    #[test]
    fn every_way_to_open() {
        let three_way = [(Out, SYN), (In, SYN_ACK), (Out, ACK)];
        assert_eq!(phases(&three_way), [Unanswered, Transitory, Established]);
        let from_outside = [(In, SYN), (Out, SYN_ACK), (In, ACK)];
        assert_eq!(phases(&from_outside), [Unanswered, Transitory, Established]);
        let simultaneous = [(Out, SYN), (In, SYN), (Out, SYN_ACK), (In, SYN_ACK)];
        assert_eq!(phases(&simultaneous), [Unanswered, Transitory, Transitory, Established]);
        let mid_stream = [(Out, ACK), (In, ACK)];
        assert_eq!(phases(&mid_stream), [Unanswered, Established]);
    }

    #[test]
    fn a_closed_connection_opens_again_by_a_syn() {
        let open = [(Out, SYN), (In, SYN_ACK), (Out, ACK)];
        for end in [(Out, FIN_ACK), (In, FIN_ACK), (In, RST), (Out, RST)] {
            let again = [&open[..], &[end, (In, ACK), (Out, SYN), (In, SYN_ACK)]].concat();
            assert_eq!(phases(&again)[3..], [Transitory, Transitory, Unanswered, Transitory]);
        }
    }
}
