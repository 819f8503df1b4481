//! What became of the NodeConfig, for people to see: [`StatusWriter`].

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use flock_core::ipam::Usage;
use flock_core::name::NodeName;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::Client;
use kube::api::{ListParams, Patch, PatchParams};
use kube::core::{ObjectList, Request};
use serde::Deserialize;
use serde_json::{Value, json};

use super::PATH;
use super::resource::NodeConfigStatus;
use super::sessions::BgpStatus;
use crate::publisher::{Pace, Publisher, Target, WriteError};
use crate::readiness::{Readiness, now};

/// Addresses in use change with each pod; people do not read faster.
const LEAST: Duration = Duration::from_secs(1);

/// What the agent has to say about its NodeConfig.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// UID of the NodeConfig. It is not written to another one of the same name.
    pub uid: String,
    /// The generation that this is about.
    pub generation: i64,
    /// Whether it is in force and pods get their addresses.
    pub readiness: Readiness,
    /// How full the node's prefixes are.
    pub usage: Vec<Usage>,
    /// How the sessions with its BGP peers are, if it is to have some.
    pub bgp: Option<BgpStatus>,
}

/// Writes the status of the node's NodeConfig. Made by
/// [`Cluster::node_config_status`](crate::Cluster::node_config_status).
///
/// Nothing waits for it: what is published is written soon, at most once in a second and only if
/// it changed, and again while the API server is away. The last one wins. The time of the last
/// transition stays until the condition flips, also over restarts. A clone writes to the same
/// NodeConfig.
#[derive(Debug, Clone)]
pub struct StatusWriter(Arc<Publisher<Status>>);

impl StatusWriter {
    pub(crate) fn start(client: Client, node: &NodeName) -> Self {
        let target = StatusTarget { client, name: node.to_string(), last: None };
        let what = format!("status of NodeConfig {node}");
        Self(Publisher::start(what, target, Pace { least: LEAST, again: None }))
    }

    /// Has it written. Never waits.
    pub fn publish(&self, status: Status) {
        self.0.publish(status);
    }
}

/// The status as it stands at the API server.
struct StatusTarget {
    client: Client,
    name: String,
    // None if it has to be read first.
    last: Option<Standing>,
}

#[derive(Debug)]
struct Standing {
    uid: String,
    status: NodeConfigStatus,
}

#[async_trait]
impl Target for StatusTarget {
    type Value = Status;

    async fn write(&mut self, wanted: &Status) -> Result<(), WriteError> {
        // Forgotten until the API server has answered: after an error nobody knows what stands there.
        let standing = match self.last.take() {
            Some(last) if last.uid == wanted.uid => last,
            _ => self.read(&wanted.uid).await?,
        };
        let status = render(wanted, &standing.status);
        if status != standing.status {
            let patch = json!([
                {"op": "test", "path": "/metadata/uid", "value": standing.uid},
                {"op": "add", "path": "/status", "value": status},
            ]);
            let patch = Patch::<()>::Json(serde_json::from_value(patch).map_err(kube::Error::SerdeError)?);
            let request = Request::new(PATH)
                .patch_subresource("status", &self.name, &PatchParams::default(), &patch)
                .map_err(kube::Error::BuildRequest)?;
            match self.client.request::<Value>(request).await {
                Err(kube::Error::Api(answer)) if answer.code == 404 => return Err(self.gone(&standing.uid)),
                answer => answer?,
            };
        }
        self.last = Some(Standing { uid: standing.uid, status });
        Ok(())
    }
}

impl StatusTarget {
    async fn read(&self, uid: &str) -> Result<Standing, WriteError> {
        // A list of one, since the agent may list NodeConfigs anyhow, to watch its own.
        let mine = ListParams::default().fields(&format!("metadata.name={}", self.name));
        let request = Request::new(PATH).list(&mine).map_err(kube::Error::BuildRequest)?;
        match self.client.request::<ObjectList<Found>>(request).await?.items.pop() {
            Some(object) if object.metadata.uid == uid => {
                // One that can't be read is as good as none.
                let status = serde_json::from_value(object.status).unwrap_or_default();
                Ok(Standing { uid: object.metadata.uid, status })
            }
            _ => Err(self.gone(uid)),
        }
    }

    fn gone(&self, uid: &str) -> WriteError {
        WriteError::Outdated(format!("NodeConfig {} with the UID {uid} is gone", self.name))
    }
}

fn render(wanted: &Status, old: &NodeConfigStatus) -> NodeConfigStatus {
    let Readiness { ready, reason, message } = &wanted.readiness;
    let status = if *ready { "True" } else { "False" };
    let before = old.conditions.iter().find(|condition| condition.type_ == "Ready");
    let since = before.filter(|before| before.status == status);
    let ready = Condition {
        type_: "Ready".to_owned(),
        status: status.to_owned(),
        reason: reason.clone(),
        message: message.clone(),
        observed_generation: Some(wanted.generation),
        last_transition_time: since.map_or_else(now, |since| Time(since.last_transition_time.0)),
    };
    NodeConfigStatus {
        observed_generation: Some(wanted.generation),
        conditions: vec![ready],
        addresses: wanted.usage.iter().collect(),
        bgp: wanted.bgp.clone(),
    }
}

/// A NodeConfig, as much of it as is read: also of one whose spec can't be read.
#[derive(Debug, Clone, Deserialize)]
struct Found {
    metadata: FoundMetadata,
    #[serde(default)]
    status: Value,
}

#[derive(Debug, Clone, Deserialize)]
struct FoundMetadata {
    uid: String,
}
