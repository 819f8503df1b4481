//! What happens once at the start of the agent, before a request is served.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::attachment::{Attachment, AttachmentKey, AttachmentState, Netns};
use crate::dataplane::{FoundLink, Link};
use crate::handler::mend::Mending;
use crate::handler::{Handler, HandlerError};
use crate::ipam::{IpamError, LeaseOwner};
use crate::name::NetworkName;

/// What [`Handler::recover`] found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Attachments that are complete.
    pub committed: usize,
    /// Of these, how many were mended.
    pub repaired: usize,
    /// Half made or half deleted attachments that were taken away.
    pub undone: usize,
    /// Records of another boot that were dropped.
    pub other_boot: usize,
    /// Attachments that got a new record because theirs could not be read.
    pub salvaged: usize,
    /// Links without a record that were removed.
    pub orphans: usize,
}

impl Handler {
    /// Prepares the node, reads the records and makes the kernel agree with them:
    /// committed attachments are verified and mended, all others are taken away, links
    /// that no record knows are removed, and so are routes and neighbour entries that are
    /// nobody's. The network is told nothing yet, see [`publish`](Self::publish).
    ///
    /// `unreadable` are attachments whose record was there and could not be read
    /// ([`FileStore::unreadable`](crate::store::FileStore::unreadable)). Their pods are running: a link of
    /// theirs is not removed but gets a new record, from what the kernel knows.
    ///
    /// A link that can't be removed is left to the reaper, which holds its addresses until then.
    /// Traffic of running pods is untouched.
    pub async fn recover(&self, unreadable: &[AttachmentKey]) -> Result<Recovery, HandlerError> {
        let _alone = self.configuring.lock().await;
        self.configure(self.node_config()).await?;
        let salvaged = self.salvage(unreadable).await?;
        let mut recovery = Recovery { salvaged, ..Recovery::default() };
        let (committed, unfinished) = self.read_records(&mut recovery).await?;
        self.recall_readiness(&committed).await?;
        self.mend_all(&committed, &mut recovery).await?;
        let undone = unfinished.len();
        self.reap_now(unfinished).await;
        recovery.undone = undone;
        self.remove_orphans(&mut recovery).await?;
        self.remove_strays().await?;
        Ok(recovery)
    }

    /// Writes new records for running pods whose own can't be read. What the kernel
    /// does not know is lost: the anycast addresses, and where the namespace is, so that
    /// drift in there is not mended. DEL needs neither.
    async fn salvage(&self, unreadable: &[AttachmentKey]) -> Result<usize, HandlerError> {
        let mut salvaged = 0;
        if unreadable.is_empty() {
            return Ok(salvaged);
        }
        for found in self.backends.dataplane.list().await? {
            let Some(attachment) = self.of_link(found, AttachmentState::Committed) else { continue };
            let key = &attachment.key;
            if !unreadable.contains(key) || self.backends.store.get(key).await?.is_some() {
                continue;
            }
            tracing::warn!(
                attachment = %attachment.owner(),
                "made a new record for a running container from its link; anycast addresses of its pod are \
                 no longer announced until it is made again"
            );
            self.backends.store.put(&attachment).await?;
            salvaged += 1;
        }
        Ok(salvaged)
    }

    /// What the kernel knows of an attachment; `None` where the link names no owner.
    fn of_link(&self, found: FoundLink, state: AttachmentState) -> Option<Attachment> {
        Some(Attachment {
            key: found.link.owner?,
            state,
            // Nobody knows, and nothing but GC would ask.
            network: NetworkName::new("unknown").ok()?,
            pod: None,
            pod_uid: None,
            netns: Netns { path: PathBuf::new(), device: 0, inode: 0 },
            host_interface: found.link.interface,
            addresses: found.addresses,
            anycast: Vec::new(),
            mtu: found.mtu,
            boot_id: self.settings.boot_id.clone(),
            created_ms: self.backends.clock.unix_ms(),
        })
    }

