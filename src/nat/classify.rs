//! From what was measured to what a router does: each finding with its confidence, and nothing
//! that was not measured.

#[cfg(test)]
mod tests;

use super::behaviour::{
    AddressSpace, Allocation, Boundary, Filtering, Finding, Hop, Nat, Nats, Passage, Unsolicited,
};
use super::fit::{Fit, MappingBehaviour, Observation, Unknown, fit};
use super::model::PortModel;
use super::path::Path;
use crate::wire::WallTime;
use std::net::IpAddr;
use std::time::Duration;

/// All that was measured.
#[derive(Clone, Debug)]
pub struct Evidence {
    /// This host's address.
    pub local: IpAddr,
    /// Mappings, as servers told them.
    pub observations: Vec<Observation>,
    /// A SYN from the server's other port to the mapping of a port that has spoken to nobody but
    /// the server's main one; `None`: no server sent any.
    pub from_other_port: Option<Probe>,
    /// Likewise from the server's other address.
    pub from_other_address: Option<Probe>,
    /// A SYN from the server's other port just after this host has sent it one that died on the
    /// way.
    pub crossed: Option<Probe>,
    /// Whether an ACK to the server that begins a connection drew the server's reset; `None`: not
    /// tried.
    pub ack_answered: Option<bool>,
    /// Whether raw packets could be sent at all.
    pub raw: bool,
    /// Whether the server is a tcp-punch server. Only such a one sends SYNs, and it is known to
    /// answer an ACK out of nowhere; one of others may stand behind a firewall of its own.
    pub ours: bool,
    /// Two ports of this host's, each of which sent a SYN to the other's external address.
    pub hairpin: Option<Hairpin>,
    /// The routers towards the server.
    pub path: Path,
    /// The hop limit at which an echo request to the external address was answered from there.
    pub external_at: Option<u8>,
}

/// A SYN that the server sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Whether it reached this host, which let it pass unanswered.
    pub arrived: bool,
    /// What the server says came of it; `None`: it has not said anything yet.
    pub answer: Option<ProbeAnswer>,
}

/// What the server says came of its SYN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeAnswer {
    /// What came back.
    pub said: Said,
    /// After how long; for nothing how long the server waited.
    pub after: Duration,
}

/// What may come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Said {
    /// A SYN-ACK.
    SynAck,
    /// A reset.
    Reset,
    /// An ICMP error.
    Icmp,
    /// Nothing.
    Nothing,
}

/// What came of SYNs to the external address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hairpin {
    /// One of them arrived.
    Arrived,
    /// A reset came instead.
    Reset,
    /// Nothing came.
    Silence,
}

/// Between what is at once and what RFC 5382 REQ-4 holds back for six seconds.
const HELD: Duration = Duration::from_secs(5);
/// Who is silent for longer than this does not hold a SYN, but drops it: six seconds and a second
/// for a first SYN that was lost.
const SILENT: Duration = Duration::from_millis(6500);

/// What one packet that came proves. Nothing is surer, since servers may lie.
const SEEN: f64 = 0.99;
/// What follows from several that did not come.
const UNSEEN: f64 = 0.95;
/// What follows from one that did not come, where something else may have kept it.
const MISSED: f64 = 0.8;
/// A mapping behaviour or a model less probable than this is not said to be known.
const LEAST: f64 = 0.7;

const NO_SERVER: &str = "only a tcp-punch server sends the SYNs that would tell (--server)";
const NO_RAW: &str = "not tried: it takes raw packets, for which this program needs privileges";

