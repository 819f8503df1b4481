//! The Dataplane of Flock on rtnetlink.
