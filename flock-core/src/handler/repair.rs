//! Mending what is not as it should be, while everything goes on.

use std::collections::BTreeMap;

use crate::attachment::{Attachment, AttachmentKey, AttachmentState};
use crate::dataplane::{FoundLink, Link, NodeDrift, Stray};
use crate::handler::mend::Mending;
use crate::handler::{Handler, HandlerError};
use crate::ipam::{IpamError, LeaseOwner};

impl Handler {
    /// Makes the records' medium, the leases and the kernel agree with what this handler
    /// knows, and says again what is to be announced. Attachments that somebody works on at
    /// the moment are passed over.
    ///
    /// Goes on past what can't be mended, which is logged; fails if it can't be found out
    /// what there is. Traffic of running pods is untouched.
    pub async fn repair(&self) -> Result<(), HandlerError> {
        {
            let _alone = self.configuring.lock().await;
            self.configure(self.node_config()).await?;
        }
        self.release_unowned().await?;
        self.remove_unowned_links().await?;
        self.remove_strays().await?;
        for record in self.backends.store.list().await? {
            self.repair_attachment(&record.key).await?;
        }
        let unfinished = self.doomed_at(|_| true);
        self.reap_now(unfinished).await;
        self.publish().await
    }

    /// Leases without a record are of an ADD that was cut off.
    async fn release_unowned(&self) -> Result<(), HandlerError> {
        for lease in self.backends.ipam.leases().await? {
            let key = lease.owner.key;
            let Some(_guard) = self.locks.try_lock(&key) else { continue };
            let is_known = self.is_doomed(&key) || self.backends.store.get(&key).await?.is_some();
            if !is_known {
                tracing::warn!(attachment = %key, "released addresses that no record names");
                self.backends.ipam.release(&key).await?;
            }
        }
        Ok(())
    }

    /// Links that no record knows, and second links of those that one knows.
    async fn remove_unowned_links(&self) -> Result<(), HandlerError> {
        for FoundLink { link, .. } in self.backends.dataplane.list().await? {
            let _guard = match &link.owner {
                None => None,
                Some(owner) => match self.locks.try_lock(owner) {
                    None => continue,
                    guard => guard,
                },
            };
            if self.is_somebodys(&link).await? {
                continue;
            }
            tracing::warn!(interface = %link.interface, "removing a link that no record knows");
            self.backends.dataplane.reap(&[link]).await?;
        }
        Ok(())
    }

    async fn is_somebodys(&self, link: &Link) -> Result<bool, HandlerError> {
        let Some(owner) = &link.owner else {
            let records = self.backends.store.list().await?;
            return Ok(records.iter().any(|record| record.host_interface == link.interface));
        };
        let record = self.backends.store.get(owner).await?;
        Ok(record.is_some_and(|record| record.host_interface == link.interface)
            || self
                .doomed_at(|doomed| doomed.key == *owner)
                .iter()
                .any(|doomed| doomed.host_interface == link.interface))
    }

    /// Takes away routes and neighbour entries that belong to nobody.
    pub(super) async fn remove_strays(&self) -> Result<(), HandlerError> {
        let wanted = self.node_wanted(self.backends.store.list().await?);
        let found = self.backends.dataplane.check_node(&wanted).await?;
        let mut strays: Vec<Stray> = found
            .into_iter()
            .filter_map(|drift| match drift {
                NodeDrift::Stray(stray) => Some(stray),
                _ => None,
            })
            .collect();
        if strays.is_empty() {
            return Ok(());
        }
        // A record comes before its routes: what it explains by now was made meanwhile.
        let now: BTreeMap<AttachmentKey, Attachment> = self
            .backends
            .store
            .list()
            .await?
            .into_iter()
            .map(|record| (record.key.clone(), record))
            .collect();
        let news = now.values().filter(|record| !wanted.attachments.contains(record));
        let news: Vec<&str> = news.map(|record| record.host_interface.as_str()).collect();
        strays.retain(|stray| match stray {
            Stray::Route { interface, .. } => interface.as_deref().is_none_or(|name| !news.contains(&name)),
            Stray::Neighbour { interface, .. } => !news.contains(&interface.as_str()),
        });
        for stray in &strays {
            tracing::warn!(found = %stray, "removing it");
        }
        Ok(self.backends.dataplane.remove_strays(&strays).await?)
    }

    async fn repair_attachment(&self, key: &AttachmentKey) -> Result<(), HandlerError> {
        let Some(_guard) = self.locks.try_lock(key) else { return Ok(()) };
        let Some(record) = self.backends.store.get(key).await? else { return Ok(()) };
        if self.is_doomed(key) {
            return Ok(());
        }
        if record.state != AttachmentState::Committed {
            tracing::warn!(attachment = %record.owner(), "taking away what nobody works on");
            self.doom(record);
            return Ok(());
        }
        // The file may have been changed or removed.
        self.backends.store.put(&record).await?;
        let owner = LeaseOwner { key: record.key.clone(), pod: record.pod.clone() };
        match self.backends.ipam.restore(&owner, record.addresses).await {
            Err(error @ (IpamError::Taken { .. } | IpamError::HoldsOther { .. })) => {
                tracing::error!(%error, attachment = %record.owner(), "its addresses are not held");
            }
            restored => restored?,
        }
        self.mend_one(&record).await
    }

    async fn mend_one(&self, record: &Attachment) -> Result<(), HandlerError> {
        let drifts = self.backends.dataplane.check(std::slice::from_ref(record)).await?;
        match self.mend(record, &drifts.concat()).await {
            Mending::Fine | Mending::Left { .. } => {}
            Mending::Mended { found } => tracing::info!(attachment = %record.owner(), found, "mended"),
            Mending::Failed { found, error } => {
                tracing::error!(attachment = %record.owner(), found, %error, "could not be mended");
            }
        }
        Ok(())
    }

    pub(super) fn is_doomed(&self, key: &AttachmentKey) -> bool {
        !self.doomed_at(|doomed| doomed.key == *key).is_empty()
    }
}
