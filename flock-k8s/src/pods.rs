//! The pods of a node, from the API server: [`KubePods`].

mod store;

use std::collections::BTreeMap;
use std::time::Instant;

use async_trait::async_trait;
use flock_core::name::{NodeName, PodKey};
use flock_core::pods::{PodChange, PodError, PodInfo, PodRef, PodSource};
use futures_core::stream::BoxStream;
use kube::Client;
use kube::core::ApiResource;
use tokio::time::sleep_until;

use self::store::{Pod, Store, Writer};
use crate::task::Task;
use crate::watch::{self, Link, Scope, WatchHealth};

/// A [`PodSource`] that watches the pods of one node. Made by
/// [`Cluster::pods`](crate::Cluster::pods).
///
/// - Of each pod it holds the UID, the annotations that are kept, and its state. Pods
///   on the host's network never come to a network plugin and are left out.
/// - A request for a pod that is not there yet is woken by its arrival; the API server is not
///   asked for it.
/// - A static pod, which the runtime knows by a UID that the kubelet gave it, is answered from
///   the object that mirrors it, and its changes are told with that UID.
/// - While the API server is away, pods that are known are answered, also a long time later.
///   A request for another one waits for both until its deadline, and its error says since
///   when the API server is away and what it said last.
/// - A pod is [`Terminating`](flock_core::pods::PodState::Terminating) from its deletion timestamp
///   on. It is still answered until it is deleted: a sandbox of it may be made for the last time.
/// - After a time without the API server, readers are told of the differences: of pods that
///   are missing that they are terminating. A change that was taken back meanwhile is not told.
/// - The first list counts as a change too: readers that were there before it are told the
///   pods when they are listed.
#[derive(Debug)]
pub struct KubePods {
    node: NodeName,
    store: Store,
    link: Link,
    _task: Task,
}

/// Says by its key whether an annotation is kept.
pub(crate) type Keep = Box<dyn Fn(&str) -> bool + Send>;

impl KubePods {
    pub(crate) fn start(client: Client, node: &NodeName, keep: Keep) -> Self {
        let (store, link) = (Store::default(), Link::new());
        let scope = Scope {
            what: format!("pods of node {node}"),
            resource: ApiResource::erase::<k8s_openapi::api::core::v1::Pod>(&()),
            fields: format!("spec.nodeName={node}"),
            first_from_cache: true,
        };
        let watch = watch::run(client, scope, Writer::new(store.clone(), keep), link.clone());
        Self { node: node.clone(), store, link, _task: Task::spawn(watch) }
    }

    /// How the watch is.
    pub fn health(&self) -> WatchHealth {
        self.link.health()
    }

    /// Waits until all pods of the node were listed once. Cancel safe.
    pub async fn synced(&self) {
        self.link.synced().await;
    }

    /// Why `wanted` is not answered.
    fn absent(&self, wanted: &PodRef, pods: &BTreeMap<PodKey, Pod>, link: &watch::State) -> PodError {
        let (pod, node) = (&wanted.key, &self.node);
        if let Some(failing) = &link.failing {
            return PodError::Backend(format!("{pod} is not known: {}", failing.words()));
        }
        if !link.synced {
            return PodError::Backend(format!(
                "{pod} is not known: the API server has not listed the pods of node {node} yet"
            ));
        }
        let source_name = match (&wanted.uid, pods.get(pod)) {
            (Some(uid), Some(other)) => {
                format!("with the UID {uid} on node {node} (the UID there is {})", other.uid())
            }
            _ => format!("among the pods of node {node} that the API server tells of"),
        };
        PodError::NotFound { pod: pod.clone(), source_name }
    }
}

#[async_trait]
impl PodSource for KubePods {
    async fn pod(&self, wanted: &PodRef, deadline: Instant) -> Result<PodInfo, PodError> {
        let (mut pods, mut link) = (self.store.subscribe(), self.link.subscribe());
        let mut told = false;
        loop {
            if let Some(info) = store::lookup(&pods.borrow_and_update(), wanted) {
                return Ok(info);
            }
            if let (false, Some(failing)) = (told, &link.borrow_and_update().failing) {
                told = true;
                tracing::warn!(pod = %wanted.key, "waiting for the pod: {}", failing.words());
            }
            let timed_out = tokio::select! {
                // The senders live as long as `self`.
                _ = pods.changed() => false,
                _ = link.changed() => false,
                () = sleep_until(deadline.into()) => true,
            };
            if timed_out {
                // Either may have come at the same moment as the deadline.
                let (pods, link) = (pods.borrow(), link.borrow());
                return store::lookup(&pods, wanted).ok_or_else(|| self.absent(wanted, &pods, &link));
            }
        }
    }

    fn changes(&self) -> BoxStream<'static, PodChange> {
        self.store.changes()
    }
}
