//! CHECK.

use ipnet::IpNet;

use crate::attachment::{Attachment, AttachmentState};
use crate::cni::{Call, CniResult};
use crate::dataplane::{Drift, NodeDrift, Side};
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
        let mut drifts = drifts.concat();
        drifts.extend(self.lost_anycast(&attachment).await?);
        if drifts.is_empty() {
            return Ok(());
        }
        Err(HandlerError::Drifted { key: attachment.key, drifts })
    }

    /// The routes to what it serves that do not lead to it. They are the node's own, since
    /// several attachments may share one.
    async fn lost_anycast(&self, attachment: &Attachment) -> Result<Vec<Drift>, HandlerError> {
        if attachment.anycast.is_empty() {
            return Ok(Vec::new());
        }
        // Who announces changes the routes.
        let _announcing = self.announcing.lock().await;
        let wanted = self.node_wanted(self.backends.store.list().await?);
        let link = attachment.host_interface.as_str();
        let found = self.backends.dataplane.check_node(&wanted).await?;
        let lost = found.into_iter().filter_map(|drift| match drift {
            // Other servers of the address may come or go at the moment.
            NodeDrift::Anycast { address, expected, found, .. }
                if expected.contains(link) && !found.contains(link) =>
            {
                Some(Drift::RouteMissing(Side::Host, IpNet::from(address)))
            }
            _ => None,
        });
        Ok(lost.collect())
    }
}