    /// The records of this boot, complete ones and others, with their addresses held.
    async fn read_records(
        &self,
        recovery: &mut Recovery,
    ) -> Result<(Vec<Attachment>, Vec<Attachment>), HandlerError> {
        let (mut committed, mut unfinished) = (Vec::new(), Vec::new());
        for record in self.backends.store.list().await? {
            if record.boot_id != self.settings.boot_id {
                self.backends.store.delete(&record.key).await?;
                recovery.other_boot += 1;
            } else if record.state == AttachmentState::Committed {
                committed.push(record);
            } else {
                unfinished.push(record);
            }
        }
        // Complete attachments first: if two records name one address, the running pod keeps it.
        for record in committed.iter().chain(&unfinished) {
            let owner = LeaseOwner { key: record.key.clone(), pod: record.pod.clone() };
            match self.backends.ipam.restore(&owner, record.addresses).await {
                Err(error @ IpamError::Taken { .. }) => {
                    tracing::error!(%error, attachment = %record.key, "two records name one address");
                }
                // An address that is not held would be given to somebody else.
                restored => restored?,
            }
        }
        for record in &unfinished {
            self.doom(record.clone());
        }
        recovery.committed = committed.len();
        Ok((committed, unfinished))
    }

    async fn mend_all(&self, committed: &[Attachment], recovery: &mut Recovery) -> Result<(), HandlerError> {
        let drifts = self.backends.dataplane.check(committed).await?;
        for (attachment, drifts) in committed.iter().zip(drifts) {
            match self.mend(attachment, &drifts).await {
                Mending::Fine => {}
                Mending::Left { found } => {
                    tracing::warn!(attachment = %attachment.owner(), found, "left for the runtime's DEL");
                }
                Mending::Mended { found } => {
                    tracing::info!(attachment = %attachment.owner(), found, "mended");
                    recovery.repaired += 1;
                }
                Mending::Failed { found, error } => {
                    tracing::error!(attachment = %attachment.owner(), found, %error, "could not be mended");
                }
            }
        }
        Ok(())
    }

    async fn remove_orphans(&self, recovery: &mut Recovery) -> Result<(), HandlerError> {
        let known: BTreeSet<AttachmentKey> =
            self.backends.store.list().await?.into_iter().map(|record| record.key).collect();
        let mut orphans = self.backends.dataplane.list().await?;
        orphans.retain(|found| found.link.owner.as_ref().is_none_or(|owner| !known.contains(owner)));
        recovery.orphans = orphans.len();
        if orphans.is_empty() {
            return Ok(());
        }
        tracing::warn!(links = orphans.len(), "removing links that no record knows");
        let links: Vec<Link> = orphans.iter().map(|found| found.link.clone()).collect();
        for (found, removed) in orphans.into_iter().zip(self.remove_links(&links).await) {
            if let Err(error) = removed {
                tracing::error!(%error, interface = %found.link.interface, "it could not be removed");
                self.adopt(found).await?;
            }
        }
        Ok(())
    }

    /// Makes an attachment that is being deleted of a link that no record knows and that can't be
    /// removed: nobody else gets its addresses, and the reaper goes on trying.
    ///
    /// Nothing can be done about one that names no owner, or is the second one of its owner.
    pub(super) async fn adopt(&self, found: FoundLink) -> Result<(), HandlerError> {
        let Some(attachment) = self.of_link(found, AttachmentState::Deleting) else { return Ok(()) };
        let key = &attachment.key;
        if self.is_doomed(key) || self.backends.store.get(key).await?.is_some() {
            return Ok(());
        }
        let owner = LeaseOwner { key: key.clone(), pod: None };
        if let Err(error) = self.backends.ipam.restore(&owner, attachment.addresses).await {
            tracing::error!(%error, attachment = %key, "its addresses are not held");
        }
        if let Err(error) = self.backends.store.put(&attachment).await {
            tracing::error!(%error, attachment = %key, "it has no record; the next start finds its link again");
        }
        self.doom(attachment);
        Ok(())
    }
}