impl Evidence {
    /// What follows.
    pub fn judge(&self) -> Nat {
        let fit = fit(&self.observations);
        let translated = self.translated();
        let mapping = mapping(fit.as_ref(), translated);
        let filtering = self.filtering();
        let crossed_syn = self.crossed_syn(&mapping, &filtering);
        Nat {
            boundary: match (translated, filtering.value) {
                (true, _) => Boundary::Nat,
                (false, Some(Filtering::EndpointIndependent)) => Boundary::Open,
                (false, Some(_)) => Boundary::Firewall,
                (false, None) => Boundary::NoNat,
            },
            local: self.local,
            external: fit.as_ref().map(|fit| fit.addresses.clone()).unwrap_or_default(),
            allocation: self.allocation(fit.as_ref(), translated),
            unsolicited_syn: self.unsolicited(),
            mid_stream: self.mid_stream(),
            hairpin: self.hairpin(&mapping, translated),
            nats: self.nats(translated),
            mapping,
            filtering,
            crossed_syn,
        }
    }

    fn translated(&self) -> bool {
        self.observations
            .iter()
            .any(|it| it.external.ip() != self.local || it.external.port() != it.local.port())
    }

    fn allocation(&self, fit: Option<&Fit>, translated: bool) -> Finding<Allocation> {
        let Some(fit) = fit else { return Finding::unknown("no server told an external port") };
        if !translated {
            let allocation = Allocation { model: PortModel::Preserving, ports: 1 };
            return Finding::known(allocation, SEEN, "the address is this host's own");
        }
        if fit.probability < LEAST {
            return Finding::unknown(fit.to_string());
        }
        let last = self.observations.iter().map(|it| it.at).max();
        let at = last.unwrap_or(WallTime::from_unix_ns(0));
        let allocation = Allocation::of_fit(fit, at);
        if allocation.model != PortModel::Preserving
            && fit.unknown.contains(&Unknown::WhetherStable)
        {
            return Finding::unknown(fit.to_string());
        }
        Finding::known(allocation, fit.probability.min(SEEN), fit.to_string())
    }

    fn filtering(&self) -> Finding<Filtering> {
        use Filtering::{AddressAndPortDependent, AddressDependent, EndpointIndependent};
        let port = self.from_other_port.and_then(Probe::passage);
        let address = self.from_other_address.and_then(Probe::passage);
        let known = Finding::known;
        match (port, address) {
            (Some(Passage::Passes), Some(Passage::Passes)) => {
                known(EndpointIndependent, SEEN, "SYNs from another address and port came in")
            }
            (Some(Passage::Passes), Some(Passage::Blocked)) => known(
                AddressDependent,
                UNSEEN,
                "a SYN from the same address came in, one from another did not",
            ),
            (Some(Passage::Blocked), Some(Passage::Blocked)) => known(
                AddressAndPortDependent,
                UNSEEN,
                "neither a SYN from another port nor one from another address came in",
            ),
            // Stricter than this there is none.
            (Some(Passage::Blocked), None) => known(
                AddressAndPortDependent,
                MISSED,
                "a SYN from another port of the server did not come in",
            ),
            (Some(Passage::Passes), None) => Finding::unknown(
                "a SYN from another port came in; for one from another address the server lacks a \
                 second address",
            ),
            (Some(Passage::Blocked), Some(Passage::Passes)) => Finding::unknown(
                "a SYN from another address came in and one from the same address did not, which \
                 no filter of RFC 4787 does",
            ),
            (None, _) => Finding::unknown(self.why_no_syn()),
        }
    }

    fn unsolicited(&self) -> Finding<Unsolicited> {
        let probes = [self.from_other_address, self.from_other_port];
        let mut probes = probes.into_iter().flatten().peekable();
        if probes.peek().is_none() {
            return Finding::unknown(self.why_no_syn());
        }
        let mut waited = None;
        let mut all_arrived = true;
        for probe in probes.filter(|probe| !probe.arrived) {
            all_arrived = false;
            let Some(ProbeAnswer { said, after }) = probe.answer else { continue };
            let span = match after.as_millis() {
                ms if ms < 1000 => format!("{ms} ms"),
                ms => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
            };
            let (value, because) = match said {
                Said::SynAck => (Unsolicited::Answered, "a SYN-ACK"),
                Said::Reset | Said::Icmp if after >= HELD => (Unsolicited::Held, "an error"),
                Said::Reset => (Unsolicited::Reset, "a reset"),
                Said::Icmp => (Unsolicited::Icmp, "an ICMP error"),
                Said::Nothing if after >= SILENT => {
                    let because = format!("nothing came back within {span}");
                    return Finding::known(Unsolicited::Silence, UNSEEN, because);
                }
                Said::Nothing => {
                    waited = Some(after);
                    continue;
                }
            };
            return Finding::known(value, SEEN, format!("{because} came back after {span}"));
        }
        match waited {
            Some(waited) => Finding::unknown(format!(
                "nothing came back within {:.1} s: dropped, or held for longer",
                waited.as_secs_f64()
            )),
            None if all_arrived => {
                Finding::unknown("every SYN came in, so nothing had to be answered")
            }
            None => Finding::unknown("the server has not said what came back"),
        }
    }

