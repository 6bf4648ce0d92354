//! What each end tells the other before they punch.

use super::candidate::{Candidate, CandidateKind};
use super::clock::{ClockEstimate, ServerTime};
use super::frame::MAX_FRAME;
use super::shared_model::SharedModel;
use crate::nat::PortModel;
use crate::punch::{Budget, Strategies};
use crate::wire::Nonsense;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::time::Duration;

/// All that the other end has to know to reckon the same as this one. Sealed by the sender,
/// opened by the peer; the server sees none of it.
///
/// As bytes: the version, then the fields by postcard. What a later program of the same version
/// adds at the end is passed over.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// When this report leaves.
    pub sent: ServerTime,
    /// From when on this end can fire: openers, search and threads considered.
    pub ready: ServerTime,
    /// How long it takes from here to the server, or back.
    pub to_server: Duration,
    /// This end's clock is wrong by no more than this.
    pub clock_bound: Duration,
    /// And hardly by more than this.
    pub clock_likely: Duration,
    /// Where this end can be reached, at most [`Report::MOST_CANDIDATES`].
    pub candidates: Vec<Candidate>,
    /// How this end's router numbers its mappings.
    pub model: SharedModel,
    /// The external endpoint of the punch's local port, where the router keeps one for all
    /// destinations and it was measured.
    pub external: Option<SocketAddr>,
    /// What a search may cost this end's router.
    pub budget: Budget,
    /// The ways to meet that this end is ready for.
    pub strategies: Strategies,
    /// Whether the peer has to prove itself before any byte of the program flows.
    pub wants_proof: bool,
}

/// Why bytes are no report, or a report cannot be sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// A version that we do not know.
    #[error("the peer's report is of version {0}, and we know {VERSION}: update the older program")]
    Version(u8),
    /// Cut off, or not a report at all.
    #[error("the peer's report makes no sense")]
    Malformed,
    /// More than can be sent.
    #[error("a report of {0} bytes does not fit; {LIMIT} are the most", LIMIT = Report::MOST_BYTES)]
    TooLong(usize),
    /// More candidates than are heard.
    #[error("{0} addresses in a report; {LIMIT} are the most", LIMIT = Report::MOST_CANDIDATES)]
    TooManyCandidates(usize),
    /// An address of nobody.
    #[error("the peer's address {address} {why}")]
    Address {
        /// The address.
        address: SocketAddr,
        /// What is wrong with it.
        why: Nonsense,
    },
    /// A model that we cannot read.
    #[error("the peer's port model: {0}")]
    Model(String),
    /// A round trip or an error of a minute and more.
    #[error("the peer's report says that {what} is {}", seconds(*.value))]
    Absurd {
        /// What.
        what: &'static str,
        /// How much.
        value: Duration,
    },
    /// Nothing can be done with a budget of none.
    #[error("the peer's budget is empty: {0}")]
    Budget(Budget),
    /// No way to meet at all.
    #[error("the peer is ready for no strategy that we know")]
    NoStrategy,
}

const VERSION: u8 = 1;
/// Of a round trip to the server, and of a clock: TCP itself gives up on such a path.
const ABSURD: Duration = Duration::from_secs(30);

/// As it travels.
#[derive(Serialize, Deserialize)]
struct Body {
    sent: ServerTime,
    ready: ServerTime,
    to_server_ns: u64,
    clock_bound_ns: u64,
    clock_likely_ns: u64,
    candidates: Vec<(u8, SocketAddr, SocketAddr)>,
    model: String,
    external: Option<SocketAddr>,
    budget: (u32, u32, u32),
    strategies: u8,
    flags: u8,
}

const AUTO: u8 = 1 << 7;
const SYN: u8 = 1;
const SYN_ACK: u8 = 1 << 1;
const MID_STREAM: u8 = 1 << 2;
const WANTS_PROOF: u8 = 1;

impl Report {
    /// The most candidates in a report.
    pub const MOST_CANDIDATES: usize = 16;
    /// The longest report: a frame, less the seal and the message around it.
    pub const MOST_BYTES: usize = MAX_FRAME - 64;

    /// A report that leaves at `sent` by our own clock, of an end that can fire `needs` later.
    /// It has no candidates yet, and a router that keeps its ports.
    pub fn new(clock: &ClockEstimate, sent: crate::wire::WallTime, needs: Duration) -> Self {
        let sent_at = clock.to_server(sent);
        Self {
            sent: sent_at,
            ready: sent_at.after(needs),
            to_server: clock.round_trip / 2,
            clock_bound: clock.bound_at(sent),
            clock_likely: clock.likely,
            candidates: Vec::new(),
            model: clock.shared(&PortModel::Preserving),
            external: None,
            budget: Budget::default(),
            strategies: Strategies::Auto,
            wants_proof: true,
        }
    }

