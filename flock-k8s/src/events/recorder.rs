//! The task that writes events.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use flock_core::name::NodeName;
use kube::Client;
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::Request;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::Occurrence;
use super::journal::{Entry, Journal, Key};
use crate::backoff::Backoff;
use crate::deadline::Unanswered;
use crate::error::words;
use crate::readiness::now;

/// As whom events are written.
const COMPONENT: &str = "flock-agent";
/// How often it is said that events are refused.
const REMINDER: Duration = Duration::from_secs(3600);

pub(super) struct Recorder {
    client: Client,
    node: NodeName,
    dropped: Arc<AtomicU64>,
}

/// Why an event was not written.
enum Failure {
    /// The object of an earlier one is gone.
    Lost,
    /// It can't be written, and never will be.
    Hopeless(String),
    /// The API server does not want it now.
    Refused(String),
    /// It can't be written now.
    Later {
        error: String,
        /// Another one may be possible: the API server is there.
        alone: bool,
    },
}

impl Failure {
    fn of(error: &kube::Error) -> Self {
        let words = words(error);
        let kube::Error::Api(answer) = error else {
            // It may be this one alone that takes so long.
            let alone = matches!(error, kube::Error::Service(error) if error.is::<Unanswered>());
            return Self::Later { error: words, alone };
        };
        // By the code, since a proxy's answer has no reason.
        match answer.code {
            // The namespace is gone, or the event is not as it should be.
            400 | 404 | 422 => Self::Hopeless(words),
            403 if answer.message.contains("being terminated") => Self::Hopeless(words),
            // Who this is could not be found out, or there are too many requests.
            401 | 408 | 429 => Self::Later { error: words, alone: true },
            // A quota, a policy, or a right that the agent lacks: all of these may change.
            402..=499 => Self::Refused(words),
            _ => Self::Later { error: words, alone: true },
        }
    }
}

impl Recorder {
    pub(super) fn new(client: Client, node: NodeName, dropped: Arc<AtomicU64>) -> Self {
        Self { client, node, dropped }
    }

    /// Writes what comes, until nothing can come any more.
    pub(super) async fn run(self, mut queue: mpsc::Receiver<Occurrence>) {
        let mut journal = Journal::new(Instant::now());
        let mut backoff = Backoff::new();
        let mut failing = false;
        // When it was said last.
        let mut refused: Option<Instant> = None;
        // Not before this, after a failure.
        let mut earliest = Instant::now();
        loop {
            let due = journal.due().map(|due| due.max(earliest));
            tokio::select! {
                occurrence = queue.recv() => match occurrence {
                    Some(occurrence) => {
                        let left_out = journal.note(occurrence, Instant::now(), now());
                        self.count_dropped(left_out);
                        continue;
                    }
                    None => return,
                },
                () = sleep_until(due.unwrap_or(earliest)), if due.is_some() => {}
            }
            self.count_dropped(journal.forget(Instant::now()));
            let Some((key, entry)) = journal.next(Instant::now()) else { continue };
            match self.write(&key, &entry).await {
                Ok(object) => {
                    failing = false;
                    backoff.reset();
                    journal.written(&key, &entry, object, Instant::now());
                }
                Err(Failure::Lost) => journal.lost(&key),
                Err(Failure::Hopeless(error)) => {
                    tracing::debug!(error, reason = entry.event.reason, "an event can't be written");
                    self.count_dropped(journal.give_up(&key));
                }
                Err(Failure::Refused(error)) => {
                    // Not each time: the others of the same namespace, or all, will be as well.
                    if refused.is_some_and(|said| said.elapsed() < REMINDER) {
                        tracing::debug!(error, "an event was refused");
                    } else {
                        tracing::warn!(error, "an event was refused, trying again a few times");
                        refused = Some(Instant::now());
                    }
                    self.count_dropped(journal.refused(&key, Instant::now()));
                }
                Err(Failure::Later { error, alone }) => {
                    if alone {
                        journal.failed(&key);
                    }
                    if std::mem::replace(&mut failing, true) {
                        tracing::debug!(error, "events still can't be written");
                    } else {
                        tracing::warn!(error, "events can't be written, trying again");
                    }
                    earliest = Instant::now() + backoff.pause();
                }
            }
        }
    }

    fn count_dropped(&self, count: u64) {
        self.dropped.fetch_add(count, Ordering::Relaxed);
    }

    /// Makes the event or changes the one that stands for it, and says which object that is.
    async fn write(&self, key: &Key, entry: &Entry) -> Result<String, Failure> {
        let namespace = key.subject.namespace.as_deref().unwrap_or("default");
        let events = Request::new(format!("/api/v1/namespaces/{namespace}/events"));
        let request = if let Some(object) = &entry.object {
            let patch = Patch::Merge(json!({
                "count": entry.count, "lastTimestamp": entry.last, "message": entry.event.message,
            }));
            events.patch(object, &PatchParams::default(), &patch)
        } else {
            let event = self.render(key, entry, namespace).to_string().into_bytes();
            events.create(&PostParams::default(), event)
        };
        let request = request.map_err(|error| Failure::Hopeless(error.to_string()))?;
        match self.client.request::<StoredEvent>(request).await {
            Ok(written) => Ok(written.metadata.name),
            Err(kube::Error::Api(answer)) if answer.code == 404 && entry.object.is_some() => {
                Err(Failure::Lost)
            }
            Err(error) => Err(Failure::of(&error)),
        }
    }

    fn render(&self, Key { subject, .. }: &Key, entry: &Entry, namespace: &str) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Event",
            // The API server adds letters, and shortens what gets too long.
            "metadata": {"generateName": format!("{}.", subject.name), "namespace": namespace},
            "involvedObject": {
                "apiVersion": subject.api_version,
                "kind": subject.kind,
                "namespace": subject.namespace,
                "name": subject.name,
                "uid": subject.uid,
            },
            "type": entry.event.severity.word(),
            "reason": entry.event.reason,
            "message": entry.event.message,
            "count": entry.count,
            "firstTimestamp": entry.first,
            "lastTimestamp": entry.last,
            "source": {"component": COMPONENT, "host": self.node},
            "reportingComponent": COMPONENT,
            "reportingInstance": self.node,
        })
    }
}

/// The event as the API server sends it back.
#[derive(Deserialize)]
struct StoredEvent {
    metadata: StoredMetadata,
}

#[derive(Deserialize)]
struct StoredMetadata {
    name: String,
}
