//! The announcer with real BIRDs, in network namespaces. Needs root, bird2, iproute2 and
//! util-linux; the recipes also frr and gobgpd.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]
#![cfg(target_os = "linux")]

mod coalescing;
mod conformance;
mod drain;
mod failures;
mod graceful_restart;
mod lab;
mod observed;
mod peers;
mod protocols;
mod recipes;
mod sessions;
mod speaker_away;
mod watch;
