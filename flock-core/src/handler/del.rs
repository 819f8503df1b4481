//! DEL.

use crate::attachment::{Attachment, AttachmentKey, AttachmentState};
use crate::cni::Call;
use crate::handler::{Change, Handler, HandlerError};

impl Handler {
    /// Detaches a container's interface: when this returns, nothing reaches it any
    /// more. Its link, its addresses and its record are the reaper's.
    ///
    /// What nobody knows, and what is deleted already, is success. Neither the
    /// container's namespace nor its pod is looked at.
    pub async fn del(&self, call: &Call) -> Result<(), HandlerError> {
        let _serialised = self.locks.lock(&call.key).await;
        self.delete_by_key(&call.key).await
    }

    /// The same, for whoever holds the attachment's lock.
    pub(super) async fn delete_by_key(&self, key: &AttachmentKey) -> Result<(), HandlerError> {
        let Some(attachment) = self.backends.store.get(key).await? else {
            // Addresses without a record are those of an ADD that was cut off.
            return Ok(self.backends.ipam.release(key).await?);
        };
        self.delete(attachment).await
    }

    /// The way of every deletion. The caller holds the attachment's lock.
    pub(super) async fn delete(&self, mut attachment: Attachment) -> Result<(), HandlerError> {
        if !self.mark(&mut attachment).await || !self.detach(&attachment).await {
            return self.teardown(&attachment).await;
        }
        self.doom(attachment);
        Ok(())
    }

    /// Whether the record now says that the attachment is being deleted. Where it
    /// can't (a full disk), everything is to be taken away at once instead: forgetting
    /// a record needs no space.
    async fn mark(&self, attachment: &mut Attachment) -> bool {
        if attachment.state == AttachmentState::Deleting {
            return true;
        }
        let untold = self.untold();
        let deleting = Attachment { state: AttachmentState::Deleting, ..attachment.clone() };
        if let Err(error) = self.backends.store.put(&deleting).await {
            tracing::warn!(%error, "the record can't be marked as deleting; deleting at once");
            untold.settle();
            return false;
        }
        let was = std::mem::replace(attachment, deleting);
        if self.is_announced(&was) {
            self.tell(untold, Change::Loss).await;
        } else {
            untold.settle();
        }
        true
    }

    /// Whether nothing reaches the container any more.
    async fn detach(&self, attachment: &Attachment) -> bool {
        let detached = self.backends.dataplane.detach(attachment).await;
        if let Err(error) = &detached {
            tracing::warn!(%error, "routes could not be removed by themselves; removing the link at once");
        }
        detached.is_ok()
    }
}