    /// The bytes to be sealed.
    ///
    /// # Errors
    /// [`ReportError`], if what a caller put in is too much or contradicts itself.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ReportError> {
        self.check()?;
        let Budget { packets, entries, rate } = self.budget;
        let body = Body {
            sent: self.sent,
            ready: self.ready,
            to_server_ns: ns(self.to_server),
            clock_bound_ns: ns(self.clock_bound),
            clock_likely_ns: ns(self.clock_likely),
            candidates: self
                .candidates
                .iter()
                .map(|it| (it.kind() as u8, it.address(), it.base()))
                .collect(),
            model: self.model.to_string(),
            external: self.external,
            budget: (packets, entries, rate),
            strategies: match self.strategies {
                Strategies::Auto => AUTO,
                Strategies::Only { syn, syn_ack, mid_stream } => {
                    let bit = |set: bool, bit: u8| if set { bit } else { 0 };
                    bit(syn, SYN) | bit(syn_ack, SYN_ACK) | bit(mid_stream, MID_STREAM)
                }
            },
            flags: if self.wants_proof { WANTS_PROOF } else { 0 },
        };
        let bytes =
            postcard::to_extend(&body, vec![VERSION]).map_err(|_| ReportError::Malformed)?;
        if bytes.len() > Self::MOST_BYTES {
            return Err(ReportError::TooLong(bytes.len()));
        }
        Ok(bytes)
    }

    /// The peer's report, as it was opened.
    ///
    /// # Errors
    /// [`ReportError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ReportError> {
        let (version, rest) = bytes.split_first().ok_or(ReportError::Malformed)?;
        if *version != VERSION {
            return Err(ReportError::Version(*version));
        }
        let (body, _): (Body, _) =
            postcard::take_from_bytes(rest).map_err(|_| ReportError::Malformed)?;
        if body.candidates.len() > Self::MOST_CANDIDATES {
            return Err(ReportError::TooManyCandidates(body.candidates.len()));
        }
        let mut candidates = Vec::with_capacity(body.candidates.len());
        for (kind, address, base) in body.candidates {
            // A kind that a later program knows and we do not.
            let Some(kind) = CandidateKind::ALL.get(usize::from(kind)) else { continue };
            let candidate = Candidate::new(*kind, address, base)
                .map_err(|why| ReportError::Address { address, why })?;
            candidates.push(candidate);
        }
        let (packets, entries, rate) = body.budget;
        let report = Self {
            sent: body.sent,
            ready: body.ready,
            to_server: Duration::from_nanos(body.to_server_ns),
            clock_bound: Duration::from_nanos(body.clock_bound_ns),
            clock_likely: Duration::from_nanos(body.clock_likely_ns),
            candidates,
            model: SharedModel::from_text(&body.model).map_err(ReportError::Model)?,
            external: body.external,
            budget: Budget { packets, entries, rate },
            strategies: match body.strategies {
                bits if bits & AUTO != 0 => Strategies::Auto,
                bits => Strategies::Only {
                    syn: bits & SYN != 0,
                    syn_ack: bits & SYN_ACK != 0,
                    mid_stream: bits & MID_STREAM != 0,
                },
            },
            wants_proof: body.flags & WANTS_PROOF != 0,
        };
        report.check()?;
        Ok(report)
    }

    fn check(&self) -> Result<(), ReportError> {
        if self.candidates.len() > Self::MOST_CANDIDATES {
            return Err(ReportError::TooManyCandidates(self.candidates.len()));
        }
        for (what, value) in [
            ("a way to the server", self.to_server),
            ("the bound of its clock", self.clock_bound),
            ("the error of its clock", self.clock_likely),
        ] {
            if value > ABSURD {
                return Err(ReportError::Absurd { what, value });
            }
        }
        if let Some(address) = self.external {
            Candidate::new(CandidateKind::Reflexive, address, address)
                .map_err(|why| ReportError::Address { address, why })?;
        }
        let Budget { packets, entries, rate } = self.budget;
        if packets == 0 || entries == 0 || rate == 0 {
            return Err(ReportError::Budget(self.budget));
        }
        match self.strategies {
            Strategies::Only { syn: false, syn_ack: false, mid_stream: false } => {
                Err(ReportError::NoStrategy)
            }
            _ => Ok(()),
        }
    }
}

/// The beginning of a text, at most so many bytes, without what steers a terminal.
pub(super) fn shortened(text: &str, most: usize) -> String {
    let mut short = String::new();
    for c in text.chars().map(|c| if c.is_control() { ' ' } else { c }) {
        if short.len() + c.len_utf8() > most {
            break;
        }
        short.push(c);
    }
    short
}

pub(super) fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

