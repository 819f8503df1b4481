//! The RouteAnnouncer of Flock on BIRD 2.
