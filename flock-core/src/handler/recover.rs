//! What happens once at the start of the agent, before a request is served.

use std::collections::BTreeSet;

use ipnet::IpNet;

use crate::attachment::{Attachment, AttachmentKey, AttachmentState};
use crate::dataplane::{Drift, Link};
use crate::handler::{Change, Handler, HandlerError, Node};
use crate::ipam::{IpamError, LeaseOwner};

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
    /// Links without a record that were removed.
    pub orphans: usize,
}

impl Handler {
    /// Prepares the node, reads the records and makes the kernel agree with them:
    /// committed attachments are verified and mended, all others are taken away, links
    /// that no record knows are removed. Then summaries and announcements.
    ///
    /// Traffic of running pods is untouched.
    pub async fn recover(&self) -> Result<Recovery, HandlerError> {
        let config = self.node_config();
        let facts = self.backends.dataplane.prepare().await?;
        self.backends.ipam.configure(config.cidrs, &facts.addresses).await?;
        let summaries: BTreeSet<IpNet> = config.cidrs.iter().collect();
        let derived = config.bgp.as_ref().is_some_and(|bgp| bgp.router_id.is_none());
        if derived && facts.first_global_ipv4.is_none() {
            tracing::warn!(
                "the node has no global IPv4 address to take its BGP router id from, so it is derived from the \
                 node's name; set spec.bgp.routerId if another router happens to have the same"
            );
        }
        self.set_node(Node { config, facts });

        let mut recovery = Recovery::default();
        let (committed, unfinished) = self.read_records(&mut recovery).await?;
        self.mend(&committed, &mut recovery).await?;
        let undone = unfinished.len();
        self.reap_now(unfinished).await;
        recovery.undone = undone;
        self.remove_orphans(&mut recovery).await?;

        self.backends.dataplane.set_summaries(&summaries).await?;
        self.announce(Change::Gain).await;
        Ok(recovery)
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

    async fn mend(&self, committed: &[Attachment], recovery: &mut Recovery) -> Result<(), HandlerError> {
        let drifts = self.backends.dataplane.check(committed).await?;
        for (attachment, drifts) in committed.iter().zip(drifts) {
            if drifts.is_empty() {
                continue;
            }
            let found = drifts.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            if drifts.iter().any(|drift| matches!(drift, Drift::NamespaceGone(_))) {
                tracing::warn!(attachment = %attachment.owner(), found, "left for the runtime's DEL");
                continue;
            }
            match self.backends.dataplane.attach(attachment).await {
                Ok(()) => {
                    tracing::info!(attachment = %attachment.owner(), found, "mended");
                    recovery.repaired += 1;
                }
                Err(error) => {
                    tracing::error!(attachment = %attachment.owner(), found, %error, "could not be mended");
                }
            }
        }
        Ok(())
    }

    async fn remove_orphans(&self, recovery: &mut Recovery) -> Result<(), HandlerError> {
        let known: BTreeSet<AttachmentKey> =
            self.backends.store.list().await?.into_iter().map(|record| record.key).collect();
        let mut orphans: Vec<Link> = self.backends.dataplane.list().await?;
        orphans.retain(|link| link.owner.as_ref().is_none_or(|owner| !known.contains(owner)));
        if !orphans.is_empty() {
            tracing::warn!(links = orphans.len(), "removing links that no record knows");
            self.backends.dataplane.reap(&orphans).await?;
        }
        recovery.orphans = orphans.len();
        Ok(())
    }
}
