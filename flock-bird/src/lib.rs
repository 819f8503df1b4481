//! The RouteAnnouncer of Flock on BIRD 2.
pub mod render;
