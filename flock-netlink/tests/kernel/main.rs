//! The netlink dataplane on the running kernel. Needs the rights of root over
//! network and mount namespaces (`unshare -Urnm` gives them too); each test makes
//! its own node.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

mod anycast;
mod dead;
mod disturbances;
mod drift;
mod flushed;
mod lab;
mod links;
mod namespaces;
mod node;
mod packets;

use crate::lab::Lab;

flock_core::dataplane_conformance!(Lab::new());