    fn why_no_syn(&self) -> &'static str {
        match (self.raw, self.ours) {
            (_, false) => NO_SERVER,
            (false, true) => NO_RAW,
            (true, true) => "the server sent no SYN from its other port",
        }
    }

    fn crossed_syn(
        &self,
        mapping: &Finding<MappingBehaviour>,
        filtering: &Finding<Filtering>,
    ) -> Finding<Passage> {
        let unasked = [self.from_other_port, self.from_other_address];
        match self.crossed.and_then(Probe::passage) {
            Some(Passage::Passes) => {
                Finding::known(Passage::Passes, SEEN, "a SYN that crossed ours came in")
            }
            None if unasked.into_iter().flatten().any(|probe| probe.arrived) => {
                Finding::known(Passage::Passes, UNSEEN, "even SYNs that nobody asked for come in")
            }
            Some(Passage::Blocked)
                if filtering.value == Some(Filtering::EndpointIndependent)
                    || self.from_other_port.is_some_and(|probe| probe.arrived) =>
            {
                Finding::unknown(
                    "a SYN that crossed ours did not come in, although one that nobody asked for \
                     did",
                )
            }
            // Both ports of the server have to see the same mapping.
            Some(Passage::Blocked)
                if !matches!(
                    mapping.value,
                    Some(
                        MappingBehaviour::EndpointIndependent | MappingBehaviour::AddressDependent
                    )
                ) =>
            {
                Finding::unknown("the mapping for the server's other port is not known")
            }
            Some(Passage::Blocked) => {
                Finding::known(Passage::Blocked, 0.9, "a SYN that crossed ours did not come in")
            }
            None if self.raw && self.ours && self.from_other_port.is_some() => Finding::unknown(
                "our SYN has to leave by a mapping that both ports of the server share, and to \
                     die past the NAT and before the server, and one of these is not so",
            ),
            None => Finding::unknown(self.why_no_syn()),
        }
    }

    fn mid_stream(&self) -> Finding<Passage> {
        match self.ack_answered {
            Some(true) => Finding::known(
                Passage::Passes,
                SEEN,
                "the server's reset to an ACK out of nowhere came in",
            ),
            Some(false) if self.ours => Finding::known(
                Passage::Blocked,
                MISSED,
                "no reset came to three ACKs out of nowhere",
            ),
            Some(false) => Finding::unknown(
                "no reset came to three ACKs out of nowhere, but a firewall of the server's may \
                 drop those",
            ),
            None => Finding::unknown(NO_RAW),
        }
    }

    fn hairpin(&self, mapping: &Finding<MappingBehaviour>, translated: bool) -> Finding<Passage> {
        if !translated {
            return Finding::unknown("without a NAT there is nothing to turn back");
        }
        let reachable = mapping.value == Some(MappingBehaviour::EndpointIndependent);
        match self.hairpin {
            Some(Hairpin::Arrived) => {
                Finding::known(Passage::Passes, SEEN, "a SYN to the external address came back in")
            }
            Some(Hairpin::Reset) if reachable => Finding::known(
                Passage::Blocked,
                UNSEEN,
                "SYNs to the external address were answered with a reset",
            ),
            Some(Hairpin::Silence) if reachable => {
                Finding::known(Passage::Blocked, 0.9, "SYNs to the external address were lost")
            }
            Some(_) => Finding::unknown(
                "the mapping towards the external address is not known, so that a SYN may have \
                 missed it",
            ),
            None if !self.ours => Finding::unknown("not tried: it takes a tcp-punch server"),
            None => Finding::unknown(NO_RAW),
        }
    }

    fn nats(&self, translated: bool) -> Nats {
        let path: Vec<Hop> = self
            .path
            .hops()
            .map(|(distance, address)| Hop { distance, address, space: AddressSpace::of(address) })
            .collect();
        if !translated {
            let nobody = self.observations.is_empty();
            let at_most = (!nobody).then_some(0);
            return Nats { at_least: 0, at_most, outermost_hop: None, path };
        }
        let public = path.iter().find(|hop| hop.space == AddressSpace::Public);
        let before_public = public
            .filter(|public| {
                // Where hops before it are silent, the NAT may be any of them.
                public.distance == 1 || path.iter().any(|hop| hop.distance == public.distance - 1)
            })
            .map(|public| public.distance.saturating_sub(1).max(1));
        let outermost_hop = match (self.external_at, before_public) {
            (Some(answers), Some(before)) => Some(answers.min(before)),
            (answers, before) => answers.or(before),
        };
        // A carrier's router on the way, and this host not in the carrier's address space.
        let shared = |hop: &&Hop| hop.space == AddressSpace::Shared;
        let carrier = path.iter().find(shared).is_some()
            && AddressSpace::of(self.local) != AddressSpace::Shared;
        let at_least = 1 + u8::from(carrier);
        Nats { at_least, at_most: outermost_hop.map(|hop| hop.max(at_least)), outermost_hop, path }
    }
}

