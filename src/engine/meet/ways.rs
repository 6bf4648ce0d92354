//! The ways that both ends agreed to try, as punches.

use super::Meet;
use super::attempts::Attempt;
use super::door::Door;
use crate::engine::config::{Opener, Punch};
use crate::engine::report::Way;
use crate::nat::PortModel;
use crate::punch::{End, Plan};
use crate::rendezvous::{Agreement, CandidateKind, ClockEstimate, Pair, PairKind, Role, Secrets};
use crate::sys::clock;
use crate::wire::WallTime;
use std::time::Duration;

/// The pair as a report has it.
pub(super) fn way(pair: &Pair) -> Way {
    Way {
        kind: pair.kind.to_string(),
        local: pair.ours.base().to_string(),
        remote: pair.theirs.address().to_string(),
        chosen: false,
        outcome: String::new(),
    }
}

/// A punch that is begun this long before its instant is on time.
const NOTICE: Duration = Duration::from_millis(6);

/// [`Punch::search_lead`]: shorter than where nobody has compared the clocks, and long enough to see
/// how far away the peer is before the first opener leaves.
const SEARCH_LEAD: Duration = Duration::from_millis(150);

/// The instant by our own clock: as agreed, and later by what a search needs to open its tuples,
/// which both ends reckon alike.
pub(super) fn instant(agreement: &Agreement, clock: &ClockEstimate) -> WallTime {
    let at = clock.to_local(agreement.instant);
    let opening = agreement.pairs.iter().filter_map(|pair| opening(agreement, pair, clock, at));
    opening.max().map_or(at, |opening| at.after(opening))
}

/// How long the openers of a search take at either end.
fn opening(
    agreement: &Agreement,
    pair: &Pair,
    clock: &ClockEstimate,
    at: WallTime,
) -> Option<Duration> {
    let (ours, theirs) = agreement.ends(pair, clock);
    if is_known(&ours) && is_known(&theirs) {
        return None;
    }
    let takes = |ours: &End, theirs: &End| {
        let opened_at = at.before(SEARCH_LEAD);
        let plan = Plan::new(ours, theirs, &agreement.budget, opened_at).ok()?;
        Some(SEARCH_LEAD + plan.opening_takes())
    };
    takes(&ours, &theirs).max(takes(&theirs, &ours))
}

fn is_known(end: &End) -> bool {
    matches!(end.model, PortModel::Preserving | PortModel::Stable)
}

/// The attempts, in the order of the agreement's pairs.
pub(super) fn attempts(
    meet: &mut Meet,
    agreement: &Agreement,
    clock: &ClockEstimate,
    secrets: &Secrets,
    hop_limit: Option<u8>,
) -> Vec<Attempt> {
    let agreed = instant(agreement, clock);
    let at = agreed.max(clock::now().after(NOTICE));
    let mut attempts = Vec::new();
    for pair in &agreement.pairs {
        let base = pair.ours.base();
        if pair.kind == PairKind::Mapped {
            let (local, remote) = (base, pair.theirs.address());
            let is_ours = pair.ours.kind() == CandidateKind::Mapped
                && (pair.theirs.kind() != CandidateKind::Mapped
                    || secrets.role() == Role::Controlled);
            let patience = meet.timeout;
            attempts.push(Attempt::Door(Door { local, remote, is_ours, at, patience }));
            continue;
        }
        let (ours, theirs) = agreement.ends(pair, clock);
        let mut aim = pair.theirs.address();
        aim.set_port(theirs.port);
        let lead = meet.opener_lead.unwrap_or(clock::now().until(at));
        let opener = match (meet.opener, pair.kind) {
            // It would be forwarded by a router that is ours and the peer's.
            (Opener::Auto, PairKind::Lan | PairKind::Hairpin) => Opener::Off,
            (opener, _) => opener,
        };
        let mut punch = Punch::new(aim, agreed)
            // The peer's openers, or its repetitions, still meet ours.
            .better_late_than_never()
            .local_ip(base.ip())
            .local_port(base.port())
            .timeout(meet.timeout)
            .common_clock()
            .decides(secrets.role() == Role::Controlling)
            .spread(meet.spread)
            .key(secrets.punch_key())
            .strategies(agreement.strategies)
            .budget(agreement.budget)
            .opener(opener)
            .opener_lead(lead)
            .search_lead(SEARCH_LEAD)
            .datapath(meet.datapath)
            .stock(meet.stock.clone());
        if !(is_known(&ours) && is_known(&theirs)) {
            punch = punch.models(ours.model, theirs.model);
        }
        if let Some(hop_limit) = hop_limit {
            punch = punch.usual_hop_limit(hop_limit);
        }
        if meet.anyway {
            punch = punch.anyway();
        }
        if let Some(file) = meet.pcap.take() {
            punch = punch.pcap(file);
        }
        attempts.push(Attempt::Punch(Box::new(punch)));
    }
    attempts
}
