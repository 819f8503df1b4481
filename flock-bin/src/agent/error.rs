//! Why the agent ended.

use std::io;
use std::path::PathBuf;

use flock_core::announcer::AnnounceError;
use flock_core::boot;
use flock_core::dataplane::DataplaneError;
use flock_core::deletions::QueueError;
use flock_core::handler::HandlerError;
use flock_core::name::NodeName;
use flock_core::node_config::NodeConfigError;
use flock_core::server::BindError;
use flock_core::store::StoreError;
use flock_k8s::ClusterError;

use crate::agent::NODE_CONFIG_WAIT;
use crate::agent::http::ListenError;

/// Why the agent ended.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The socket.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The address for metrics and health.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// There is no way to the API server.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The NodeConfig did not appear in its file.
    #[error(
        "no NodeConfig {node} after {} s: {}: {reason}; write it there or say where it is with --node-config",
        NODE_CONFIG_WAIT.as_secs(),
        .path.display()
    )]
    NoNodeConfig {
        /// Whose.
        node: NodeName,
        /// Where it was looked for.
        path: PathBuf,
        /// The system's answer.
        reason: io::Error,
    },
    /// The NodeConfig can't be used.
    #[error(transparent)]
    NodeConfig(#[from] NodeConfigError),
    /// The NodeConfig is another node's.
    #[error(
        "{} is the NodeConfig of {found}, expected that of {expected}; correct metadata.name or --node-name",
        .path.display()
    )]
    OtherNode {
        /// This node.
        expected: NodeName,
        /// The one it is for.
        found: NodeName,
        /// The file.
        path: PathBuf,
    },
    /// The records can't be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The queued deletions can't be read.
    #[error("the queued deletions can't be read: {0}; {advice}", advice = .0.advice())]
    Queue(#[from] QueueError),
    /// The kernel can't be talked to.
    #[error(transparent)]
    Dataplane(#[from] DataplaneError),
    /// BIRD's configuration can't be written.
    #[error(transparent)]
    Announcer(#[from] AnnounceError),
    /// Records of this boot can't be told from those of another.
    #[error("can't read which boot this is from {path}: {0}; mount /proc", path = boot::ID_FILE)]
    BootId(#[source] io::Error),
    /// A part of the agent would not do its work any more.
    #[error("{what} has ended early: {why}; this is a defect, please report it with the log")]
    Ended {
        /// Which part.
        what: &'static str,
        /// As far as it is known.
        why: String,
    },
    /// The kernel or the records could not be brought in order.
    #[error("the node can't be brought in order: {0}")]
    Recover(#[from] HandlerError),
}
