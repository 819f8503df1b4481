//! The node itself: whether its network is there, for the scheduler to know ([`NodeWriter`]), and
//! whether it is about to leave ([`LeavingWatch`]).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use flock_core::name::NodeName;
use kube::Client;
use kube::api::{GetParams, Patch, PatchParams};
use kube::core::Request;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::publisher::{Pace, Publisher, Target, WriteError};
use crate::readiness::{Readiness, now};

mod leaving;

pub use leaving::{DRAIN_ON_CORDON, Leaving, LeavingWatch};

const NODES: &str = "/api/v1/nodes";
/// The condition that keeps pods from a node while it is true.
const CONDITION: &str = "NetworkUnavailable";
/// Readiness does not change often; should it, the API server is not bothered with each change.
const LEAST: Duration = Duration::from_secs(1);
/// A node that was deleted and registered again has lost the condition, and has its taint again.
const AGAIN: Duration = Duration::from_secs(60);

/// Tells the cluster whether pods on the node get a network. Made by
/// [`Cluster::node`](crate::Cluster::node).
///
/// Nothing waits for it: what is published is written soon, again while the API server is away,
/// and again if it does not stand there any more, which is looked at once in a minute.
///
/// - The node's condition `NetworkUnavailable` becomes `False` when it is ready and `True` when it
///   is not. Kubernetes keeps new pods from a node where it is `True`; pods that run stay.
/// - Where it is ready, the startup taint, if one is named, is removed. It keeps pods from a new
///   node until its agent is there: nodes are registered with it (kubelet's
///   `--register-with-taints`), and nobody puts it there again. Taints that others add or remove
///   at the same moment are not lost: if the list changed meanwhile, it is read again.
#[derive(Debug, Clone)]
pub struct NodeWriter(Arc<Publisher<Readiness>>);

impl NodeWriter {
    pub(crate) fn start(client: Client, node: &NodeName, startup_taint: Option<String>) -> Self {
        let target = NodeTarget { client, name: node.to_string(), startup_taint };
        let pace = Pace { least: LEAST, again: Some(AGAIN) };
        Self(Publisher::start(format!("condition {CONDITION} of node {node}"), target, pace))
    }

    /// Has it written. Never waits.
    pub fn publish(&self, readiness: Readiness) {
        self.0.publish(readiness);
    }
}

struct NodeTarget {
    client: Client,
    name: String,
    startup_taint: Option<String>,
}

#[async_trait]
impl Target for NodeTarget {
    type Value = Readiness;

    async fn write(&mut self, wanted: &Readiness) -> Result<(), WriteError> {
        let request =
            Request::new(NODES).get(&self.name, &GetParams::default()).map_err(kube::Error::BuildRequest)?;
        let node: Node = self.client.request(request).await?;
        self.set_condition(wanted, &node).await?;
        if wanted.ready {
            self.remove_startup_taint(node).await?;
        }
        Ok(())
    }
}

impl NodeTarget {
    async fn set_condition(&self, wanted: &Readiness, node: &Node) -> kube::Result<()> {
        let Readiness { ready, reason, message } = wanted;
        let status = if *ready { "False" } else { "True" };
        let conditions = node.status.conditions.as_deref().unwrap_or_default();
        let before = conditions.iter().find(|condition| condition.r#type == CONDITION);
        if before.is_some_and(|it| it.status == status && it.reason == *reason && it.message == *message) {
            return Ok(());
        }
        let now = json!(now());
        let since = before.filter(|it| it.status == status).map(|it| it.last_transition_time.clone());
        let condition = json!({
            "type": CONDITION, "status": status, "reason": reason, "message": message,
            "lastHeartbeatTime": now, "lastTransitionTime": since.unwrap_or(now),
        });
        // The list is merged by type, so that the kubelet's conditions stay.
        let patch = Patch::Strategic(json!({"status": {"conditions": [condition]}}));
        let request =
            Request::new(NODES).patch_subresource("status", &self.name, &PatchParams::default(), &patch);
        self.client.request::<Ignored>(request.map_err(kube::Error::BuildRequest)?).await?;
        Ok(())
    }

    async fn remove_startup_taint(&self, node: Node) -> kube::Result<()> {
        let (Some(key), Some(taints)) = (&self.startup_taint, node.spec.taints) else { return Ok(()) };
        let rest: Vec<_> = taints.iter().filter(|taint| taint["key"] != key.as_str()).collect();
        if rest.len() == taints.len() {
            return Ok(());
        }
        let patch = json!([
            {"op": "test", "path": "/spec/taints", "value": taints},
            {"op": "replace", "path": "/spec/taints", "value": rest},
        ]);
        let patch = Patch::<()>::Json(serde_json::from_value(patch).map_err(kube::Error::SerdeError)?);
        let request = Request::new(NODES).patch(&self.name, &PatchParams::default(), &patch);
        self.client.request::<Ignored>(request.map_err(kube::Error::BuildRequest)?).await?;
        tracing::info!(taint = key, "the startup taint of node {} is removed", self.name);
        Ok(())
    }
}

/// A node, as much of it as is read.
#[derive(Debug, Deserialize)]
struct Node {
    #[serde(default)]
    spec: NodeSpec,
    #[serde(default)]
    status: NodeStatus,
}

#[derive(Debug, Default, Deserialize)]
struct NodeSpec {
    // As they are: they are compared with what the API server has.
    taints: Option<Vec<Value>>,
}

#[derive(Debug, Default, Deserialize)]
struct NodeStatus {
    conditions: Option<Vec<Condition>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Condition {
    r#type: String,
    status: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    last_transition_time: Value,
}

/// The node as the API server sends it back.
#[derive(Debug, Deserialize)]
struct Ignored {}
