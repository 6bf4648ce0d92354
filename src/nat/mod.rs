//! What routers do. Pure; imports `wire`.

mod counts;
mod density;
mod fit;
mod model;
mod path;
mod pool;
mod prediction;

pub use fit::{Fit, MappingBehaviour, Observation, Unknown, fit};
pub use model::{ModelError, PortModel, Sequence};
pub use path::{NoOpener, Path};
pub use pool::{PoolError, PortPool};
pub use prediction::Prediction;
