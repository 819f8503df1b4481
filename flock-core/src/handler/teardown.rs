//! Taking attachments away: at once for a failed ADD, in batches for the reaper.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::future::Future;
use std::pin::pin;

use crate::attachment::{Attachment, AttachmentKey};
use crate::dataplane::{DataplaneError, Link};
use crate::handler::{Attempts, Change, Doomed, Handler, HandlerError};
use crate::locks::KeyGuard;

impl Handler {
    /// Removes links in batches, then forgets the records, then releases the
    /// addresses, until `shutdown` is ready. What is left over then is taken up by
    /// [`recover`](Self::recover) of the next start.
    pub async fn run_reaper(&self, shutdown: impl Future<Output = ()>) {
        let mut shutdown = pin!(shutdown);
        loop {
            let pause = tokio::select! {
                () = &mut shutdown => return,
                () = self.reaper_wakes.notified() => self.settings.reap_delay,
            };
            tokio::select! {
                () = &mut shutdown => return,
                () = tokio::time::sleep(pause) => {}
            }
            while self.reap().await > 0 {
                tokio::select! {
                    () = &mut shutdown => return,
                    () = tokio::time::sleep(self.settings.retry_delay) => {}
                }
            }
        }
    }

    /// Takes away once what is waiting to be taken away, tries failed deletions from the
    /// queue again, and says again what could not be announced. Returns how much of that
    /// is still to be done.
    pub async fn reap(&self) -> usize {
        let queued = self.settle_all().await;
        self.reap_now(self.doomed_at(|_| true)).await;
        self.announce_if_due().await;
        queued + self.doomed().len() + usize::from(self.due.is_due())
    }

    /// Leaves `attachment` to the reaper.
    pub(super) fn doom(&self, attachment: Attachment) {
        self.remember(attachment);
        self.reaper_wakes.notify_one();
    }

    fn remember(&self, attachment: Attachment) {
        let attempts = Attempts::since(self.backends.clock.now());
        match self.doomed().entry(attachment.key.clone()) {
            Entry::Occupied(mut known) => known.get_mut().attachment = attachment,
            Entry::Vacant(new) => drop(new.insert(Doomed { attachment, attempts })),
        }
    }

    fn failed(&self, key: &AttachmentKey, error: &HandlerError) {
        if let Some(doomed) = self.doomed().get_mut(key) {
            doomed.attempts.failed(error);
        }
    }

    /// What `matches` of all that is waiting for the reaper.
    pub(super) fn doomed_at(&self, matches: impl Fn(&Attachment) -> bool) -> Vec<Attachment> {
        let doomed = self.doomed();
        let attachments = doomed.values().map(|doomed| &doomed.attachment);
        attachments.filter(|attachment| matches(attachment)).cloned().collect()
    }

    /// Takes away those of `attachments` that nobody else is working on, after what is
    /// being taken away already. What fails stays with the reaper.
    pub(super) async fn reap_now(&self, attachments: Vec<Attachment>) {
        let _one_after_the_other = self.reaping.lock().await;
        let mut held: Vec<(Attachment, KeyGuard)> = Vec::new();
        for attachment in attachments {
            // Whoever holds the lock deals with the attachment, or leaves it for the next round.
            let Some(guard) = self.locks.try_lock(&attachment.key) else { continue };
            // As it is now: before the lock, it may have been made and deleted once more.
            let current = self.doomed().get(&attachment.key).map(|doomed| doomed.attachment.clone());
            if let Some(current) = current {
                held.push((current, guard));
            }
        }
        if held.is_empty() {
            return;
        }
        let links: Vec<Link> = held.iter().map(|(attachment, _)| Link::of(attachment)).collect();
        let removed = self.remove_links(&links).await;
        for ((attachment, guard), removed) in held.into_iter().zip(removed) {
            let done = match removed {
                Ok(()) => self.forget(&attachment).await,
                Err(error) => Err(error.into()),
            };
            if let Err(error) = done {
                tracing::warn!(%error, attachment = %attachment.key, "could not be taken away; trying again");
                self.failed(&attachment.key, &error);
            }
            drop(guard);
        }
    }

    /// Removes `links` together. Where that fails, each by itself: one that can't be removed holds
    /// up no other. Tells of each how it ended.
    pub(super) async fn remove_links(&self, links: &[Link]) -> Vec<Result<(), DataplaneError>> {
        let Err(error) = self.backends.dataplane.reap(links).await else {
            return links.iter().map(|_| Ok(())).collect();
        };
        if let [_] = links {
            return vec![Err(error)];
        }
        let mut ended = Vec::new();
        for link in links {
            ended.push(self.backends.dataplane.reap(std::slice::from_ref(link)).await);
        }
        ended
    }

    /// Takes away everything of `attachment` at once; its routes go with the link. The
    /// caller holds its lock. On failure the reaper goes on with it.
    pub(super) async fn teardown(&self, attachment: &Attachment) -> Result<(), HandlerError> {
        self.remember(attachment.clone());
        let done = self.try_teardown(attachment).await;
        if let Err(error) = &done {
            self.failed(&attachment.key, error);
            self.reaper_wakes.notify_one();
        }
        done
    }

    async fn try_teardown(&self, attachment: &Attachment) -> Result<(), HandlerError> {
        self.backends.dataplane.reap(&[Link::of(attachment)]).await?;
        self.forget(attachment).await?;
        self.announce_if_due().await;
        Ok(())
    }

    /// The last steps, once the link is gone. The record goes first: an address that
    /// is free while a record still names it could be given out, and be found with two
    /// owners after a crash.
    async fn forget(&self, attachment: &Attachment) -> Result<(), HandlerError> {
        // One that was never marked as deleting: its addresses have not been withdrawn.
        let untold = self.is_announced(attachment).then(|| self.untold());
        self.backends.store.delete(&attachment.key).await?;
        drop(untold);
        self.backends.ipam.release(&attachment.key).await?;
        self.doomed().remove(&attachment.key);
        Ok(())
    }

    async fn announce_if_due(&self) {
        if self.due.is_due() {
            self.announce(Change::Loss).await;
        }
    }

    pub(super) fn doomed(&self) -> std::sync::MutexGuard<'_, BTreeMap<AttachmentKey, Doomed>> {
        self.doomed.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
