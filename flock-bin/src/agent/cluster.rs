//! The agent as a part of a Kubernetes cluster.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use flock_core::handler::Handler;
use flock_core::ipam::Usage;
use flock_core::name::NodeName;
use flock_core::node_config::NodeConfig;
use flock_core::pods::PodSource;
use flock_k8s::events::{Event, Events, Severity};
use flock_k8s::node::NodeWriter;
use flock_k8s::node_config::{NodeConfigState, NodeConfigWatch, Status, StatusWriter};
use flock_k8s::pods::KubePods;
use flock_k8s::{Cluster, Readiness as Condition};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout, timeout_at};

use crate::agent::metrics::{Metrics, Watch};
use crate::agent::readiness::Readiness;
use crate::agent::remembered::Remembered;
use crate::agent::{AgentError, NODE_CONFIG_WAIT};

/// How long the API server is waited for before the node starts with what it remembers.
const ANSWER_WAIT: Duration = Duration::from_secs(5);

/// How often addresses are counted for the status, and how soon a configuration that
/// could not be put in force is tried again.
const ROUND: Duration = Duration::from_secs(5);

/// What connects the agent with the API server.
#[derive(Debug)]
pub(super) struct Membership {
    name: NodeName,
    remembered: Remembered,
    node_config: NodeConfigWatch,
    pods: Arc<KubePods>,
    events: Events,
    status: StatusWriter,
    node: NodeWriter,
}

impl Membership {
    /// Starts the watches of the node's pods and NodeConfig. The API server may be away.
    pub(super) async fn begin(
        name: &NodeName,
        run_dir: &Path,
        startup_taint: Option<String>,
        metrics: &Metrics,
    ) -> Result<Self, AgentError> {
        let cluster = Cluster::connect(name.clone()).await?;
        let (node_config, pods) = (cluster.node_config(), Arc::new(cluster.pods()));
        let watch = node_config.clone();
        metrics.watch_restarts(Watch::NodeConfig, move || watch.health().restarts);
        let watch = Arc::clone(&pods);
        metrics.watch_restarts(Watch::Pods, move || watch.health().restarts);
        Ok(Self {
            name: name.clone(),
            remembered: Remembered::new(run_dir),
            node_config,
            pods,
            events: cluster.events(),
            status: cluster.node_config_status(),
            node: cluster.node(startup_taint),
        })
    }

    /// The node's pods.
    pub(super) fn pods(&self) -> Arc<dyn PodSource> {
        Arc::clone(&self.pods) as _
    }

    /// Where to say what happens to pods.
    pub(super) fn events(&self) -> Events {
        self.events.clone()
    }

    /// Waits for a NodeConfig that can be used. Why there is none is said wherever somebody may look.
    ///
    /// While the API server is away, the one that was in force last has to do: pods are deleted
    /// then too, and their addresses must not leak.
    pub(super) async fn node_config(
        &mut self,
        readiness: &watch::Sender<Readiness>,
    ) -> Result<NodeConfig, AgentError> {
        // Seen by the clone only: what was answered is looked at below.
        let mut answer = self.node_config.clone();
        if timeout(ANSWER_WAIT, answer.changed()).await.is_err()
            && let Some(config) = self.remembered.read(&self.name).await
        {
            let error = self.node_config.health().error.unwrap_or_default();
            tracing::warn!(
                error,
                "the API server has not answered: starting with the NodeConfig that was in force"
            );
            return Ok(config);
        }
        let deadline = Instant::now() + NODE_CONFIG_WAIT;
        let mut missing = "the API server has not answered".to_owned();
        loop {
            let Ok(state) = timeout_at(deadline, self.node_config.changed()).await else {
                let reason = match self.node_config.health().error {
                    Some(error) => format!("{missing}: {error}"),
                    None => missing,
                };
                return Err(AgentError::NoNodeConfigObject { node: self.name.clone(), reason });
            };
            let reason = match &state {
                NodeConfigState::Valid { config, .. } => return Ok(config.clone()),
                NodeConfigState::Unknown => continue,
                NodeConfigState::Invalid { error, .. } => {
                    missing = format!("the one that is there can't be used: {error}");
                    "NodeConfigInvalid"
                }
                NodeConfigState::Missing => {
                    missing = format!(
                        "there is none in the cluster; apply a NodeConfig with the name of this node, {}",
                        self.name
                    );
                    "NodeConfigMissing"
                }
            };
            tracing::warn!(node = %self.name, reason = missing, "waiting for the NodeConfig");
            let message = format!("NodeConfig {}: {missing}", self.name);
            readiness.send_replace(Readiness::waiting_for(message.clone()));
            self.node.publish(Condition { ready: false, reason: reason.to_owned(), message });
            self.tell(&state, &Ok(()), Vec::new());
        }
    }

