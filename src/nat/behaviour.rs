//! What a router does with TCP, as far as it was found out.

use super::fit::{Fit, MappingBehaviour};
use super::model::PortModel;
use super::pool::PortPool;
use crate::wire::WallTime;
use serde::Serialize;
use serde::ser::{SerializeStruct, Serializer};
use std::net::IpAddr;

/// One thing that was to be found out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding<T> {
    /// What it is; `None` where it could not be found out. Never a guess.
    pub value: Option<T>,
    /// The probability that it is so, 0 for what is unknown.
    pub confidence: f64,
    /// What says so, or why nothing does: one sentence without its full stop.
    pub because: String,
}

impl<T> Finding<T> {
    /// Found out, so surely.
    pub fn known(value: T, confidence: f64, because: impl Into<String>) -> Self {
        Self { value: Some(value), confidence, because: because.into() }
    }

    /// Not found out.
    pub fn unknown(because: impl Into<String>) -> Self {
        Self { value: None, confidence: 0.0, because: because.into() }
    }
}

/// Who may send a SYN to an external port that the inside has opened to somebody, in the words of
/// RFC 4787 section 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Filtering {
    /// Everybody.
    EndpointIndependent,
    /// Whoever has an address that the inside has sent to.
    AddressDependent,
    /// Only whoever has an address and port that the inside has sent to.
    AddressAndPortDependent,
}

/// What meets a SYN that nobody asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unsolicited {
    /// Nothing, for longer than RFC 5382 REQ-4 has a router wait.
    Silence,
    /// A reset at once, which closes a peer's mapping that is still unanswered.
    Reset,
    /// An ICMP error at once.
    Icmp,
    /// An error after some six seconds, as RFC 5382 REQ-4 asks.
    Held,
    /// A SYN-ACK of the router's own, or of whoever it forwards the port to.
    Answered,
}

/// Whether something gets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Passage {
    /// It does.
    Passes,
    /// It does not.
    Blocked,
}

/// What stands between this host and the network outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Boundary {
    /// Nothing: the address is the host's own, and everybody may connect.
    Open,
    /// No NAT, but something lets in only what was asked for.
    Firewall,
    /// No NAT; whether there is a firewall is unknown.
    NoNat,
    /// At least one NAT.
    Nat,
}

/// How external ports are chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Allocation {
    /// The model, as `--nat-model` takes it.
    pub model: PortModel,
    /// Among how many ports a mapping to a new destination may be; 1 where it is known.
    pub ports: u32,
}

/// Where the NATs are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Nats {
    /// So many there are for certain.
    pub at_least: u8,
    /// Not more than this, if that is known.
    pub at_most: Option<u8>,
    /// At which hop the outermost one is, counted from 1.
    pub outermost_hop: Option<u8>,
    /// The routers on the way that answered.
    pub path: Vec<Hop>,
}

/// A router on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Hop {
    /// Its distance, counted from 1.
    pub distance: u8,
    /// The address that it answers from.
    pub address: IpAddr,
    /// What sort of address that is.
    pub space: AddressSpace,
}

/// Sorts of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AddressSpace {
    /// Of the public network.
    Public,
    /// RFC 1918, RFC 4193 and the like.
    Private,
    /// 100.64.0.0/10 of RFC 6598: a carrier's NAT is near.
    Shared,
}

/// All that was found out about this host's routers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Nat {
    /// What stands between this host and the network.
    pub boundary: Boundary,
    /// This host's address.
    pub local: IpAddr,
    /// The addresses by which it is seen outside, in order of appearance.
    pub external: Vec<IpAddr>,
    /// Which destinations share a mapping.
    pub mapping: Finding<MappingBehaviour>,
    /// Who may send to a mapping.
    pub filtering: Finding<Filtering>,
    /// How external ports are chosen.
    pub allocation: Finding<Allocation>,
    /// What meets a SYN that nobody asked for.
    pub unsolicited_syn: Finding<Unsolicited>,
    /// A SYN from where this host has just sent one to: a simultaneous open.
    pub crossed_syn: Finding<Passage>,
    /// An ACK as a connection's first packet, from inside.
    pub mid_stream: Finding<Passage>,
    /// A connection to the own external address.
    pub hairpin: Finding<Passage>,
    /// How many NATs there are, and where.
    pub nats: Nats,
}

impl Allocation {
    /// As fitted; of a router that has one port for all destinations also from which pool.
    pub fn of_fit(fit: &Fit, at: WallTime) -> Self {
        // No port 0 was ever observed, so this is what the others suggest for one that was not.
        let model = fit.model_for(0, at);
        let ports = ports(&model);
        Self { model, ports }
    }
}

/// Six standard deviations and eight places either way of a counter that nobody else moves
/// (punch/plan/course.rs).
const OF_A_COUNTER: u32 = 33;
/// netfilter's, from source ports 512 to 1023 (nf_nat_core.c).
const OF_NETFILTER: u32 = 424;

fn ports(model: &PortModel) -> u32 {
    let size = PortPool::size;
    match model {
        // Where one mapping serves all destinations, a server tells which it is.
        PortModel::Preserving | PortModel::Stable | PortModel::StableRandom(_) => 1,
        PortModel::Random(pool) => size(pool),
        PortModel::Parity(pool) => size(pool).div_ceil(2),
        PortModel::LinuxRandom => OF_NETFILTER,
        PortModel::Sequential(sequence) => {
            // What others take in the second between measuring and firing, with its spread.
            let others = sequence.rate + 6.0 * sequence.rate.sqrt();
            size(&sequence.pool).min(OF_A_COUNTER.saturating_add(others as u32))
        }
    }
}

impl Serialize for Allocation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let kind = match self.model {
            PortModel::Preserving => "preserving",
            PortModel::Stable | PortModel::StableRandom(_) => "stable",
            PortModel::Sequential(_) => "sequential",
            PortModel::Parity(_) => "parity",
            PortModel::Random(_) => "random",
            PortModel::LinuxRandom => "linux_random",
        };
        let mut allocation = serializer.serialize_struct("Allocation", 3)?;
        allocation.serialize_field("kind", kind)?;
        allocation.serialize_field("model", &self.model.to_string())?;
        allocation.serialize_field("ports", &self.ports)?;
        allocation.end()
    }
}

impl AddressSpace {
    /// The sort of this address.
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) if v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64 => Self::Shared,
            IpAddr::V4(v4) if v4.is_private() || v4.is_link_local() || v4.is_loopback() => {
                Self::Private
            }
            IpAddr::V6(v6)
                if v6.is_unique_local() || v6.is_unicast_link_local() || v6.is_loopback() =>
            {
                Self::Private
            }
            _ => Self::Public,
        }
    }
}
