//! What an end knows of its router, and the race that follows from it as in `engine::field`.

use crate::behaviour::{Behaviour, Dependence, Pool, Ports};
use crate::host::Host;
use crate::network::Conditions;
use crate::router::{Router, State};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tcp_punch::nat::{PortModel, PortPool, Sequence};
use tcp_punch::punch::{
    self, AttemptConfig, Offer, Opener, Plan, RaceConfig, Reserve, Search, SearchConfig, Sources,
    Strategy,
};
use tcp_punch::wire::{Seq, Tuple, WallTime};

/// The last opener leaves so long before the instant.
const LEAD: Duration = Duration::from_millis(250);

/// One end as both ends know it.
pub(crate) struct End {
    model: PortModel,
    /// The external port, as far as there is one.
    port: u16,
}

/// A host, and what its plan promises.
pub(crate) struct Planned {
    host: Option<Host>,
    pub(crate) chance: f64,
}

impl Planned {
    pub(crate) fn take(&mut self) -> Host {
        self.host.take().expect("taken once")
    }
}

impl End {
    /// The internal port, which the peer is told where it is kept.
    pub(crate) const PORT: u16 = 40_000;

    /// What a survey finds out beforehand.
    pub(crate) fn measure(routers: &mut [Router], local: SocketAddr, stun: SocketAddr) -> Self {
        let all = routers.iter().map(|router| router.behaviour);
        let kind = all.reduce(Behaviour::behind).expect("a router");
        let pool = |(first, last): Pool| PortPool::range(first, last).expect("a pool");
        if kind.ports == Ports::Preserving {
            return Self { model: PortModel::Preserving, port: Self::PORT };
        }
        if kind.mapping == Dependence::Endpoint {
            let mut at = local;
            for router in routers {
                router.remember(at, stun, State::Established);
                let port = router.external(at, stun).expect("a mapping");
                at = SocketAddr::new(router.address, port);
            }
            return Self { model: PortModel::Stable, port: at.port() };
        }
        let model = match kind.ports {
            Ports::Random(range) if kind.mapping == Dependence::Address => {
                PortModel::StableRandom(pool(range))
            }
            Ports::Random(range) => PortModel::Random(pool(range)),
            Ports::Parity(range) => PortModel::Parity(pool(range)),
            Ports::LinuxRandom => PortModel::LinuxRandom,
            Ports::Sequential { step, rate, pool: range } => {
                let counting = routers.iter().rfind(|router| router.behaviour.ports == kind.ports);
                let counting = counting.expect("the one that counts");
                let (next, at) = (counting.next_port(), Some(counting.counted_at()));
                PortModel::Sequential(Sequence {
                    next,
                    at,
                    step,
                    rate,
                    counted_s: None,
                    pool: pool(range),
                })
            }
            Ports::Preserving => PortModel::Preserving,
        };
        Self { model, port: Self::PORT }
    }

