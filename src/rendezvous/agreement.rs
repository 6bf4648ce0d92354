//! What follows from both reports: the same at both ends.

use super::candidate::{Candidate, CandidateKind, common_prefix};
use super::clock::{ClockEstimate, ServerTime};
use super::report::{Report, seconds};
use super::secrets::Role;
use super::shared_model::SharedModel;
use crate::nat::PortModel;
use crate::punch::{Budget, End, Strategies};
use crate::wire::Scope;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// When and where both ends punch. What is ours at one end is theirs at the other; all else is
/// the same.
#[derive(Clone, Debug, PartialEq)]
pub struct Agreement {
    /// When the SYNs leave.
    pub instant: ServerTime,
    /// The ends fire no further apart than this.
    pub bound: Duration,
    /// And hardly further than this.
    pub likely: Duration,
    /// Where, best first: 1 to [`Agreement::MOST_PAIRS`].
    pub pairs: Vec<Pair>,
    /// What a search may cost: neither router more than its end allows.
    pub budget: Budget,
    /// The ways to meet for which both are ready.
    pub strategies: Strategies,
    /// Whether both prove themselves before any byte of the program flows.
    pub proof: bool,
    ours: Numbering,
    theirs: Numbering,
}

#[derive(Clone, Debug, PartialEq)]
struct Numbering {
    model: SharedModel,
    external: Option<SocketAddr>,
}

/// Two candidates that aim at each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pair {
    /// Ours: its base is where we send from.
    pub ours: Candidate,
    /// The peer's: its address is where we aim.
    pub theirs: Candidate,
    /// How they meet.
    pub kind: PairKind,
    /// Which of our local ports this pair uses, counted from 0 in the order of the pairs. Pairs
    /// of the same slot share one.
    pub slot: u8,
}

/// How two candidates meet, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PairKind {
    /// Within one network.
    Lan,
    /// IPv6 without translation, perhaps through firewalls.
    Ipv6,
    /// At least one router was asked for the mapping.
    Mapped,
    /// Through both routers, which keep their ports.
    Reflexive,
    /// Through one router and back in, which keeps its ports.
    Hairpin,
    /// Through routers of which at least one does not keep its port: predicted or searched.
    Predicted,
}

/// Why two reports lead nowhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AgreementError {
    /// Reports of one meeting leave about the same time.
    #[error("the peer's report says that it left {} from ours: one of the clocks was set", seconds(*.0))]
    TimesApart(Duration),
    /// Who waits so long forgets what was measured.
    #[error("the punch would be {} away, and {} is the most: try again", seconds(*.0), seconds(MOST_AHEAD))]
    TooFarAhead(Duration),
    /// Nothing of ours can reach anything of theirs.
    #[error(
        "no address of ours can reach one of the peer's: we have {ours}; the peer has {theirs}"
    )]
    NoPair {
        /// What we have.
        ours: String,
        /// What the peer has.
        theirs: String,
    },
    /// Each end was told to use what the other was told not to.
    #[error("both ends were given strategies, and none is the same: use --strategy auto")]
    NoStrategy,
}

/// From the moment at which both ends know both reports: to open them, to reckon, to start
/// threads, and for openers to pass a router.
const MARGIN: Duration = Duration::from_millis(20);
/// The most by which the margin grows for either clock. Bounds are half a round trip; the error is
/// hardly ever a tenth of it, and a SYN that is early by some milliseconds does no harm behind an
/// opener.
const MOST_ERROR: Duration = Duration::from_millis(5);
/// The instant is never further ahead of the later report.
const MOST_AHEAD: Duration = Duration::from_secs(10);
/// Private IPv4 networks are hardly ever smaller than this, nor IPv6 links other than this.
const LINK_V4: u32 = 24;
const LINK_V6: u32 = 64;

impl Agreement {
    /// The most pairs that are tried.
    pub const MOST_PAIRS: usize = 8;
    /// Of each kind, so that many addresses of one do not push out another.
    const MOST_OF_A_KIND: usize = 2;

