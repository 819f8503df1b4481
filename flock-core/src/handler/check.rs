//! CHECK.

use crate::attachment::AttachmentState;
use crate::cni::{Call, CniResult};
use crate::handler::{Handler, HandlerError};

impl Handler {
    /// Whether everything of an attachment is as its ADD left it: the record, both
    /// sides in the kernel, and the result that the runtime has kept.
    ///
    /// What later plugins of the chain added to the result is not looked at.
    pub async fn check(&self, call: &Call) -> Result<(), HandlerError> {
        let path = call.netns.as_deref().ok_or(HandlerError::NoNamespace)?;
        let _serialised = self.locks.lock(&call.key).await;
        let record = self.backends.store.get(&call.key).await?;
        let Some(attachment) = record.filter(|record| record.state == AttachmentState::Committed) else {
            return Err(HandlerError::Unknown(call.key.clone()));
        };
        let netns = self.backends.dataplane.identify(path).await?;
        if !netns.is_same(&attachment.netns) {
            return Err(HandlerError::OtherNamespace { key: call.key.clone(), netns: netns.path });
        }
        if let Some(previous) = &call.config.prev_result {
            let missing = CniResult::of(&attachment).missing_from(previous);
            if !missing.is_empty() {
                return Err(HandlerError::PrevResult { key: attachment.key, missing });
            }
        }
        let drifts = self.backends.dataplane.check(std::slice::from_ref(&attachment)).await?;
        let drifts: Vec<_> = drifts.into_iter().flatten().collect();
        if drifts.is_empty() {
            return Ok(());
        }
        Err(HandlerError::Drifted { key: attachment.key, drifts })
    }
}
