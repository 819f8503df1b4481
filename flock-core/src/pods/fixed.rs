//! Pods that a program says.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use futures_core::stream::BoxStream;
use futures_util::{StreamExt, stream};
use tokio::sync::{mpsc, watch};

use super::{PodChange, PodError, PodInfo, PodRef, PodSource};
use crate::name::PodKey;

/// The pods that were put in, and no others. Changing them wakes whoever waits.
///
/// For tests, and for an agent that learns of its pods in a way of its own. A
/// clone is another handle to the same pods.
#[derive(Debug, Clone)]
pub struct FixedPods {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    pods: watch::Sender<BTreeMap<PodKey, Pod>>,
    // Unbounded: a slow reader costs memory, not changes.
    readers: Mutex<Vec<mpsc::UnboundedSender<PodChange>>>,
}

#[derive(Debug, Clone)]
struct Pod {
    info: PodInfo,
    ready: bool,
}

impl FixedPods {
    /// Without any pod.
    pub fn new() -> Self {
        let shared = Shared { pods: watch::Sender::default(), readers: Mutex::default() };
        Self { shared: Arc::new(shared) }
    }

    /// Puts a pod in, not ready yet, or gives the one that is there new annotations.
    /// Another UID makes it another pod, and the old one gone.
    pub fn insert(&self, key: PodKey, info: PodInfo) {
        self.change(|pods| {
            let old = pods.get(&key);
            let replaced = old.is_some_and(|old| old.info.uid != info.uid);
            let ready = old.is_some_and(|old| old.ready) && !replaced;
            pods.insert(key.clone(), Pod { info, ready });
            replaced.then_some(PodChange::Gone(key))
        });
    }

    /// Takes a pod out, if it is there.
    pub fn remove(&self, key: &PodKey) {
        self.change(|pods| pods.remove(key).map(|_| PodChange::Gone(key.clone())));
    }

    /// Sets whether a pod is ready, if it is there.
    pub fn set_ready(&self, key: &PodKey, ready: bool) {
        self.change(|pods| {
            let pod = pods.get_mut(key).filter(|pod| pod.ready != ready)?;
            pod.ready = ready;
            Some(PodChange::Ready(key.clone(), ready))
        });
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<PodKey, Pod>) -> Option<PodChange>) {
        self.shared.pods.send_modify(|pods| {
            // Told under the lock of the pods, so that all readers get the same order.
            if let Some(change) = change(pods) {
                let mut readers = self.shared.readers.lock().unwrap_or_else(PoisonError::into_inner);
                readers.retain(|reader| reader.send(change.clone()).is_ok());
            }
        });
    }
}

impl Default for FixedPods {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl PodSource for FixedPods {
    async fn pod(&self, wanted: &PodRef, deadline: Instant) -> Result<PodInfo, PodError> {
        let mut pods = self.shared.pods.subscribe();
        let is_there = pods.wait_for(|pods| lookup(pods, wanted).is_some());
        let found = match tokio::time::timeout_at(deadline.into(), is_there).await {
            Ok(Ok(pods)) => lookup(&pods, wanted).cloned(),
            // The sender lives as long as `self`.
            Ok(Err(_)) | Err(_) => None,
        };
        found.ok_or_else(|| PodError::NotFound {
            pod: wanted.key.clone(),
            source_name: "among the pods of this process".to_owned(),
        })
    }

    fn changes(&self) -> BoxStream<'static, PodChange> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.shared.readers.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        stream::unfold(receiver, |mut receiver| async {
            receiver.recv().await.map(|change| (change, receiver))
        })
        .boxed()
    }
}

fn lookup<'a>(pods: &'a BTreeMap<PodKey, Pod>, wanted: &PodRef) -> Option<&'a PodInfo> {
    let info = &pods.get(&wanted.key)?.info;
    match (&wanted.uid, &info.uid) {
        (Some(wanted), Some(found)) if wanted != found => None,
        _ => Some(info),
    }
}
