//! flock-k8s against an API server that does as it is told.
//!
//! Time is paused in nearly all of it: minutes without the API server take no time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]
#![allow(missing_docs, unreachable_pub, missing_debug_implementations, reason = "nobody else sees it")]

mod conformance;
mod connection;
mod events;
mod fake;
mod log;
mod model;
mod node;
mod node_config;
mod pods;
mod secrets;
mod status;
mod watch;
