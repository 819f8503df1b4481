//! GC.

use crate::attachment::{Attachment, AttachmentState};
use crate::cni::GcCall;
use crate::handler::{Handler, HandlerError};
use crate::locks::KeyGuard;

impl Handler {
    /// Deletes the attachments of the call's network that are not among its valid ones,
    /// each as [`del`](Self::del) would. Returns how many that were.
    ///
    /// Without a list of valid ones nothing is deleted. A failure does not keep the others
    /// from being deleted; [`HandlerError::Gc`] then names each that is left over.
    ///
    /// Runtimes must not ask for GC while an ADD or DEL is at work (CNI specification,
    /// section 3, "Lifecycle & Ordering"). For those that do all the same, an attachment
    /// that another request is working on, or that is another one by the time it is its
    /// turn, is left alone: the list may be older than it. So is one whose record was lost and made
    /// again from its link ([`recover`](Self::recover)): nobody knows which network it is of.
    pub async fn gc(&self, call: &GcCall) -> Result<usize, HandlerError> {
        let Some(valid) = &call.valid else { return Ok(0) };
        let mut stale = self.backends.store.list().await?;
        // What is being deleted is the reaper's already.
        stale.retain(|record| {
            record.network == call.config.name
                && !record.is_salvaged()
                && record.state != AttachmentState::Deleting
                && !valid.contains(&record.key)
        });
        let (mut deleted, mut left) = (0, Vec::new());
        for record in &stale {
            match self.delete_unchanged(record).await {
                Ok(true) => {
                    tracing::info!(attachment = %record.owner(), "deleted: the runtime does not know it");
                    deleted += 1;
                }
                Ok(false) => {
                    tracing::info!(attachment = %record.owner(), "left alone: a request is at work on it, or has changed it");
                }
                Err(error) => {
                    tracing::warn!(attachment = %record.owner(), %error, "could not be deleted");
                    left.push((record.key.clone(), error));
                }
            }
        }
        if left.is_empty() { Ok(deleted) } else { Err(HandlerError::Gc { deleted, left }) }
    }

    async fn delete_unchanged(&self, record: &Attachment) -> Result<bool, HandlerError> {
        let Some(_serialised) = self.lock_unchanged(record).await? else { return Ok(false) };
        self.delete(record.clone()).await?;
        Ok(true)
    }

    /// The lock of `record`'s attachment, unless a request is at work on it or the record
    /// says something else by now.
    pub(super) async fn lock_unchanged(&self, record: &Attachment) -> Result<Option<KeyGuard>, HandlerError> {
        let Some(serialised) = self.locks.try_lock(&record.key) else { return Ok(None) };
        let current = self.backends.store.get(&record.key).await?;
        Ok((current.as_ref() == Some(record)).then_some(serialised))
    }
}
