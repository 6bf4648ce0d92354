//! How an end's mappings fall, of which its router's model is the cause.

use super::course::Course;
use super::{End, PlanError, Sources};
use crate::nat::{PortModel, PortPool};
use crate::wire::WallTime;
use std::ops::RangeInclusive;

/// Where an end's external ports fall.
#[derive(Clone, Debug)]
pub(super) enum Allocation<'a> {
    /// This port for every destination.
    Fixed(u16),
    /// One after the other.
    Counted(Course<'a>),
    /// One unknown port of these a source, for every destination.
    StableRandom(Vec<u16>),
    /// Any of these, for each destination anew.
    Random(Vec<u16>),
}

/// Source ports that netfilter maps into 600–1023 (nf_nat_core.c): its smallest pool.
const LINUX_SOURCES: RangeInclusive<u16> = 512..=1023;
const LINUX_POOL: RangeInclusive<u16> = 600..=1023;
/// Source ports that need no privilege and mean nothing to a router.
const ANY_SOURCES: RangeInclusive<u16> = 1024..=65535;

impl<'a> Allocation<'a> {
    pub(super) fn of(end: &'a End, opened_at: WallTime, rate: u32) -> Result<Self, PlanError> {
        Ok(match &end.model {
            PortModel::Preserving | PortModel::Stable if end.port == 0 => {
                return Err(PlanError::NoPort);
            }
            PortModel::Preserving | PortModel::Stable => Self::Fixed(end.port),
            PortModel::Sequential(sequence) => {
                Self::Counted(Course::new(sequence, opened_at, rate)?)
            }
            PortModel::StableRandom(pool) => Self::StableRandom(pool.iter().collect()).plain(),
            PortModel::Random(pool) => Self::Random(pool.iter().collect()).plain(),
            PortModel::Parity(pool) => {
                let parity = parity(pool);
                Self::Random(pool.iter().filter(|port| port % 2 == parity).collect()).plain()
            }
            PortModel::LinuxRandom => Self::Random(LINUX_POOL.collect()),
        })
    }

    /// A pool of one port is no secret.
    fn plain(self) -> Self {
        match &self {
            Self::StableRandom(ports) | Self::Random(ports) if ports.len() == 1 => {
                Self::Fixed(ports[0])
            }
            _ => self,
        }
    }

    pub(super) fn rank(&self) -> u8 {
        match self {
            Self::Fixed(_) => 0,
            Self::Counted(_) => 1,
            Self::StableRandom(_) => 2,
            Self::Random(_) => 3,
        }
    }
}

/// The parity that more ports of the pool have; even of equals.
fn parity(pool: &PortPool) -> u16 {
    let odd = pool.iter().filter(|port| port % 2 == 1).count();
    u16::from(2 * odd > pool.iter().count())
}

impl Sources {
    /// So many source ports whose mappings fall where the plan says.
    pub(super) fn of(end: &End, count: u16) -> Result<Self, PlanError> {
        let ranges: Vec<_> = match &end.model {
            PortModel::Preserving | PortModel::Stable => return Ok(Self::Exactly(end.port)),
            PortModel::LinuxRandom => vec![LINUX_SOURCES],
            PortModel::Parity(pool) => {
                let parity = parity(pool);
                ANY_SOURCES.filter(|port| port % 2 == parity).map(|port| port..=port).collect()
            }
            _ => vec![ANY_SOURCES],
        };
        let of = PortPool::new(ranges).map_err(|_| PlanError::NoPort)?;
        Ok(Self::Any { count, of })
    }
}
