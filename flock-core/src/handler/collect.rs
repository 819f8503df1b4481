//! Finding attachments whose container is gone without a DEL: no runtime calls GC.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::pin;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::attachment::{Attachment, AttachmentKey, AttachmentState};
use crate::dataplane::{Drift, FoundLink, Side};
use crate::handler::{Handler, HandlerError};
use crate::name::InterfaceName;

/// An attachment that looked dead, and since when.
#[derive(Debug)]
pub(super) struct Suspect {
    record: Attachment,
    since: Instant,
}

impl Handler {
    /// Looks for dead attachments now and then once in each `interval`, until `shutdown` is ready.
    pub async fn run_collector(&self, interval: Duration, shutdown: impl Future<Output = ()>) {
        let mut shutdown = pin!(shutdown);
        loop {
            if let Err(error) = self.collect().await {
                tracing::warn!(%error, "can't look for attachments whose containers are gone; trying again");
            }
            tokio::select! {
                () = &mut shutdown => return,
                () = tokio::time::sleep(interval) => {}
            }
        }
    }

    /// Deletes attachments whose containers have been gone for
    /// [`Settings::collect_grace`](super::Settings::collect_grace), each as
    /// [`del`](Self::del) would. Returns how many that were.
    ///
    /// A container is gone where its namespace's path leads to no namespace or to another
    /// one **and** its link is not on the node. The second is the proof: a namespace that
    /// lives on without a path, because a process is in it or holds it open, keeps its
    /// end of the link and with it the other end.
    ///
    /// Costs one look at the node's links where nothing is dead.
    pub async fn collect(&self) -> Result<usize, HandlerError> {
        let dead = self.dead().await?;
        let mut collected = 0;
        for Suspect { record, since } in self.suspect(dead) {
            match self.collect_one(&record).await {
                Ok(true) => {
                    let seen_for = self.backends.clock.now().saturating_duration_since(since);
                    tracing::warn!(
                        attachment = %record.owner(),
                        netns = %record.netns.path.display(),
                        addresses = ?record.addresses.iter().collect::<Vec<_>>(),
                        seen_for_s = seen_for.as_secs(),
                        "collected: its container is gone, and no DEL came"
                    );
                    self.collected.fetch_add(1, Ordering::Relaxed);
                    collected += 1;
                }
                Ok(false) => {}
                // It stays under suspicion, and the next look tries again.
                Err(error) => tracing::warn!(%error, attachment = %record.owner(), "could not be collected"),
            }
        }
        Ok(collected)
    }

    /// How many attachments [`collect`](Self::collect) has deleted so far.
    pub fn collected(&self) -> u64 {
        self.collected.load(Ordering::Relaxed)
    }

    /// The attachments whose containers are gone at the moment.
    async fn dead(&self) -> Result<Vec<Attachment>, HandlerError> {
        // The records first: one that is made meanwhile has its link already.
        let mut records = self.backends.store.list().await?;
        let links = Links::of(self.backends.dataplane.list().await?);
        records.retain(|record| record.state != AttachmentState::Deleting && !links.has_link_of(record));
        if records.is_empty() {
            return Ok(records);
        }
        let drifts = self.backends.dataplane.check(&records).await?;
        let found = records.into_iter().zip(drifts);
        Ok(found.filter(|(_, drifts)| is_dead(drifts)).map(|(record, _)| record).collect())
    }

    /// Remembers those of `dead` that are new and forgets all others; returns those that
    /// have been dead for long enough.
    fn suspect(&self, dead: Vec<Attachment>) -> Vec<Suspect> {
        let now = self.backends.clock.now();
        let mut suspects = self.suspects.lock().unwrap_or_else(PoisonError::into_inner);
        let mut before = std::mem::take(&mut *suspects);
        for record in dead {
            let known = before.remove(&record.key).filter(|known| known.record == record);
            let since = known.map_or(now, |known| known.since);
            suspects.insert(record.key.clone(), Suspect { record, since });
        }
        let grace = self.settings.collect_grace;
        let due = suspects.values().filter(|suspect| now.saturating_duration_since(suspect.since) >= grace);
        due.map(|due| Suspect { record: due.record.clone(), since: due.since }).collect()
    }

    /// Under the attachment's lock everything is looked at once more.
    async fn collect_one(&self, record: &Attachment) -> Result<bool, HandlerError> {
        let Some(_serialised) = self.lock_unchanged(record).await? else { return Ok(false) };
        let drifts = self.backends.dataplane.check(std::slice::from_ref(record)).await?;
        if !drifts.first().is_some_and(|drifts| is_dead(drifts)) {
            return Ok(false);
        }
        self.delete(record.clone()).await?;
        Ok(true)
    }
}

/// By both signs: see [`Handler::collect`].
fn is_dead(drifts: &[Drift]) -> bool {
    let is_gone = |drift: &Drift| matches!(drift, Drift::NamespaceGone(_));
    let has_no_link =
        |drift: &Drift| matches!(drift, Drift::LinkMissing(Side::Host) | Drift::LinkForeign(Side::Host));
    drifts.iter().any(is_gone) && drifts.iter().any(has_no_link)
}

/// The links of the node, by owner; by name where the owner can't be told.
struct Links {
    owners: BTreeSet<AttachmentKey>,
    unmarked: BTreeSet<InterfaceName>,
}

impl Links {
    fn of(found: Vec<FoundLink>) -> Self {
        let mut links = Self { owners: BTreeSet::new(), unmarked: BTreeSet::new() };
        for FoundLink { link, .. } in found {
            match link.owner {
                Some(owner) => links.owners.insert(owner),
                None => links.unmarked.insert(link.interface),
            };
        }
        links
    }

    fn has_link_of(&self, record: &Attachment) -> bool {
        self.owners.contains(&record.key) || self.unmarked.contains(&record.host_interface)
    }
}

/// Suspects by key.
pub(super) type Suspects = BTreeMap<AttachmentKey, Suspect>;
