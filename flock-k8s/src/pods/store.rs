//! What is known of the pods, and who is told when it changes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use flock_core::name::PodKey;
use flock_core::pods::{PodChange, PodInfo, PodRef};
use futures_core::stream::BoxStream;
use futures_util::{StreamExt, stream};
use serde::Deserialize;
use tokio::sync::{mpsc, watch};

use super::Keep;
use crate::watch::Sink;

/// The annotation by which the kubelet says that an object stands for a static pod, which the
/// API server does not run: its value is the UID by which the container runtime knows that pod.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// What is kept of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pod {
    info: Arc<PodInfo>,
    mirrors: Option<String>,
    ready: bool,
    terminating: bool,
}

impl Pod {
    pub(super) fn uid(&self) -> &str {
        self.info.uid.as_deref().unwrap_or_default()
    }
}

/// The pods. A clone is another handle to the same ones.
#[derive(Debug, Clone)]
pub(super) struct Store {
    pods: Arc<watch::Sender<BTreeMap<PodKey, Pod>>>,
    // Unbounded: a slow reader costs memory, not changes.
    readers: Arc<Mutex<Vec<mpsc::UnboundedSender<PodChange>>>>,
}

impl Default for Store {
    fn default() -> Self {
        Self { pods: Arc::new(watch::Sender::default()), readers: Arc::default() }
    }
}

impl Store {
    pub(super) fn subscribe(&self) -> watch::Receiver<BTreeMap<PodKey, Pod>> {
        self.pods.subscribe()
    }

    pub(super) fn changes(&self) -> BoxStream<'static, PodChange> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.readers.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        stream::unfold(receiver, |mut receiver| async {
            receiver.recv().await.map(|change| (change, receiver))
        })
        .boxed()
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<PodKey, Pod>) -> Vec<PodChange>) {
        self.pods.send_modify(|pods| {
            // Told under the lock of the pods, so that all readers get the same order.
            let changes = change(pods);
            let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
            readers.retain(|reader| {
                !reader.is_closed() && changes.iter().all(|change| reader.send(change.clone()).is_ok())
            });
        });
    }
}

/// The pod that `wanted` names, and no other one of that name.
pub(super) fn lookup(pods: &BTreeMap<PodKey, Pod>, wanted: &PodRef) -> Option<PodInfo> {
    let Pod { info, mirrors, .. } = pods.get(&wanted.key)?;
    let is_it = |uid| info.uid.as_ref() == Some(uid) || mirrors.as_ref() == Some(uid);
    wanted.uid.as_ref().is_none_or(is_it).then(|| PodInfo::clone(info))
}

/// Writes what the watch says.
pub(super) struct Writer {
    store: Store,
    keep: Keep,
}

impl Writer {
    pub(super) fn new(store: Store, keep: Keep) -> Self {
        Self { store, keep }
    }

    /// As it is kept; nothing of what has no valid name or is not Flock's concern.
    fn kept(&self, pod: PodObject) -> Option<(PodKey, Pod)> {
        let PodObject { metadata, spec, status, .. } = pod;
        if spec.host_network {
            return None;
        }
        let key = match PodKey::new(metadata.namespace.unwrap_or_default(), metadata.name.unwrap_or_default())
        {
            Ok(key) => key,
            Err(error) => {
                tracing::warn!(%error, "the API server tells of a pod that can't be");
                return None;
            }
        };
        let mut annotations = metadata.annotations.unwrap_or_default();
        let mirrors = annotations.get(MIRROR).cloned();
        annotations.retain(|key, _| (self.keep)(key));
        let ready =
            status.and_then(|status| status.conditions).unwrap_or_default().iter().any(Condition::is_ready);
        let info = PodInfo { uid: metadata.uid, annotations };
        let terminating = metadata.deletion_timestamp.is_some();
        Some((key, Pod { info: Arc::new(info), mirrors, ready, terminating }))
    }
}

impl Sink for Writer {
    type Object = PodObject;

    fn replace(&mut self, objects: Vec<PodObject>) {
        let mut new: BTreeMap<PodKey, Pod> =
            objects.into_iter().filter_map(|object| self.kept(object)).collect();
        self.store.change(|pods| {
            std::mem::swap(pods, &mut new);
            let old = new;
            let gone = old.iter().filter(|(key, _)| !pods.contains_key(*key));
            let gone = gone.flat_map(|(key, old)| differences(key, Some(old), None));
            let there = pods.iter().flat_map(|(key, new)| differences(key, old.get(key), Some(new)));
            gone.chain(there).collect()
        });
    }

    fn apply(&mut self, object: PodObject) {
        if let Some((key, new)) = self.kept(object) {
            self.store.change(|pods| {
                let old = pods.insert(key.clone(), new.clone());
                differences(&key, old.as_ref(), Some(&new))
            });
        }
    }

    fn delete(&mut self, object: PodObject) {
        if let Some((key, _)) = self.kept(object) {
            self.store.change(|pods| {
                let old = pods.remove(&key);
                differences(&key, old.as_ref(), None)
            });
        }
    }
}

/// What readers are told of a pod that was `old` and is `new`.
fn differences(key: &PodKey, old: Option<&Pod>, new: Option<&Pod>) -> Vec<PodChange> {
    let mut changes = Vec::new();
    let same = |old: &&Pod| new.is_some_and(|new| new.uid() == old.uid());
    // Of a pod that is terminating everything has been said.
    if let Some(old) = old
        && !old.terminating
        && (!same(&old) || new.is_some_and(|new| new.terminating))
    {
        changes.push(PodChange::Gone(key.clone()));
    }
    if let Some(new) = new
        && !new.terminating
        && new.ready != old.filter(same).is_some_and(|old| old.ready)
    {
        changes.push(PodChange::Ready(key.clone(), new.ready));
    }
    changes
}

/// A pod, as much of it as is read.
type PodObject = kube::core::Object<PodSpec, PodStatus>;

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PodSpec {
    host_network: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct PodStatus {
    conditions: Option<Vec<Condition>>,
}

#[derive(Debug, Clone, Deserialize)]
struct Condition {
    r#type: String,
    status: String,
}

impl Condition {
    fn is_ready(&self) -> bool {
        self.r#type == "Ready" && self.status == "True"
    }
}
