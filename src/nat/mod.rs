//! What routers do. Pure; imports `wire`.

mod model;
mod path;
mod pool;

pub use model::{ModelError, PortModel, Sequence};
pub use path::{NoOpener, Path};
pub use pool::{PoolError, PortPool};
