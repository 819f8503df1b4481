//! Pods that a program says.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use futures_core::stream::BoxStream;
use futures_util::{StreamExt, stream};
use tokio::sync::{mpsc, watch};

use super::{PodChange, PodError, PodInfo, PodRef, PodSource, PodState};
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
    pods: watch::Sender<BTreeMap<PodKey, PodInfo>>,
    // Unbounded: a slow reader costs memory, not changes.
    readers: Mutex<Vec<mpsc::UnboundedSender<PodChange>>>,
}

impl FixedPods {
    /// Without any pod.
    pub fn new() -> Self {
        let shared = Shared { pods: watch::Sender::default(), readers: Mutex::default() };
        Self { shared: Arc::new(shared) }
    }

    /// Puts a pod in, or makes the one that is there as `info` says. Another UID makes
    /// it another pod.
    pub fn insert(&self, key: PodKey, info: PodInfo) {
        self.change(key, |_| Some(info));
    }

    /// Takes a pod out, if it is there.
    pub fn remove(&self, key: &PodKey) {
        self.change(key.clone(), |_| None);
    }

    /// Sets the state of a pod, if it is there. One that is terminating is still answered,
    /// until it is taken out.
    pub fn set_state(&self, key: &PodKey, state: PodState) {
        self.change(key.clone(), |pod| pod.map(|info| PodInfo { state, ..info }));
    }

    fn change(&self, key: PodKey, change: impl FnOnce(Option<PodInfo>) -> Option<PodInfo>) {
        self.shared.pods.send_modify(|pods| {
            let old = pods.remove(&key);
            let before = old.as_ref().map(|info| present(&key, info));
            let new = change(old);
            let now = new.as_ref().map(|info| present(&key, info));
            if let Some(info) = new {
                pods.insert(key, info);
            }
            // Told under the lock of the pods, so that all readers get the same order.
            let mut readers = self.readers();
            for change in PodChange::between(before.as_ref(), now.as_ref()) {
                readers.retain(|reader| reader.send(change.clone()).is_ok());
            }
        });
    }

    fn readers(&self) -> MutexGuard<'_, Vec<mpsc::UnboundedSender<PodChange>>> {
        self.shared.readers.lock().unwrap_or_else(PoisonError::into_inner)
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
        let pods = self.shared.pods.borrow();
        // Under the lock of the pods: what is not told here is told as a change.
        self.readers().push(sender);
        let present: Vec<_> = pods.iter().map(|(key, info)| present(key, info)).collect();
        let changes = stream::unfold(receiver, |mut receiver| async {
            receiver.recv().await.map(|change| (change, receiver))
        });
        stream::iter(present).chain(changes).boxed()
    }
}

fn present(key: &PodKey, info: &PodInfo) -> PodChange {
    PodChange { pod: key.clone(), uid: info.uid.clone(), state: info.state }
}

fn lookup<'a>(pods: &'a BTreeMap<PodKey, PodInfo>, wanted: &PodRef) -> Option<&'a PodInfo> {
    let info = pods.get(&wanted.key)?;
    match (&wanted.uid, &info.uid) {
        (Some(wanted), Some(found)) if wanted != found => None,
        _ => Some(info),
    }
}
