//! The tuples of a punch, and their local ports, which are guarded from here on.

use super::config::Punch;
use super::error::PunchError;
use crate::nat::PortModel;
use crate::punch::{End, First, Plan, Search, SearchConfig, Sources, Strategy};
use crate::sys::ebpf::ReplyOn;
use crate::sys::{Guard, Predecessor, predecessor};
use crate::wire::Tuple;
use std::time::{Duration, Instant};

/// Where the punch takes place.
pub(super) struct Field {
    /// How, on the first tuple and in a search.
    pub(super) strategy: Strategy,
    /// The tuples raced and how, the first preferred; none in a search.
    pub(super) tuples: Vec<(Tuple, Strategy)>,
    /// The tuple of the second instant, and how; none in a search.
    pub(super) reserve: Option<(Tuple, Strategy)>,
    /// The tuples searched.
    pub(super) search: Option<Search>,
    pub(super) guards: Vec<Guard>,
    /// What the search rests on.
    pub(super) plan: Option<Plan>,
}

/// A closing connection between the same endpoints gets this long to be gone.
const CLOSING_PATIENCE: Duration = Duration::from_millis(500);

impl Field {
    /// Plans, and guards what is planned. `tuple` is what the punch would use on its own.
    ///
    /// # Errors
    /// The plan's, and the guards' where they matter.
    pub(super) fn prepare(punch: &Punch, tuple: Tuple, random: u64) -> Result<Self, PunchError> {
        match punch.plan()? {
            Some(plan) if !is_known(&plan, tuple) => {
                Self::searched(punch, plan, tuple, random as u32)
            }
            Some(_) | None => Self::raced(punch.tuples(tuple), punch.reserve(tuple)),
        }
    }

    /// The first tuple.
    pub(super) fn first(&self) -> Tuple {
        match (&self.search, self.tuples.first()) {
            (Some(search), _) => search.first(),
            (None, Some((tuple, _))) => *tuple,
            (None, None) => unreachable!("a field has tuples or a search"),
        }
    }

    /// Each local port once.
    pub(super) fn local_ports(&self) -> Vec<u16> {
        match &self.search {
            Some(search) => search.sources().to_vec(),
            None => self.told().map(|(tuple, _)| tuple.local.port()).collect(),
        }
    }

    /// The peer's ports, likewise.
    pub(super) fn remote_ports(&self) -> Vec<u16> {
        match &self.search {
            Some(search) => search.targets().to_vec(),
            None => self.told().map(|(tuple, _)| tuple.remote.port()).collect(),
        }
    }

    /// The tuples on which the peer's SYN is answered by itself, if there are any.
    pub(super) fn answering(&self) -> Option<ReplyOn> {
        let by_syn = |strategy: Strategy| strategy.traits().first == First::Syn;
        if self.search.is_some() {
            return by_syn(self.strategy).then_some(ReplyOn::All);
        }
        // What is offered at the second instant the kernel side does not know.
        let tuples = self.tuples.iter().filter(|(_, strategy)| by_syn(*strategy));
        let tuples: Vec<_> = tuples.map(|(tuple, _)| *tuple).collect();
        (!tuples.is_empty()).then_some(ReplyOn::Tuples(tuples))
    }

    /// All tuples that are known beforehand.
    fn told(&self) -> impl Iterator<Item = &(Tuple, Strategy)> {
        self.tuples.iter().chain(&self.reserve)
    }

    fn searched(punch: &Punch, plan: Plan, tuple: Tuple, random: u32) -> Result<Self, PunchError> {
        let Tuple { local, remote } = tuple;
        let (guards, sources) = match &plan.sources {
            Sources::Exactly(_) => (vec![Guard::new(local)?], vec![local.port()]),
            Sources::Any { count, of } => {
                let asked = of.place(local.port()).unwrap_or(0);
                let place = if is_random(punch) { random % of.size() } else { asked };
                let ports = (0..of.size()).map(|nth| of.nth(place + nth));
                Guard::several(local.ip(), ports, usize::from(*count))?
            }
        };
        let strategy = punch.search_strategy();
        let search = Search::new(SearchConfig {
            local: local.ip(),
            remote: remote.ip(),
            sources,
            targets: plan.targets.clone(),
            peer_tuples: plan.peer_len(),
            rate: punch.budget.rate,
            packets: punch.budget.packets,
            fires: plan.fires(),
            speculates: strategy.traits().speculates,
            at: punch.at,
            lead: punch.search_lead,
        });
        Ok(Self {
            strategy,
            tuples: Vec::new(),
            reserve: None,
            search: Some(search),
            guards,
            plan: Some(plan),
        })
    }