impl Probe {
    /// Whether it came in, as far as can be known by now.
    fn passage(self) -> Option<Passage> {
        match self {
            Self { arrived: true, .. } => Some(Passage::Passes),
            Self { answer: Some(_), .. } => Some(Passage::Blocked),
            Self { answer: None, .. } => None,
        }
    }
}

fn mapping(fit: Option<&Fit>, translated: bool) -> Finding<MappingBehaviour> {
    use MappingBehaviour::{AddressAndPortDependent, AddressDependent, EndpointIndependent};
    let Some(fit) = fit else { return Finding::unknown("no server told an external port") };
    if !translated {
        return Finding::known(EndpointIndependent, SEEN, "the address is this host's own");
    }
    if fit.model == PortModel::Preserving && fit.probability >= LEAST {
        return Finding::known(
            EndpointIndependent,
            fit.probability.min(SEEN),
            "the port is kept, whatever the destination",
        );
    }
    let of = |behaviour| {
        fit.behaviours.iter().find(|(it, _)| *it == behaviour).map_or(0.0, |(_, share)| *share)
    };
    let name = |behaviour| match behaviour {
        EndpointIndependent => "one mapping serves all destinations",
        AddressDependent => "each destination address has its own mapping",
        AddressAndPortDependent => "each destination port has its own mapping",
    };
    let (addresses, ports) = (
        !fit.unknown.contains(&Unknown::WhetherStable),
        !fit.unknown.contains(&Unknown::WhetherByPort),
    );
    let all = [EndpointIndependent, AddressDependent, AddressAndPortDependent];
    let best = all.into_iter().max_by(|a, b| of(*a).total_cmp(&of(*b)));
    let best = best.filter(|best| of(*best) >= LEAST);
    match best {
        // What no observation could have told apart is not known, whatever its prior probability.
        Some(EndpointIndependent) if addresses => {}
        Some(AddressAndPortDependent) if ports => {}
        Some(AddressDependent) if addresses && ports => {}
        _ if !addresses => return Finding::unknown(Unknown::WhetherStable.to_string()),
        _ if !ports => return Finding::unknown(Unknown::WhetherByPort.to_string()),
        _ => return Finding::unknown(fit.to_string()),
    }
    let Some(best) = best else { return Finding::unknown(fit.to_string()) };
    Finding::known(best, of(best).min(SEEN), name(best))
}
