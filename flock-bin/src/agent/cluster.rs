//! The agent as a part of a Kubernetes cluster.

use std::sync::Arc;
use std::time::Duration;

use flock_core::handler::Handler;
use flock_core::name::NodeName;
use flock_core::node_config::NodeConfig;
use flock_core::pods::PodSource;
use flock_k8s::Cluster;
use flock_k8s::node_config::{NodeConfigState, NodeConfigWatch};
use flock_k8s::pods::KubePods;
use tokio::sync::watch;

use crate::agent::metrics::{Metrics, Watch};
use crate::agent::readiness::Readiness;
use crate::agent::{AgentError, NODE_CONFIG_WAIT};

/// How long it takes until a configuration that could not be put in force is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What connects the agent with the API server.
#[derive(Debug)]
pub(super) struct Membership {
    node: NodeName,
    node_config: NodeConfigWatch,
    pods: Arc<KubePods>,
}

impl Membership {
    /// Starts the watches of the node's pods and NodeConfig. The API server may be away.
    pub(super) async fn begin(node: &NodeName, metrics: &Metrics) -> Result<Self, AgentError> {
        let cluster = Cluster::connect(node.clone()).await?;
        let (node_config, pods) = (cluster.node_config(), Arc::new(cluster.pods()));
        let watch = node_config.clone();
        metrics.watch_restarts(Watch::NodeConfig, move || watch.health().restarts);
        let watch = Arc::clone(&pods);
        metrics.watch_restarts(Watch::Pods, move || watch.health().restarts);
        Ok(Self { node: node.clone(), node_config, pods })
    }

    /// The node's pods.
    pub(super) fn pods(&self) -> Arc<dyn PodSource> {
        Arc::clone(&self.pods) as _
    }

    /// Waits for a NodeConfig that can be used.
    pub(super) async fn node_config(
        &mut self,
        readiness: &watch::Sender<Readiness>,
    ) -> Result<NodeConfig, AgentError> {
        let deadline = tokio::time::Instant::now() + NODE_CONFIG_WAIT;
        let mut missing = "the API server has not answered".to_owned();
        loop {
            let Ok(state) = tokio::time::timeout_at(deadline, self.node_config.changed()).await else {
                let reason = match self.node_config.health().error {
                    Some(error) => format!("{missing}: {error}"),
                    None => missing,
                };
                return Err(AgentError::NoNodeConfigObject { node: self.node.clone(), reason });
            };
            missing = match state {
                NodeConfigState::Valid { config, .. } => return Ok(config),
                NodeConfigState::Invalid { error, .. } => {
                    format!("the one that is there can't be used: {error}")
                }
                NodeConfigState::Missing => format!(
                    "there is none in the cluster; apply a NodeConfig with the name of this node, {}",
                    self.node
                ),
                NodeConfigState::Unknown => continue,
            };
            tracing::warn!(node = %self.node, reason = missing, "waiting for the NodeConfig");
            readiness.send_replace(Readiness::waiting_for(format!("NodeConfig {}: {missing}", self.node)));
        }
    }

    /// Puts each change of the NodeConfig in force, for ever.
    pub(super) async fn follow(mut self, handler: Arc<Handler>) {
        let mut due = None;
        loop {
            let state = match due.take() {
                None => self.node_config.changed().await,
                Some(again) => tokio::select! {
                    state = self.node_config.changed() => state,
                    () = tokio::time::sleep(RETRY) => again,
                },
            };
            match &state {
                NodeConfigState::Valid { config, .. } if *config != handler.node_config() => {
                    match handler.reconfigure(config.clone()).await {
                        Ok(()) => tracing::info!("the changed NodeConfig is in force"),
                        Err(error) => {
                            tracing::error!(%error, "the changed NodeConfig can't be put in force; trying again");
                            due = Some(state);
                        }
                    }
                }
                NodeConfigState::Invalid { error, .. } => {
                    tracing::error!(%error, "the NodeConfig can't be used; what was in force stays");
                }
                NodeConfigState::Missing => {
                    tracing::warn!(
                        "the NodeConfig was deleted; what it said stays in force until the agent ends"
                    );
                }
                NodeConfigState::Valid { .. } | NodeConfigState::Unknown => {}
            }
        }
    }
}
