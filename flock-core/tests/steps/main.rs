//! The process is killed between any two steps of its work on files.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

mod death;
mod deletions;
mod store;
