//! PodSource and NodeConfig of Flock from the Kubernetes API.

mod backoff;
mod cluster;
mod error;
pub mod events;
pub mod node;
pub mod node_config;
pub mod pods;
mod publisher;
mod readiness;
mod task;
mod watch;

pub use cluster::{Cluster, ClusterError};
pub use readiness::Readiness;
pub use watch::WatchHealth;
