//! NodeConfig and pods from files on this machine.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use flock_core::name::NodeName;
use flock_core::node_config::NodeConfig;
use flock_core::pods::{PodDirectory, PodSource};

use crate::agent::pods::PlainPods;
use crate::agent::{AgentError, NODE_CONFIG_WAIT};

/// How often it is looked whether the file is there.
const POLL: Duration = Duration::from_millis(200);

/// Reads the NodeConfig of `node`, waiting for the file to appear.
pub(super) async fn node_config(node: &NodeName, path: &Path) -> Result<NodeConfig, AgentError> {
    let deadline = tokio::time::Instant::now() + NODE_CONFIG_WAIT;
    let mut told = false;
    let text = loop {
        match tokio::fs::read_to_string(path).await {
            Ok(text) => break text,
            Err(reason) if tokio::time::Instant::now() >= deadline => {
                return Err(AgentError::NoNodeConfig { node: node.clone(), path: path.to_owned(), reason });
            }
            Err(error) => {
                if !told {
                    tracing::warn!(path = %path.display(), %error, "waiting for the NodeConfig");
                    told = true;
                }
                tokio::time::sleep(POLL).await;
            }
        }
    };
    let config = NodeConfig::from_yaml(&text, &path.display().to_string())?;
    if config.name != *node {
        return Err(AgentError::OtherNode {
            expected: node.clone(),
            found: config.name,
            path: path.to_owned(),
        });
    }
    Ok(config)
}

/// The pods of a directory of manifests, or such without annotations.
pub(super) fn pods(directory: Option<&Path>) -> Arc<dyn PodSource> {
    match directory {
        Some(directory) => Arc::new(PodDirectory::new(directory)),
        None => Arc::new(PlainPods),
    }
}
