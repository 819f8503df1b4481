//! What `kubectl describe` shows of a pod or a NodeConfig beside its fields: [`Events`].

mod journal;
mod recorder;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flock_core::name::{NodeName, PodKey};
use flock_core::node_config::{API_VERSION, KIND};
use kube::Client;
use tokio::sync::mpsc;

use self::recorder::Recorder;
use crate::task::Task;

/// What is said at once while the API server is away; what is said again counts once.
const QUEUE: usize = 256;
/// In bytes. Kubernetes' own limit for the note of an event.
const MESSAGE_LIMIT: usize = 1024;

/// Says what happened to an object, as Kubernetes events. Made by
/// [`Cluster::events`](crate::Cluster::events).
///
/// Nothing waits for it. What is said is written by a task, which
///
/// - counts what is said again of the same object for the same reason in one event, with the last
///   message, written at most once in ten seconds;
/// - writes one event in a second over time, and twenty at once;
/// - keeps what it could not write while the API server is away, for up to ten minutes;
/// - tries what the API server refuses, as for a quota, five times within three minutes, and writes
///   others meanwhile.
///
/// What is beyond its limits is left out and counted ([`dropped`](Self::dropped)). A clone says
/// by the same task.
///
/// It writes events of the core group, as the kubelet does: unlike those of `events.k8s.io` their
/// message may follow what happened last, and every kubectl shows how often it happened.
#[derive(Debug, Clone)]
pub struct Events {
    queue: mpsc::Sender<Occurrence>,
    dropped: Arc<AtomicU64>,
    _task: Arc<Task>,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// How bad it is.
    pub severity: Severity,
    /// In one word for programs, written `LikeThis`.
    pub reason: &'static str,
    /// In words for people. What is longer than 1 KiB is cut.
    pub message: String,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// Good to know.
    Normal,
    /// Somebody should look.
    Warning,
}

/// To whom.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Subject {
    api_version: &'static str,
    kind: &'static str,
    /// None for an object of the whole cluster; its events are in the namespace `default`.
    namespace: Option<String>,
    name: String,
    uid: Option<String>,
}

#[derive(Debug)]
struct Occurrence {
    subject: Subject,
    event: Event,
}

impl Events {
    pub(crate) fn start(client: Client, node: NodeName) -> Self {
        let (queue, receiver) = mpsc::channel(QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let recorder = Recorder::new(client, node, Arc::clone(&dropped));
        Self { queue, dropped, _task: Arc::new(Task::spawn(recorder.run(receiver))) }
    }

    /// Says something of a pod. Without its UID `kubectl describe` does not show it, only
    /// `kubectl get events` does.
    pub fn pod(&self, pod: &PodKey, uid: Option<&str>, event: Event) {
        self.say(
            event,
            Subject {
                api_version: "v1",
                kind: "Pod",
                namespace: Some(pod.namespace().to_owned()),
                name: pod.name().to_owned(),
                uid: uid.map(str::to_owned),
            },
        );
    }

    /// Says something of a NodeConfig.
    pub fn node_config(&self, name: &NodeName, uid: &str, event: Event) {
        self.say(
            event,
            Subject {
                api_version: API_VERSION,
                kind: KIND,
                namespace: None,
                name: name.to_string(),
                uid: Some(uid.to_owned()),
            },
        );
    }

    /// How often something was said that was left out.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn say(&self, mut event: Event, subject: Subject) {
        event.message.truncate(event.message.floor_char_boundary(MESSAGE_LIMIT));
        if self.queue.try_send(Occurrence { subject, event }).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Severity {
    fn word(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}