    /// Says that the node is ready, then puts each change of the NodeConfig in force and tells
    /// the cluster how it is, for ever.
    pub(super) async fn follow(mut self, handler: Arc<Handler>) {
        self.node.publish(Condition {
            ready: true,
            reason: "FlockReady".to_owned(),
            message: "flock-agent gives pods their addresses and routes".to_owned(),
        });
        let mut state = self.node_config.current();
        let mut in_force = Ok(());
        let mut round = interval(ROUND);
        round.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.remembered.write(&handler.node_config()).await;
        loop {
            if let NodeConfigState::Valid { config, .. } = &state
                && (*config != handler.node_config() || in_force.is_err())
            {
                in_force = put_in_force(&handler, config).await;
                self.remembered.write(&handler.node_config()).await;
            }
            let usage = handler.usage().await.unwrap_or_else(|error| {
                tracing::warn!(%error, "the addresses can't be counted");
                Vec::new()
            });
            self.tell(&state, &in_force, usage);
            tokio::select! {
                changed = self.node_config.changed() => {
                    state = changed;
                    log(&state);
                }
                _ = round.tick() => {}
            }
        }
    }

    /// The status of the NodeConfig, and an Event where something is wrong. What was said
    /// already is not written again.
    fn tell(&self, state: &NodeConfigState, in_force: &Result<(), String>, usage: Vec<Usage>) {
        let (uid, generation, problem) = match state {
            NodeConfigState::Unknown | NodeConfigState::Missing => return,
            NodeConfigState::Valid { uid, generation, .. } => {
                let problem = in_force.as_ref().err().map(|error| ("NotInForce", error.clone()));
                (uid, *generation, problem)
            }
            NodeConfigState::Invalid { uid, generation, error } => {
                (uid, *generation, Some(("Invalid", error.problems.join("; "))))
            }
        };
        let readiness = match &problem {
            Some((reason, message)) => {
                Condition { ready: false, reason: (*reason).to_owned(), message: message.clone() }
            }
            None => Condition {
                ready: true,
                reason: "InForce".to_owned(),
                message: "new pods of the node get their addresses by this NodeConfig".to_owned(),
            },
        };
        self.status.publish(Status { uid: uid.clone(), generation, readiness, usage });
        if let Some((reason, message)) = problem {
            self.events.node_config(&self.name, uid, Event { severity: Severity::Warning, reason, message });
        }
    }
}

/// The error in words for the status; the log has it too.
async fn put_in_force(handler: &Handler, config: &NodeConfig) -> Result<(), String> {
    match handler.reconfigure(config.clone()).await {
        Ok(()) => {
            tracing::info!("the changed NodeConfig is in force");
            Ok(())
        }
        Err(error) => {
            tracing::error!(%error, "the changed NodeConfig can't be put in force; trying again");
            Err(error.to_string())
        }
    }
}

fn log(state: &NodeConfigState) {
    match state {
        NodeConfigState::Invalid { error, .. } => {
            tracing::error!(%error, "the NodeConfig can't be used; what was in force stays");
        }
        NodeConfigState::Missing => {
            tracing::warn!("the NodeConfig was deleted; what it said stays in force until the agent ends");
        }
        NodeConfigState::Valid { .. } | NodeConfigState::Unknown => {}
    }
}
