//! Deletions that were queued while no agent ran.

use std::sync::PoisonError;
use std::time::Duration;

use tokio::task::spawn_blocking;

use crate::attachment::AttachmentKey;
use crate::client::Deadline;
use crate::deletions::{DeletionQueue, QueueError, QueuedDeletion, Waiting};
use crate::handler::{Attempts, Handler, HandlerError, Queued, Unsettled};

/// A plugin has the queue's lock for some milliseconds. Only one that was stopped, or
/// whose disk hangs, has it for longer, and that is worth a line in the log.
const PATIENCE: Duration = Duration::from_secs(5);

/// What [`Handler::replay`] found and did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Replay {
    /// Deletions that were carried out.
    pub done: usize,
    /// Deletions of another boot, which had nothing left to delete.
    pub other_boot: usize,
    /// Deletions that failed and wait for the reaper.
    pub failed: usize,
    /// Files that are no queued deletions and were set aside.
    pub set_aside: usize,
}

/// Of the queue of deletions, since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueuedDeletions {
    /// Deletions that were carried out.
    pub replayed: u64,
    /// Deletions that failed so far and are tried again.
    pub waiting: usize,
}

impl Handler {
    /// Carries out the deletions that plugins have queued while no agent ran, in their
    /// order, and takes away the links. Comes after [`recover`](Self::recover), before
    /// anything but DEL is served, and when the server listens and has deletions carried
    /// out already: what is queued after that is queued by nobody.
    ///
    /// A deletion that fails stays in the queue. The reaper tries it again, and so does
    /// the next ADD of the same attachment, before it does anything else. A crash in the
    /// middle repeats what was not finished.
    ///
    /// Fails if the queue can't be read.
    pub async fn replay(&self, queue: &DeletionQueue) -> Result<Replay, QueueError> {
        let Waiting { entries, set_aside } = read(queue).await?;
        let mut replay = Replay { set_aside: set_aside.len(), ..Replay::default() };
        let (of_this_boot, others): (Vec<_>, Vec<_>) =
            entries.into_iter().partition(|entry| entry.deletion.boot_id == self.settings.boot_id);
        for entry in others {
            // What stays is of another boot next time as well.
            if let Err(error) = remove(vec![entry]).await {
                tracing::warn!(%error, "a queued deletion of another boot stays");
            }
            replay.other_boot += 1;
        }
        let (mut keys, now) = (Vec::new(), self.backends.clock.now());
        for entry in of_this_boot {
            let key = entry.deletion.key.clone();
            let mut queued = self.queued();
            let new = || Unsettled { entries: Vec::new(), attempts: Attempts::since(now) };
            let same = queued.waiting.entry(key.clone()).or_insert_with(new);
            if same.entries.is_empty() {
                keys.push(key);
            }
            same.entries.push(entry);
        }
        for key in keys {
            let _serialised = self.locks.lock(&key).await;
            match self.settle(&key).await {
                Ok(()) => replay.done += 1,
                Err(_) => replay.failed += 1,
            }
        }
        self.reap().await;
        if replay.failed > 0 {
            self.reaper_wakes.notify_one();
        }
        Ok(replay)
    }

    /// How the queued deletions stand.
    pub fn queued_deletions(&self) -> QueuedDeletions {
        let queued = self.queued();
        QueuedDeletions { replayed: queued.replayed, waiting: queued.waiting.len() }
    }

    /// Carries out what is queued for `key`, whose lock the caller holds. Afterwards its
    /// file is gone: a deletion that came back with the next agent would meet what an
    /// ADD has made since.
    pub(super) async fn settle(&self, key: &AttachmentKey) -> Result<(), HandlerError> {
        let entries = self.queued().waiting.get(key).map(|unsettled| unsettled.entries.clone());
        let Some(entries) = entries else { return Ok(()) };
        if let Err(error) = self.carry_out(key, entries).await {
            tracing::warn!(attachment = %key, %error, "a queued deletion failed; trying again");
            if let Some(unsettled) = self.queued().waiting.get_mut(key) {
                unsettled.attempts.failed(&error);
            }
            return Err(error);
        }
        let mut queued = self.queued();
        queued.waiting.remove(key);
        queued.replayed += 1;
        Ok(())
    }

    async fn carry_out(&self, key: &AttachmentKey, entries: Vec<QueuedDeletion>) -> Result<(), HandlerError> {
        let pod = entries.iter().find_map(|entry| entry.deletion.pod.clone());
        self.delete_by_key(key).await?;
        remove(entries).await?;
        tracing::info!(attachment = %key, pod = pod.map(tracing::field::display), "carried out a queued deletion");
        Ok(())
    }

    /// Tries again what has failed. Returns how much is still to be done.
    pub(super) async fn settle_all(&self) -> usize {
        let keys: Vec<AttachmentKey> = self.queued().waiting.keys().cloned().collect();
        for key in keys {
            // Whoever holds the lock is an ADD that does it first, or is done soon.
            let Some(_guard) = self.locks.try_lock(&key) else { continue };
            // Logged; the count says that it is still there.
            let _ = self.settle(&key).await;
        }
        self.queued().waiting.len()
    }

    pub(super) fn queued(&self) -> std::sync::MutexGuard<'_, Queued> {
        self.queued.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All that waits, read while nobody writes.
async fn read(queue: &DeletionQueue) -> Result<Waiting, QueueError> {
    loop {
        let reader = queue.clone();
        match blocking(move || reader.lock(Deadline::after(PATIENCE))?.waiting()).await {
            Err(error @ QueueError::Busy { .. }) => {
                tracing::warn!(%error, advice = error.advice(), "waiting for the queue of deletions");
            }
            read => return read,
        }
    }
}

async fn remove(entries: Vec<QueuedDeletion>) -> Result<(), QueueError> {
    blocking(move || entries.iter().try_for_each(QueuedDeletion::remove)).await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, QueueError> + Send + 'static,
) -> Result<T, QueueError> {
    match spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(QueueError::Io {
            action: "work on",
            path: std::path::PathBuf::from("the queue of deletions"),
            source: std::io::Error::other(error),
        }),
    }
}