fn ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::WallTime;
    use proptest::prelude::*;

    fn clock() -> ClockEstimate {
        ClockEstimate {
            offset_ns: 500_000_000,
            bound: Duration::from_millis(10),
            likely: Duration::from_micros(200),
            round_trip: Duration::from_millis(20),
            at: WallTime::from_unix_ns(1_795_258_800_000_000_000),
        }
    }

    fn report() -> Report {
        let sent = WallTime::from_unix_ns(1_795_258_800_000_000_000);
        let mut report = Report::new(&clock(), sent, Duration::from_millis(3));
        report.candidates = (1..=16)
            .map(|n| {
                let address = format!("[2001:db8:ffff:ffff:ffff:ffff:ffff:{n}]:65535");
                let (address, base) = (address.parse().unwrap(), address.parse().unwrap());
                Candidate::new(CandidateKind::Reflexive, address, base).unwrap()
            })
            .collect();
        report.external = Some("203.0.113.7:40000".parse().unwrap());
        report.model = clock().shared(
            &"sequential:next=4096,step=-2,rate=0.1,at=1795258799.987654321,pool=1024-2047+4096-5119"
                .parse()
                .unwrap(),
        );
        report.strategies = Strategies::Only { syn: true, syn_ack: false, mid_stream: true };
        report
    }

    /// The body, changed, as a peer could write it.
    fn forged(change: impl FnOnce(&mut Body)) -> Result<Report, ReportError> {
        let bytes = report().to_bytes().unwrap();
        let mut body: Body = postcard::from_bytes(&bytes[1..]).unwrap();
        change(&mut body);
        Report::from_bytes(&postcard::to_extend(&body, vec![VERSION]).unwrap())
    }

    #[test]
    fn a_report_begins_with_what_the_clock_says() {
        let report = report();
        assert_eq!(report.sent.unix_ns(), 1_795_258_800_500_000_000);
        assert_eq!(report.ready.ns_since(report.sent), 3_000_000);
        assert_eq!(report.to_server, Duration::from_millis(10));
    }

    #[test]
    fn a_full_report_arrives_as_it_left() {
        let report = report();
        let bytes = report.to_bytes().unwrap();
        assert!(bytes.len() < 1000, "{} bytes", bytes.len());
        assert_eq!(Report::from_bytes(&bytes), Ok(report));
    }

    #[test]
    fn the_longest_report_fits_into_a_frame() {
        let mut report = report();
        let pool = crate::nat::PortPool::new((0..160).map(|n| 10_000 + 9 * n..=10_001 + 9 * n));
        report.model = clock().shared(&PortModel::Random(pool.unwrap()));
        assert!(report.model.to_string().len() > 1900);
        assert!(report.to_bytes().unwrap().len() <= Report::MOST_BYTES);
    }

    #[test]
    fn what_a_later_program_adds_is_passed_over() {
        let mut bytes = report().to_bytes().unwrap();
        bytes.extend_from_slice(b"more");
        assert_eq!(Report::from_bytes(&bytes), Ok(report()));
        let fewer = forged(|body| body.candidates[3].0 = 77).unwrap();
        assert_eq!(fewer.candidates.len(), 15, "a kind that we do not know");
        assert!(forged(|body| body.flags = 0xff).unwrap().wants_proof);
        bytes[0] = 2;
        assert_eq!(Report::from_bytes(&bytes), Err(ReportError::Version(2)));
    }

    #[test]
    fn a_lie_is_named() {
        for (forged, said) in [
            (
                forged(|body| body.candidates[0].1 = "127.0.0.1:22".parse().unwrap()),
                "the peer's address 127.0.0.1:22 is a loopback address",
            ),
            (
                forged(|body| body.candidates[0].2 = "0.0.0.0:22".parse().unwrap()),
                "is no address of a host",
            ),
            (forged(|body| body.external = Some("192.0.2.1:0".parse().unwrap())), "has no port"),
            (
                forged(|body| body.candidates = vec![body.candidates[0]; 17]),
                "17 addresses in a report",
            ),
            (forged(|body| body.to_server_ns = u64::MAX), "a way to the server is 18446744073.7 s"),
            (forged(|body| body.clock_bound_ns = 31_000_000_000), "bound of its clock is 31.0 s"),
            (forged(|body| body.model = "symmetric".into()), "'symmetric' is no port model"),
            (forged(|body| body.budget.2 = 0), "the peer's budget is empty"),
            (forged(|body| body.strategies = 0b1000), "no strategy that we know"),
        ] {
            let message = forged.unwrap_err().to_string();
            assert!(message.contains(said), "{message}");
        }
    }

    proptest! {
        #[test]
        fn noise_is_no_report_and_never_panics(noise in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Report::from_bytes(&noise);
        }

        #[test]
        fn a_flipped_bit_never_panics(place in 0..200_usize, bit in 0..8_u32) {
            let mut bytes = report().to_bytes().unwrap();
            bytes[place] ^= 1_u8 << bit;
            let _ = Report::from_bytes(&bytes);
        }

        #[test]
        fn a_truncated_report_is_none(length in 0..200_usize) {
            let bytes = report().to_bytes().unwrap();
            prop_assert!(Report::from_bytes(&bytes[..length]).is_err());
        }
    }
}