    /// What both ends do. `role` is ours.
    ///
    /// # Errors
    /// [`AgreementError`].
    pub fn of(ours: &Report, theirs: &Report, role: Role) -> Result<Self, AgreementError> {
        let instant = instant(ours, theirs)?;
        // Both ends list the pairs from one end's side, so that equally good ones stand in the
        // same order.
        let mut pairs = match role {
            Role::Controlling => pairs(ours, theirs),
            Role::Controlled => {
                pairs(theirs, ours).into_iter().map(Pair::seen_from_the_other_end).collect()
            }
        };
        if pairs.is_empty() {
            let (ours, theirs) = (kinds(ours), kinds(theirs));
            return Err(AgreementError::NoPair { ours, theirs });
        }
        number_slots(&mut pairs);
        Ok(Self {
            instant,
            bound: ours.clock_bound.saturating_add(theirs.clock_bound),
            likely: ours.clock_likely.saturating_add(theirs.clock_likely),
            pairs,
            budget: Budget {
                packets: ours.budget.packets.min(theirs.budget.packets),
                entries: ours.budget.entries.min(theirs.budget.entries),
                rate: ours.budget.rate.min(theirs.budget.rate),
            },
            strategies: common(ours.strategies, theirs.strategies)
                .ok_or(AgreementError::NoStrategy)?,
            proof: ours.wants_proof || theirs.wants_proof,
            ours: Numbering { model: ours.model.clone(), external: ours.external },
            theirs: Numbering { model: theirs.model.clone(), external: theirs.external },
        })
    }

    /// Both ends of a pair as a plan needs them, ours and theirs, in times of our own clock.
    pub fn ends(&self, pair: &Pair, clock: &ClockEstimate) -> (End, End) {
        (self.ours.end(&pair.ours, clock), self.theirs.end(&pair.theirs, clock))
    }
}

impl Numbering {
    fn end(&self, candidate: &Candidate, clock: &ClockEstimate) -> End {
        let address = candidate.address();
        let untranslated = match candidate.kind() {
            CandidateKind::Reflexive if address.is_ipv4() => None,
            // Whatever translates IPv6 keeps the port (RFC 6296).
            CandidateKind::Lan | CandidateKind::Ipv6 | CandidateKind::Reflexive => {
                Some(PortModel::Preserving)
            }
            CandidateKind::Mapped => Some(PortModel::Stable),
        };
        match untranslated {
            Some(model) => End { model, port: address.port() },
            None => {
                let told = self.external.filter(SocketAddr::is_ipv4).unwrap_or(address);
                End { model: clock.local(&self.model), port: told.port() }
            }
        }
    }
}

impl Pair {
    fn seen_from_the_other_end(self) -> Self {
        Self { ours: self.theirs, theirs: self.ours, ..self }
    }
}

/// When both know both reports, and both are ready, whichever is later, and a margin.
fn instant(ours: &Report, theirs: &Report) -> Result<ServerTime, AgreementError> {
    let apart = Duration::from_nanos(ours.sent.ns_since(theirs.sent).unsigned_abs());
    if apart > MOST_AHEAD {
        return Err(AgreementError::TimesApart(apart));
    }
    let relayed = ours.to_server.saturating_add(theirs.to_server);
    let sent = ours.sent.max(theirs.sent);
    let errors =
        ours.clock_likely.min(MOST_ERROR).saturating_add(theirs.clock_likely.min(MOST_ERROR));
    let known = sent.after(relayed);
    let instant = known.max(ours.ready).max(theirs.ready).after(MARGIN + errors);
    let ahead = sent.until(instant);
    if ahead > MOST_AHEAD {
        return Err(AgreementError::TooFarAhead(ahead));
    }
    Ok(instant)
}

fn pairs(ours: &Report, theirs: &Report) -> Vec<Pair> {
    let certain = ours.model.is_certain() && theirs.model.is_certain();
    let same_site = externals(ours).any(|one| externals(theirs).any(|other| one == other));
    let mut ranked = Vec::new();
    for (place, one) in ours.candidates.iter().enumerate() {
        for (other_place, other) in theirs.candidates.iter().enumerate() {
            let Some(kind) = kind(one, other, same_site, certain) else { continue };
            // In one network the nearest first; otherwise as each end ordered its own.
            let distance = match kind {
                PairKind::Lan => 128 - common_prefix(one.address().ip(), other.address().ip()),
                _ => 0,
            };
            let rank = (kind, distance, place + other_place, place);
            ranked.push((rank, Pair { ours: *one, theirs: *other, kind, slot: 0 }));
        }
    }
    ranked.sort_by_key(|(rank, _)| *rank);
    let mut pairs: Vec<Pair> = Vec::new();
    for (_, pair) in ranked {
        let aims =
            |it: &Pair| (it.ours.base(), it.theirs.base(), it.theirs.address(), it.ours.address());
        let of_a_kind = pairs.iter().filter(|it| it.kind == pair.kind).count();
        if of_a_kind < Agreement::MOST_OF_A_KIND && !pairs.iter().any(|it| aims(it) == aims(&pair))
        {
            pairs.push(pair);
        }
    }
    pairs.truncate(Agreement::MOST_PAIRS);
    pairs
}