    /// Guards the local port of every tuple. One that another program has is left out, except the
    /// first, which was asked for.
    fn raced(
        tuples: Vec<(Tuple, Strategy)>,
        reserve: Option<(Tuple, Strategy)>,
    ) -> Result<Self, PunchError> {
        let (mut guards, mut guarded) = (Vec::new(), Vec::new());
        let take = |tuple: Tuple| make_way(tuple).and_then(|()| Ok(Guard::new(tuple.local)?));
        for (tuple, strategy) in tuples {
            match take(tuple) {
                Ok(guard) => {
                    guards.push(guard);
                    guarded.push((tuple, strategy));
                }
                Err(error) if guarded.is_empty() => return Err(error),
                Err(error) => tracing::warn!("{strategy} on {tuple} is left out: {error}"),
            }
        }
        let reserve = reserve.filter(|(tuple, _)| match take(*tuple) {
            Ok(guard) => {
                guards.push(guard);
                true
            }
            Err(error) => {
                tracing::debug!("no second instant on {tuple}: {error}");
                false
            }
        });
        let strategy = guarded.first().map_or(Strategy::Syn, |(_, strategy)| *strategy);
        Ok(Self { strategy, tuples: guarded, reserve, search: None, guards, plan: None })
    }
}

impl Punch {
    /// The plan that both models make, if they were given.
    fn plan(&self) -> Result<Option<Plan>, PunchError> {
        let Some((ours, theirs)) = &self.models else { return Ok(None) };
        let ours = End { model: ours.clone(), port: self.local_port };
        let theirs = End { model: theirs.clone(), port: self.peer.port() };
        let opened_at = self.agreed.before(self.search_lead);
        let plan = Plan::new(&ours, &theirs, &self.budget, opened_at)?;
        if plan.chance < Self::LEAST_CHANCE && !self.anyway {
            let needed = plan.needed(LIKELY);
            return Err(PunchError::Unlikely { plan: plan.words(), needed });
        }
        Ok(Some(plan))
    }
}

/// Whether each destination makes a mapping of its own. Then the local ports of a search begin at a
/// random place and are hardly ever those of the last one, of which routers and this host still
/// hold something. A router that has one mapping for all destinations keeps it, and is asked from
/// the same ports again.
fn is_random(punch: &Punch) -> bool {
    let of_ours = |(ours, _): &(PortModel, _)| {
        matches!(ours, PortModel::LinuxRandom | PortModel::Random(_) | PortModel::Parity(_))
    };
    punch.models.as_ref().is_some_and(of_ours)
}

/// Whether the plan is just the tuple that was asked for.
fn is_known(plan: &Plan, tuple: Tuple) -> bool {
    matches!(plan.sources, Sources::Exactly(_)) && plan.targets == [tuple.remote.port()]
}

/// What advice about a budget aims at.
const LIKELY: f64 = 0.99;

/// Waits for what is left of an earlier connection between the same endpoints.
fn make_way(tuple: Tuple) -> Result<(), PunchError> {
    let began = Instant::now();
    loop {
        match predecessor::clear(tuple) {
            Ok(Predecessor::Gone) => return Ok(()),
            Ok(Predecessor::Closing) if began.elapsed() < CLOSING_PATIENCE => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Ok(Predecessor::Closing | Predecessor::InUse) => {
                return Err(PunchError::TupleInUse(tuple));
            }
            Err(error) => {
                tracing::debug!("cannot look for an earlier connection: {error}");
                return Ok(());
            }
        }
    }
}
