//! What routers do. Pure; imports `wire`.

mod path;

pub use path::{NoOpener, Path};
