//! The task that owns applying.

use std::sync::Arc;
use std::time::Duration;

use flock_core::announcer::AnnounceError;
use flock_core::retry::Retry;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::{Outcomes, Status, Wanted, ended};
use crate::debounce::{Backoff, Debounce};
use crate::speaker::Target;

/// Applies the last of `wanted` until its sender is gone.
pub(super) async fn run(
    mut target: impl Target,
    mut wanted: watch::Receiver<Wanted>,
    status: SettledAtEnd,
    outcomes: Arc<Outcomes>,
    window: Duration,
) {
    let mut debounce = Debounce::new(window);
    let mut backoff = Backoff::new();
    let mut log = Log::default();
    let mut due: Option<Instant> = None;
    loop {
        let last = tokio::select! {
            changed = wanted.changed() => match (changed, due) {
                (Ok(()), _) => {
                    // Also an attempt that waits for BIRD's return is made sooner.
                    due = Some(debounce.due(Instant::now()));
                    continue;
                }
                (Err(_), None) => return,
                (Err(_), Some(_)) => true,
            },
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => false,
        };
        let Wanted { generation, text, again } = wanted.borrow_and_update().clone();
        if again {
            target.forget();
        }
        debounce.begin(Instant::now());
        let outcome = target.apply(&text).await;
        log.outcome(generation, &outcome);
        outcomes.add(&outcome);
        due = match &outcome {
            Ok(()) => {
                backoff.reset();
                None
            }
            Err(error) if error.retry() == Retry::Later => Some(Instant::now() + backoff.pause()),
            Err(_) => None,
        };
        status.0.send_if_modified(|status| settle(status, generation, outcome));
        if last {
            return;
        }
    }
}

/// Sets what came out of `generation`, unless a later one is waiting already.
fn settle(status: &mut Status, generation: u64, outcome: Result<(), AnnounceError>) -> bool {
    let next = match outcome {
        Ok(()) => Status::Applied { generation },
        Err(error) => Status::Failed { generation, error },
    };
    let changed = status.generation() == generation && *status != next;
    if changed {
        *status = next;
    }
    changed
}

/// Nobody waits for ever on a task that was aborted, even before it ran, or has panicked.
#[derive(Debug)]
pub(super) struct SettledAtEnd(pub(super) Arc<watch::Sender<Status>>);

impl Drop for SettledAtEnd {
    fn drop(&mut self) {
        self.0.send_if_modified(|status| match status {
            &mut Status::Pending { generation } => settle(status, generation, Err(ended())),
            _ => false,
        });
    }
}

/// Says each thing once, however often it is tried again.
#[derive(Debug, Default)]
struct Log {
    failing: Option<AnnounceError>,
}

impl Log {
    fn outcome(&mut self, generation: u64, outcome: &Result<(), AnnounceError>) {
        match outcome {
            Ok(()) if self.failing.take().is_some() => {
                tracing::info!(generation, "BIRD has taken the configuration, after earlier attempts failed");
            }
            Ok(()) => tracing::debug!(generation, "BIRD has taken the configuration"),
            Err(error) if self.failing.as_ref() == Some(error) && error.retry() == Retry::Later => {
                tracing::debug!(generation, %error, "not applied yet");
            }
            Err(error) => {
                if matches!(error, AnnounceError::Unreachable { .. } | AnnounceError::Timeout { .. }) {
                    tracing::warn!(generation, %error, "not applied yet, trying again");
                } else {
                    tracing::error!(generation, %error, "not applied");
                }
                self.failing = Some(error.clone());
            }
        }
    }
}
