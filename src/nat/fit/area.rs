//! The pools that a router may allocate from, and what ports seen say about them.

use super::history::Allocation;
use crate::nat::density::Density;
use crate::nat::pool::PortPool;

/// The first port that every family of pools may have, the one after the well-known ports.
const LOWEST: u16 = 1024;
const PORTS: f64 = 64_512.0;

/// A pool, as far as it is known.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Area {
    /// This one.
    Pool(PortPool),
    /// `size` adjacent ports that begin in `starts`, each start as likely as another.
    Somewhere { size: u32, starts: (u32, u32) },
}

/// A pool that could have given the ports seen.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) area: Area,
    /// Of the area before any port was seen, given its family, as a logarithm.
    pub(super) ln_prior: f64,
    /// Of every port, as a logarithm.
    pub(super) ln_each: f64,
}

/// Ranges that systems are known to allocate from, with their prior probabilities: all but the
/// well-known ports; Linux's own ephemeral range; the upper half; the dynamic ports of RFC 6335;
/// all ports.
const FIXED: [(u16, u16, f64); 5] = [
    (1024, 65535, 0.30),
    (32768, 60999, 0.04),
    (32768, 65535, 0.04),
    (49152, 65535, 0.04),
    (1, 65535, 0.03),
];

/// Port blocks of carrier-grade NATs (RFC 7422 and RFC 6431 give powers of two), aligned.
const ALIGNED: f64 = 0.25;
const ALIGNED_SIZES: [u32; 7] = [64, 128, 256, 512, 1024, 2048, 4096];

/// MAP-E port sets (RFC 7597 section 5.1): `a` offset bits and `k` PSID bits. The RFC's own default
/// is a = 6; a = 4 is in wide use.
const MAP_E: f64 = 0.12;
const OFFSET_BITS: [u32; 3] = [4, 5, 6];
const PSID_BITS: std::ops::RangeInclusive<u32> = 3..=9;

/// Any range of adjacent ports, as `--to-ports` gives: its size log-uniform, on a grid that is
/// finer than the data can tell, and its place uniform.
pub(super) const ANYWHERE: f64 = 0.18;
const SMALLEST: f64 = 8.0;
const GRID: f64 = 1.06;

/// All pools that hold every port of `allocations` (of which there is at least one).
pub(super) fn candidates(allocations: &[Allocation]) -> Vec<Candidate> {
    let ports = || allocations.iter().map(|allocation| allocation.port);
    let (low, high) = (ports().min().unwrap_or(0), ports().max().unwrap_or(0));
    let mut found = Vec::new();
    let mut known = |pool: Option<PortPool>, prior: f64| {
        let Some(pool) = pool.filter(|pool| ports().all(|port| pool.contains(port))) else {
            return;
        };
        let ln_each = -f64::from(pool.size()).ln();
        found.push(Candidate { area: Area::Pool(pool), ln_prior: prior.ln(), ln_each });
    };
    for (first, last, prior) in FIXED {
        known(PortPool::range(first, last).ok(), prior);
    }
    for size in ALIGNED_SIZES {
        let first = u32::from(low) / size * size;
        let block = port(first).zip(port(first + size - 1));
        let prior = ALIGNED / ALIGNED_SIZES.len() as f64 * f64::from(size) / 65_536.0;
        known(block.and_then(|(first, last)| PortPool::range(first.max(1), last).ok()), prior);
    }
    for offset_bits in OFFSET_BITS {
        for psid_bits in PSID_BITS {
            let same_psid = |port: u16| {
                let run_bits = 16_u32.saturating_sub(offset_bits + psid_bits);
                (port ^ low) >> run_bits & ((1 << psid_bits) - 1) == 0
            };
            if !ports().all(same_psid) {
                continue;
            }
            let families = OFFSET_BITS.len() as f64 * PSID_BITS.count() as f64;
            let prior = MAP_E / families / f64::from(1_u32 << psid_bits);
            known(map_e(offset_bits, psid_bits, low), prior);
        }
    }
    if low < LOWEST {
        return found;
    }
    let span = u32::from(high - low) + 1;
    let sizes = grid();
    let each_size = ANYWHERE / sizes.len() as f64;
    for size in sizes.into_iter().filter(|size| *size >= span) {
        let (first, last) = (u32::from(LOWEST), 65_536 - size);
        let starts = ((u32::from(high) + 1).saturating_sub(size).max(first), last.min(low.into()));
        let share = f64::from(starts.1 - starts.0 + 1) / f64::from(last - first + 1);
        found.push(Candidate {
            area: Area::Somewhere { size, starts },
            ln_prior: (each_size * share).ln(),
            ln_each: -f64::from(size).ln(),
        });
    }
    found
}

