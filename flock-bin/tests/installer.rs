//! The installer on directories of a test, with plugins that are shell scripts.
#![cfg(feature = "installer")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail by panicking"
)]

#[path = "installer/failing.rs"]
mod failing;
#[path = "installer/node.rs"]
mod node;

#[path = "installer/conflist.rs"]
mod conflist;
#[path = "installer/crash.rs"]
mod crash;
#[path = "installer/foreign.rs"]
mod foreign;
#[path = "installer/process.rs"]
mod process;
#[path = "installer/sequences.rs"]
mod sequences;
#[path = "installer/twice.rs"]
mod twice;
