//! The handler on reference backends and on mocks.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

mod calls;
mod failures;
mod faults;
mod node;
mod order;
mod reaping;
mod reconfigure;
mod recover;