    /// The host that punches from here to `peer`. Both plan for the instant `start`; at `agreed`
    /// this one's clock says that it is there, and at `at` it is ready.
    pub(crate) fn host(
        &self,
        peer: &Self,
        conditions: &Conditions,
        [local, remote]: [IpAddr; 2],
        start: WallTime,
        [agreed, at]: [WallTime; 2],
        seed: u64,
    ) -> Planned {
        let end = |end: &Self| punch::End { model: end.model.clone(), port: end.port };
        let preserving = self.model == PortModel::Preserving && peer.model == PortModel::Preserving;
        let plan = (conditions.models && !preserving).then(|| {
            Plan::new(&end(self), &end(peer), &conditions.budget, start.before(LEAD))
                .expect("a plan")
        });
        let chance = plan.as_ref().map_or(1.0, |plan| plan.chance);
        let (tuples, search) = match plan {
            Some(plan) if plan.len() > 1 => {
                (vec![], Some(search(&plan, conditions, [local, remote], at, seed)))
            }
            planned => {
                let target = planned.and_then(|plan| plan.targets.first().copied());
                let remote = SocketAddr::new(remote, target.unwrap_or(Self::PORT));
                (raced(SocketAddr::new(local, Self::PORT), remote, conditions), None)
            }
        };
        let tuple = match (&search, tuples.first()) {
            (Some(search), _) => search.first(),
            (None, Some((tuple, _))) => *tuple,
            (None, None) => unreachable!("something is tried"),
        };
        let opens = search.as_ref().map_or(at, Search::opens_at);
        let opens = opens.min(at.before(LEAD));
        // As a key does, one number for both ends, or for each minute.
        let of_minute =
            |minute: u32| Seq(conditions.seed as u32 ^ 0x5eed_5eed) + 7_777_777 * minute;
        let is_a = local < IpAddr::from([128, 0, 0, 0]);
        let minutes = match (conditions.minutes_apart, is_a) {
            (true, true) => [2, 1, 0],
            (true, false) => [1, 2, 3],
            (false, _) => [1, 0, 2],
        };
        let keyed = minutes.map(of_minute);
        let iss = if conditions.key { keyed[0] } else { Seq(seed as u32) };
        // Equal only where that is what is tried: one pair in 16,384 has it by chance.
        let window = match conditions.equal_windows {
            true => 0,
            false => (seed >> 48) as u16 & !1 | u16::from(is_a),
        };
        let attempt = AttemptConfig {
            tuple,
            at,
            agreed,
            iss,
            expected_irs: conditions.key.then_some(keyed),
            offer: Offer {
                mss: 1460,
                window_scale: 7,
                window: 0xc000 | window,
                mark: (seed >> 40) as u8,
            },
            strategy: tuples.first().map_or(Strategy::Syn, |(_, strategy)| *strategy),
            racing: false,
            seed,
        };
        let opener =
            conditions.openers[usize::from(!is_a)].then_some(Opener { hop_limit: 2, at: opens });
        // As `Punch::reserve` has it.
        let reserve = tuples.last().filter(|_| conditions.key).map(|(last, _)| Reserve {
            tuple: Tuple { local: next(last.local, 1), remote: next(last.remote, 1) },
            strategy: Strategy::SynAck,
            offer: attempt.offer,
        });
        let race = RaceConfig { attempt, timeout: conditions.timeout, tuples, reserve, search };
        let mut host = Host::new(race, opener);
        host.race().set_one_way(conditions.one_way);
        Planned { host: Some(host), chance }
    }
}

/// Neighbouring tuples, as `Punch::tuples` has them.
fn raced(local: SocketAddr, remote: SocketAddr, conditions: &Conditions) -> Vec<(Tuple, Strategy)> {
    let by_syn = if conditions.key { Strategy::SynAck } else { Strategy::Syn };
    let strategies = (0..conditions.spread).map(|_| by_syn);
    let mid_stream = conditions.key.then_some(Strategy::MidStream);
    (0..)
        .zip(strategies.chain(mid_stream))
        .map(|(nth, strategy)| {
            (Tuple { local: next(local, nth), remote: next(remote, nth) }, strategy)
        })
        .collect()
}

fn next(at: SocketAddr, nth: u16) -> SocketAddr {
    SocketAddr::new(at.ip(), at.port().wrapping_add(nth))
}

fn search(
    plan: &Plan,
    conditions: &Conditions,
    [local, remote]: [IpAddr; 2],
    at: WallTime,
    seed: u64,
) -> Search {
    let sources = match &plan.sources {
        Sources::Exactly(_) => vec![End::PORT],
        // Any free ones will do.
        Sources::Any { count, of } => {
            let first = (seed >> 16) as u32 % of.size();
            (0..u32::from(*count)).map(|nth| of.nth(first + nth)).collect()
        }
    };
    Search::new(SearchConfig {
        local,
        remote,
        sources,
        targets: plan.targets.clone(),
        peer_tuples: plan.peer_len(),
        rate: conditions.budget.rate,
        packets: conditions.budget.packets,
        fires: plan.fires(),
        speculates: false,
        at,
        lead: LEAD,
    })
}
