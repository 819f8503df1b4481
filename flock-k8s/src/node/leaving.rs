//! Whether the node is about to leave: [`LeavingWatch`].

use std::collections::BTreeMap;
use std::sync::Arc;

use flock_core::name::NodeName;
use k8s_openapi::api::core::v1::Node as Kind;
use kube::Client;
use kube::core::{ApiResource, Object};
use serde::Deserialize;
use tokio::sync::watch;

use crate::task::Task;
use crate::watch::{self as api_watch, Link, Scope, Sink, WatchHealth};

/// The annotation of a Node by which its operator says that it is drained while it is cordoned: with
/// the value `true`.
pub const DRAIN_ON_CORDON: &str = "flock.fritzlab.net/drain-on-cordon";
/// What the kubelet says in the condition `Ready` once systemd has told it of a shutdown (graceful
/// node shutdown), beside other things that may be wrong.
const SHUTTING_DOWN: &str = "node is shutting down";

/// Why a node is about to leave, as its Node object says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Leaving {
    /// It is cordoned, and has the annotation [`DRAIN_ON_CORDON`].
    pub cordoned: bool,
    /// Its kubelet shuts it down.
    pub shutting_down: bool,
}

/// Follows the Node object of the node. Made by [`Cluster::leaving`](crate::Cluster::leaving).
///
/// What was known last is kept while the API server is away, and when the object is deleted.
/// A clone is another reader of the same watch.
#[derive(Debug, Clone)]
pub struct LeavingWatch {
    leaving: watch::Receiver<Option<Leaving>>,
    link: Link,
    _task: Arc<Task>,
}

impl LeavingWatch {
    pub(crate) fn start(client: Client, node: NodeName) -> Self {
        let (sender, leaving) = watch::channel(None);
        let link = Link::new();
        let scope = Scope {
            what: format!("Node {node}"),
            resource: ApiResource::erase::<Kind>(&()),
            fields: format!("metadata.name={node}"),
            // What it was before must not begin or end a drain.
            first_from_cache: false,
        };
        let watch = api_watch::run(client, scope, Writer { node, leaving: sender }, link.clone());
        Self { leaving, link, _task: Arc::new(Task::spawn(watch)) }
    }

    /// Waits until it is known, or different from what the last call said. Cancel safe.
    pub async fn changed(&mut self) -> Leaving {
        loop {
            if self.leaving.changed().await.is_err() {
                // The watch never ends by itself: the runtime is shutting down.
                std::future::pending::<()>().await;
            }
            if let Some(leaving) = *self.leaving.borrow_and_update() {
                return leaving;
            }
        }
    }

    /// How the watch is.
    pub fn health(&self) -> WatchHealth {
        self.link.health()
    }
}

struct Writer {
    node: NodeName,
    leaving: watch::Sender<Option<Leaving>>,
}

impl Sink for Writer {
    type Object = NodeObject;

    fn replace(&mut self, objects: Vec<NodeObject>) {
        for object in objects {
            self.apply(object);
        }
    }

    fn apply(&mut self, object: NodeObject) {
        // The field selector lets no other one through; an API server that ignored it would.
        if object.metadata.name.as_deref() == Some(self.node.as_str()) {
            let now = Some(leaving(&object));
            self.leaving.send_if_modified(|known| std::mem::replace(known, now) != now);
        }
    }

    /// The agent still runs there.
    fn delete(&mut self, _: NodeObject) {}
}

/// A node, as much of it as is read.
type NodeObject = Object<Spec, Status>;

#[derive(Debug, Clone, Default, Deserialize)]
struct Spec {
    #[serde(default)]
    unschedulable: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Status {
    conditions: Option<Vec<Condition>>,
}

#[derive(Debug, Clone, Deserialize)]
struct Condition {
    r#type: String,
    status: String,
    #[serde(default)]
    message: String,
}

fn leaving(node: &NodeObject) -> Leaving {
    let no_annotations = BTreeMap::new();
    let annotations = node.metadata.annotations.as_ref().unwrap_or(&no_annotations);
    let wanted = annotations.get(DRAIN_ON_CORDON).is_some_and(|value| value == "true");
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let not_ready = conditions.iter().filter(|it| it.r#type == "Ready" && it.status != "True");
    let mut messages = not_ready.map(|it| it.message.as_str());
    Leaving {
        cordoned: wanted && node.spec.unschedulable,
        shutting_down: messages.any(|message| message.contains(SHUTTING_DOWN)),
    }
}
