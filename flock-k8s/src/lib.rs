//! PodSource and NodeConfig of Flock from the Kubernetes API.

mod backoff;
mod cluster;
mod error;
pub mod node_config;
pub mod pods;
mod task;
mod watch;

pub use cluster::{Cluster, ClusterError};
pub use watch::WatchHealth;
