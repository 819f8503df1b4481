//! Mending what is not as it should be, while everything goes on.

use std::collections::BTreeMap;
use std::fmt::Display;

use crate::attachment::{Attachment, AttachmentKey, AttachmentState};
use crate::dataplane::{FoundLink, Link, NodeDrift, Stray};
use crate::handler::mend::Mending;
use crate::handler::{Handler, HandlerError};
use crate::ipam::LeaseOwner;

impl Handler {
    /// Makes the records' medium, the leases and the kernel agree with what this handler
    /// knows, and says again what is to be announced. Attachments that somebody works on at
    /// the moment are passed over.
    ///
    /// Goes on past what can't be mended, which is logged. Fails, when all the rest is done, if
    /// something could not be looked at. Traffic of running pods is untouched.
    pub async fn repair(&self) -> Result<(), HandlerError> {
        {
            let _alone = self.configuring.lock().await;
            go_on(self.configure(self.node_config()).await, "the node's settings could not be made");
        }
        let looks = [
            // Their addresses are released only once they are gone.
            self.remove_unowned_links().await,
            self.release_unowned().await,
            self.remove_strays().await,
            self.repair_attachments().await,
        ];
        let unfinished = self.doomed_at(|_| true);
        self.reap_now(unfinished).await;
        go_on(self.publish().await, "the summaries could not be set");
        looks.into_iter().collect()
    }

    /// Leases without a record are of an ADD that was cut off.
    async fn release_unowned(&self) -> Result<(), HandlerError> {
        for lease in self.backends.ipam.leases().await? {
            let released = self.release_if_unowned(&lease.owner.key).await;
            go_on(released, "addresses that no record names could not be released");
        }
        Ok(())
    }

    async fn release_if_unowned(&self, key: &AttachmentKey) -> Result<(), HandlerError> {
        let Some(_guard) = self.locks.try_lock(key) else { return Ok(()) };
        if self.is_doomed(key) || self.backends.store.get(key).await?.is_some() {
            return Ok(());
        }
        tracing::warn!(attachment = %key, "releasing addresses that no record names");
        Ok(self.backends.ipam.release(key).await?)
    }

    /// Links that no record knows, and second links of those that one knows.
    async fn remove_unowned_links(&self) -> Result<(), HandlerError> {
        for found in self.backends.dataplane.list().await? {
            go_on(self.remove_if_unowned(found).await, "a link that no record knows could not be removed");
        }
        Ok(())
    }

    async fn remove_if_unowned(&self, found: FoundLink) -> Result<(), HandlerError> {
        let link = &found.link;
        let guard = link.owner.as_ref().map(|owner| self.locks.try_lock(owner));
        let is_busy = matches!(guard, Some(None));
        if is_busy || self.is_somebodys(link).await? {
            return Ok(());
        }
        tracing::warn!(interface = %link.interface, "removing a link that no record knows");
        if let Err(error) = self.backends.dataplane.reap(std::slice::from_ref(link)).await {
            self.adopt(found).await?;
            return Err(error.into());
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
        go_on(self.backends.dataplane.remove_strays(&strays).await, "they could not be removed");
        Ok(())
    }

    async fn repair_attachments(&self) -> Result<(), HandlerError> {
        for record in self.backends.store.list().await? {
            if let Err(error) = self.repair_attachment(&record.key).await {
                tracing::error!(attachment = %record.owner(), %error, "it could not be looked at");
            }
        }
        Ok(())
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
        if let Err(error) = self.backends.store.put(&record).await {
            tracing::error!(%error, attachment = %record.owner(), "its record could not be written");
        }
        let owner = LeaseOwner { key: record.key.clone(), pod: record.pod.clone() };
        if let Err(error) = self.backends.ipam.restore(&owner, record.addresses).await {
            tracing::error!(%error, attachment = %record.owner(), "its addresses are not held");
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

/// What could not be done keeps nothing else from being done: a judge finds it again.
fn go_on<E: Display>(done: Result<(), E>, what: &'static str) {
    if let Err(error) = done {
        tracing::error!(%error, "{what}");
    }
}