fn port(number: u32) -> Option<u16> {
    u16::try_from(number).ok()
}

fn grid() -> Vec<u32> {
    let mut sizes: Vec<u32> = Vec::new();
    let mut size = SMALLEST;
    while size < PORTS {
        sizes.push(size as u32);
        size = (size * GRID).max(size + 1.0);
    }
    sizes
}

/// The MAP-E set that `port` is in: all ports with its PSID and an offset that is not 0.
fn map_e(offset_bits: u32, psid_bits: u32, port: u16) -> Option<PortPool> {
    let run_bits = 16_u32.checked_sub(offset_bits + psid_bits)?;
    let psid = u32::from(port) >> run_bits & ((1 << psid_bits) - 1);
    let run = |offset: u32| {
        let first = offset << (psid_bits + run_bits) | psid << run_bits;
        let last = first + (1 << run_bits) - 1;
        Some(u16::try_from(first).ok()?..=u16::try_from(last).ok()?)
    };
    PortPool::new((1..1 << offset_bits).filter_map(run)).ok()
}

impl Area {
    /// Adds `weight`, spread over its ports.
    pub(super) fn add_to(&self, density: &mut Density, weight: f64) {
        match self {
            Self::Pool(pool) => density.add_pool(pool, weight),
            Self::Somewhere { size, starts } => density.add_somewhere(*size, *starts, weight),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::WallTime;

    fn of_ports(ports: &[u16]) -> Vec<Candidate> {
        let at = WallTime::from_unix_ns(0);
        let allocations: Vec<_> =
            ports.iter().map(|port| Allocation { at, source: 1, port: *port }).collect();
        candidates(&allocations)
    }

    #[test]
    fn the_priors_of_all_pools_make_one() {
        // Of a single port, prior times likelihood summed over all ports is the prior's sum.
        let sum = |port: u16| -> f64 {
            of_ports(&[port]).iter().map(|pool| (pool.ln_prior + pool.ln_each).exp()).sum()
        };
        let total: f64 = (1..=65_535).step_by(61).map(sum).sum::<f64>() * 61.0;
        // The families of blocks have a little less: no block or set covers what lies below 1024.
        assert!((0.97..1.01).contains(&total), "{total}");
    }

    #[test]
    fn a_map_e_set_is_found_from_its_runs() {
        let set = map_e(4, 8, 4096 + 0x120 + 3).unwrap();
        assert_eq!((set.size(), set.ranges().len(), set.nth(0)), (240, 15, 0x1120));
        let ports: Vec<u16> = (0..12).map(|index| set.nth(index * 37)).collect();
        let best = of_ports(&ports)
            .into_iter()
            .max_by(|a, b| {
                let score = |pool: &Candidate| pool.ln_prior + 12.0 * pool.ln_each;
                score(a).total_cmp(&score(b))
            })
            .unwrap();
        assert_eq!(best.area, Area::Pool(set));
    }

    #[test]
    fn a_range_that_does_not_hold_a_port_is_out() {
        for pool in of_ports(&[3000, 9000]) {
            match pool.area {
                Area::Pool(pool) => assert!(pool.contains(3000) && pool.contains(9000)),
                Area::Somewhere { size, starts } => {
                    assert!(starts.0 >= 1024 && starts.0 <= starts.1 && starts.1 <= 3000);
                    assert!(starts.0 + size > 9000 && starts.1 + size <= 65_536);
                }
            }
        }
    }
}
