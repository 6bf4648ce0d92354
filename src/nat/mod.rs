//! What routers do. Pure; imports `wire`.