/// How two candidates meet, if they can.
fn kind(one: &Candidate, other: &Candidate, same_site: bool, certain: bool) -> Option<PairKind> {
    use CandidateKind::{Ipv6, Lan, Mapped, Reflexive};
    let (ip, other_ip) = (one.address().ip(), other.address().ip());
    if ip.is_ipv4() != other_ip.is_ipv4() {
        return None;
    }
    match (one.kind(), other.kind()) {
        (Lan, Lan) => {
            let near = ip != other_ip && (same_site || same_link(ip, other_ip));
            near.then_some(PairKind::Lan)
        }
        (Lan, _) | (_, Lan) => None,
        (Ipv6, Ipv6) => {
            let public = Scope::of(ip).min(Scope::of(other_ip)) == Scope::Public;
            (ip != other_ip && (public || same_link(ip, other_ip))).then_some(PairKind::Ipv6)
        }
        (Mapped, _) | (_, Mapped) => (one.address() != other.address()).then_some(PairKind::Mapped),
        (Reflexive, Ipv6) | (Ipv6, Reflexive) | (Reflexive, Reflexive) => {
            if ip.is_ipv4() && !certain {
                Some(PairKind::Predicted)
            } else if ip != other_ip {
                Some(PairKind::Reflexive)
            } else {
                // One router never keeps one port for two hosts.
                (one.address() != other.address()).then_some(PairKind::Hairpin)
            }
        }
    }
}

/// Whether two addresses may be of one link, although nothing else says so.
fn same_link(one: IpAddr, other: IpAddr) -> bool {
    let length = if one.is_ipv4() { LINK_V4 } else { LINK_V6 };
    Scope::of(one) < Scope::Public && common_prefix(one, other) >= length
}

/// How an end appears to the world, in IPv4: two ends that appear alike are behind one router.
fn externals(report: &Report) -> impl Iterator<Item = IpAddr> {
    let reflexive = report.candidates.iter().filter(|it| it.kind() == CandidateKind::Reflexive);
    reflexive
        .map(|it| it.address().ip())
        .chain(report.external.map(|it| it.ip()))
        .filter(IpAddr::is_ipv4)
}

fn number_slots(pairs: &mut [Pair]) {
    let mut ports = Vec::new();
    for pair in pairs {
        let port = pair.ours.base().port();
        let slot = ports.iter().position(|it| *it == port).unwrap_or_else(|| {
            ports.push(port);
            ports.len() - 1
        });
        pair.slot = u8::try_from(slot).unwrap_or(u8::MAX);
    }
}

fn common(ours: Strategies, theirs: Strategies) -> Option<Strategies> {
    match (ours, theirs) {
        (Strategies::Auto, other) | (other, Strategies::Auto) => Some(other),
        (
            Strategies::Only { syn, syn_ack, mid_stream },
            Strategies::Only { syn: their_syn, syn_ack: their_syn_ack, mid_stream: theirs },
        ) => {
            let (syn, syn_ack) = (syn && their_syn, syn_ack && their_syn_ack);
            let mid_stream = mid_stream && theirs;
            (syn || syn_ack || mid_stream).then_some(Strategies::Only { syn, syn_ack, mid_stream })
        }
    }
}

/// What a report has, in words.
fn kinds(report: &Report) -> String {
    let mut kinds = Vec::new();
    for candidate in &report.candidates {
        let family = if candidate.address().is_ipv4() { "IPv4" } else { "IPv6" };
        let kind = match candidate.kind() {
            CandidateKind::Ipv6 => "IPv6".to_owned(),
            kind => format!("{kind} {family}"),
        };
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    if kinds.is_empty() { "none".to_owned() } else { kinds.join(", ") }
}

impl fmt::Display for PairKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lan => "local network",
            Self::Ipv6 => "IPv6",
            Self::Mapped => "port mapping",
            Self::Reflexive => "both routers",
            Self::Hairpin => "hairpin",
            Self::Predicted => "predicted ports",
        })
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {} ({})", self.ours.base(), self.theirs.address(), self.kind)
    }
}

#[cfg(test)]
mod tests;
