//! The lab that the examples, the tests on real kernels and the benchmark run in.
//!
//! A lab is one machine that plays several: network namespaces joined by veths,
//! a real BIRD in each node and router, a real `flock-agent` on each node, and
//! pods that are added by running the `flock` plugin as a container runtime does.
//!
//! - [`sandbox`] is the outermost shell: a program re-executes itself in private
//!   namespaces, so that a lab touches nothing of the machine it runs on and is
//!   gone when the program is, however it ends.
//! - [`netns`] makes namespaces and links, runs commands in them, and pings.
//! - [`fabric`] joins two nodes and a top-of-rack router, [`node`], [`router`] and
//!   [`bird`] are its parts.
//! - [`cluster`] is the same network with a real Kubernetes on it: a control plane,
//!   and nodes with containerd, kubelet and kube-proxy.
//! - [`mod@bench`] measures ADD and DEL, of Flock and of others.
//! - [`readiness`] measures how the network follows the readiness of pods, [`changes`] of many at once.
//! - [`storm`] kills the agent under callers, [`churn`] lets pods come and go and fills a node.
//! - [`runtime`] runs the plugin, [`snapshot`] tells what a call changed, [`judge`] whether
//!   records, kernel and BIRD agree.
//! - [`process`] and [`deadline`] run commands and daemons, and wait for conditions;
//!   [`screen`] prints what came of it.
//!
//! Only Linux has what a lab needs.

#![cfg(target_os = "linux")]

pub mod bench;
pub mod bird;
pub mod changes;
pub mod churn;
pub mod cluster;
pub mod deadline;
mod error;
pub mod fabric;
pub mod judge;
pub mod netns;
pub mod node;
pub mod process;
pub mod programs;
mod random;
pub mod readiness;
pub mod router;
pub mod runtime;
pub mod sandbox;
pub mod screen;
pub mod snapshot;
pub mod storm;

pub use error::{LabError, Result};
