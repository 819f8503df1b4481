//! The announcer with real BIRDs, in network namespaces. Needs root, bird2, iproute2 and util-linux.
#![cfg(target_os = "linux")]

mod conformance;
mod lab;
mod sessions;
mod speaker_away;
