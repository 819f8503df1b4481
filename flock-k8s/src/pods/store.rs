//! What is known of the pods, and who is told when it changes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use flock_core::name::PodKey;
use flock_core::pods::{PodChange, PodInfo, PodRef, PodState};
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
}

impl Pod {
    pub(super) fn uid(&self) -> &str {
        self.info.uid.as_deref().unwrap_or_default()
    }

    /// As the runtime knows it.
    fn present(&self, key: &PodKey) -> PodChange {
        let uid = self.mirrors.clone().or_else(|| self.info.uid.clone());
        PodChange { pod: key.clone(), uid, state: self.info.state }
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
        let pods = self.pods.borrow();
        // Under the lock of the pods: what is not told here is told as a change.
        self.readers.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        let present: Vec<_> = pods.iter().map(|(key, pod)| pod.present(key)).collect();
        let changes = stream::unfold(receiver, |mut receiver| async {
            receiver.recv().await.map(|change| (change, receiver))
        });
        stream::iter(present).chain(changes).boxed()
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
    let Pod { info, mirrors } = pods.get(&wanted.key)?;
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
        let conditions = status.and_then(|status| status.conditions).unwrap_or_default();
        let state = match metadata.deletion_timestamp {
            Some(_) => PodState::Terminating,
            None if conditions.iter().any(Condition::is_ready) => PodState::Ready,
            None => PodState::NotReady,
        };
        let info = PodInfo { uid: metadata.uid, annotations, state };
        Some((key, Pod { info: Arc::new(info), mirrors }))
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
                differences(&key, old.as_ref(), Some(&new)).collect()
            });
        }
    }

    fn delete(&mut self, object: PodObject) {
        if let Some((key, _)) = self.kept(object) {
            self.store.change(|pods| {
                let old = pods.remove(&key);
                differences(&key, old.as_ref(), None).collect()
            });
        }
    }
}

/// What readers are told of a pod that was `old` and is `new`.
fn differences(key: &PodKey, old: Option<&Pod>, new: Option<&Pod>) -> impl Iterator<Item = PodChange> {
    let present = |pod: Option<&Pod>| pod.map(|pod| pod.present(key));
    PodChange::between(present(old).as_ref(), present(new).as_ref())
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
