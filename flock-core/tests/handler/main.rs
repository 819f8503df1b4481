//! The handler on reference backends and on mocks.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

mod calls;
mod collect;
mod drain;
mod failures;
mod faults;
mod gc;
mod keeper;
mod machine;
mod node;
mod order;
mod queued;
mod readiness;
mod reaping;
mod reconfigure;
mod recover;
mod repair;
mod status;
mod view;
mod withdrawal;
