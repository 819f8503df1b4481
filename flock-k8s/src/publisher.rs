//! Writes the last of what is published, again and again if need be: [`Publisher`].

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::backoff::Backoff;
use crate::error::words;
use crate::task::Task;

/// Where it is written.
#[async_trait]
pub(crate) trait Target: Send + 'static {
    /// What is published.
    type Value: Clone + PartialEq + Send + Sync + 'static;

    /// Writes `value`, unless it stands there already.
    async fn write(&mut self, value: &Self::Value) -> Result<(), WriteError>;
}

/// Why it was not written.
#[derive(Debug)]
pub(crate) enum WriteError {
    /// What it is about is no longer there. Not tried again.
    Outdated(String),
    /// It may work later.
    Failed(kube::Error),
}

impl From<kube::Error> for WriteError {
    fn from(error: kube::Error) -> Self {
        Self::Failed(error)
    }
}

/// How often it is written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// Two writes are not closer together. What comes between is written together, the last wins.
    pub(crate) least: Duration,
    /// After this time it is looked whether it still stands there.
    pub(crate) again: Option<Duration>,
}

/// A clone publishes to the same place.
#[derive(Debug)]
pub(crate) struct Publisher<V> {
    value: watch::Sender<Option<V>>,
    _task: Task,
}

impl<V: Clone + PartialEq + Send + Sync + 'static> Publisher<V> {
    pub(crate) fn start(what: String, target: impl Target<Value = V>, pace: Pace) -> Arc<Self> {
        let (value, receiver) = watch::channel(None);
        Arc::new(Self { value, _task: Task::spawn(run(what, target, receiver, pace)) })
    }

    /// Never waits. What is published already is not written again.
    pub(crate) fn publish(&self, value: V) {
        self.value.send_if_modified(|current| {
            let changed = current.as_ref() != Some(&value);
            *current = Some(value);
            changed
        });
    }
}

async fn run<T: Target>(
    what: String,
    mut target: T,
    mut value: watch::Receiver<Option<T::Value>>,
    pace: Pace,
) {
    let mut backoff = Backoff::new();
    let mut failing = false;
    // When to write without being asked to: again after a failure, or to see whether it still stands.
    let mut due: Option<Instant> = None;
    let mut earliest = Instant::now();
    loop {
        tokio::select! {
            changed = value.changed() => if changed.is_err() { return },
            () = sleep_until(due.unwrap_or(earliest)), if due.is_some() => {}
        }
        sleep_until(earliest).await;
        let Some(last) = value.borrow_and_update().clone() else { continue };
        let outcome = target.write(&last).await;
        earliest = Instant::now() + pace.least;
        due = pace.again.map(|again| Instant::now() + again);
        let error = match outcome {
            Ok(()) => {
                if std::mem::take(&mut failing) {
                    tracing::info!("the {what} is written, after earlier attempts failed");
                }
                backoff.reset();
                continue;
            }
            Err(WriteError::Outdated(reason)) => {
                tracing::debug!(reason, "the {what} is not written");
                backoff.reset();
                continue;
            }
            Err(WriteError::Failed(error)) => words(&error),
        };
        if std::mem::replace(&mut failing, true) {
            tracing::debug!(error, "the {what} still can't be written");
        } else {
            tracing::warn!(error, "the {what} can't be written, trying again");
        }
        earliest = earliest.max(Instant::now() + backoff.pause());
        due = Some(earliest);
    }
}
