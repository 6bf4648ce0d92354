//! What routers do. Pure; imports `wire`.

mod behaviour;
mod classify;
mod counts;
mod density;
mod fit;
mod meaning;
mod model;
mod path;
mod pool;
mod prediction;
mod prospect;

pub use behaviour::{
    AddressSpace, Allocation, Boundary, Filtering, Finding, Hop, Nat, Nats, Passage, Unsolicited,
};
pub use classify::{Evidence, Hairpin, Probe, ProbeAnswer, Said};
pub use fit::{Fit, MappingBehaviour, Observation, Unknown, fit};
pub use meaning::{advice, meaning};
pub use model::{ModelError, PortModel, Sequence};
pub use path::{NoOpener, Path};
pub use pool::{PoolError, PortPool};
pub use prediction::Prediction;
pub use prospect::{
    Class, InboundSyn, Obstacle, PEER_KINDS, PeerKind, Prospect, Verdict, Way, prospects, way,
};
