//! The NodeConfig of one node, as it is now: [`NodeConfigWatch`].

use std::sync::Arc;

use flock_core::name::NodeName;
use flock_core::node_config::{API_VERSION, KIND, Manifest, Metadata, NodeConfig, NodeConfigError};
use kube::Client;
use kube::core::{ApiResource, NotUsed, Object};
use serde_json::Value;
use tokio::sync::watch;

use super::resource::{self, NodeConfigSpec};
use crate::task::Task;
use crate::watch::{self as api_watch, Link, Scope, Sink, WatchHealth};

/// What is known of a node's NodeConfig.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "there is one of them in a process")]
pub enum NodeConfigState {
    /// The API server has not answered yet.
    Unknown,
    /// There is none.
    Missing,
    /// There is one that can't be used.
    Invalid {
        /// Its UID.
        uid: String,
        /// Its generation, which the API server counts up at each change of the spec.
        generation: i64,
        /// What is wrong with it.
        error: NodeConfigError,
    },
    /// There is one.
    Valid {
        /// Its UID.
        uid: String,
        /// Its generation, which the API server counts up at each change of the spec.
        generation: i64,
        /// What it says.
        config: NodeConfig,
    },
}

/// Follows the NodeConfig that is named as the node. Made by
/// [`Cluster::node_config`](crate::Cluster::node_config).
///
/// What was known last is kept while the API server is away. Fields that this release does not know
/// are ignored. A clone is another reader of the same watch.
#[derive(Debug, Clone)]
pub struct NodeConfigWatch {
    state: watch::Receiver<NodeConfigState>,
    link: Link,
    _task: Arc<Task>,
}

impl NodeConfigWatch {
    pub(crate) fn start(client: Client, node: NodeName) -> Self {
        let (sender, state) = watch::channel(NodeConfigState::Unknown);
        let link = Link::new();
        let scope = Scope {
            what: format!("{KIND} {node}"),
            resource: ApiResource::erase::<resource::NodeConfig>(&()),
            fields: format!("metadata.name={node}"),
            // It is one object only, and an old one would give out old addresses.
            first_from_cache: false,
        };
        let watch = api_watch::run(client, scope, Writer { node, state: sender }, link.clone());
        Self { state, link, _task: Arc::new(Task::spawn(watch)) }
    }

    /// What is known now. Counts as seen by [`changed`](Self::changed).
    pub fn current(&mut self) -> NodeConfigState {
        self.state.borrow_and_update().clone()
    }

    /// Waits until it is different from what was last seen, and says how it is then. The first
    /// call answers at once if something is known already. Cancel safe.
    pub async fn changed(&mut self) -> NodeConfigState {
        if self.state.changed().await.is_err() {
            // The watch never ends by itself: the runtime is shutting down.
            std::future::pending::<()>().await;
        }
        self.current()
    }

    /// How the watch is.
    pub fn health(&self) -> WatchHealth {
        self.link.health()
    }
}

struct Writer {
    node: NodeName,
    state: watch::Sender<NodeConfigState>,
}

impl Writer {
    fn set(&self, state: NodeConfigState) {
        self.state.send_if_modified(|current| {
            let changed = *current != state;
            *current = state;
            changed
        });
    }

    /// The field selector lets no other one through; an API server that ignored it would.
    fn is_mine(&self, object: &NodeConfigObject) -> bool {
        object.metadata.name.as_deref() == Some(self.node.as_str())
    }
}

impl Sink for Writer {
    type Object = NodeConfigObject;

    fn replace(&mut self, objects: Vec<NodeConfigObject>) {
        let mine = objects.into_iter().find(|object| self.is_mine(object));
        self.set(mine.map_or(NodeConfigState::Missing, state));
    }

    fn apply(&mut self, object: NodeConfigObject) {
        if self.is_mine(&object) {
            self.set(state(object));
        }
    }

    fn delete(&mut self, object: NodeConfigObject) {
        if self.is_mine(&object) {
            self.set(NodeConfigState::Missing);
        }
    }
}

/// The spec is read later: one that can't be read is an invalid NodeConfig, not a broken watch.
type NodeConfigObject = Object<Value, NotUsed>;

fn state(object: NodeConfigObject) -> NodeConfigState {
    let NodeConfigObject { metadata, spec, .. } = object;
    let (uid, generation) = (metadata.uid.unwrap_or_default(), metadata.generation.unwrap_or_default());
    let name = metadata.name.unwrap_or_default();
    let what = format!("{KIND} {name}");
    // Not as a file is read, which may have no field that is not known: here it may be one of a later
    // release, whose definition is in the cluster already or still.
    let config = serde_json::from_value::<NodeConfigSpec>(spec)
        .map_err(|error| NodeConfigError { what, problems: vec![format!("spec: {error}")] })
        .and_then(|spec| {
            NodeConfig::from_manifest(&Manifest {
                api_version: API_VERSION.to_owned(),
                kind: KIND.to_owned(),
                metadata: Metadata { name },
                spec: spec.into(),
            })
        });
    match config {
        Ok(config) => NodeConfigState::Valid { uid, generation, config },
        Err(error) => NodeConfigState::Invalid { uid, generation, error },
    }
}
