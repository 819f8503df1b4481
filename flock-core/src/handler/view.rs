//! What the handler says of itself when it is inspected.

use std::collections::BTreeMap;

use crate::attachment::AttachmentKey;
use crate::handler::{Attempts, Handler, HandlerError};
use crate::inspection::{Busy, HeldLease, View, Work};
use crate::node_config::Manifest;

impl Handler {
    /// What is in force, who holds what, and what is being worked on at the moment.
    pub async fn view(&self) -> Result<View, HandlerError> {
        let records = self.backends.store.list().await?;
        let leases = self.backends.ipam.leases().await?;
        // After the leases: one that was found by itself may be of a call that is at work.
        let busy = self.busy();
        Ok(View {
            node_config: Manifest::from(&self.node_config()),
            boot_id: self.settings.boot_id.clone(),
            leases: leases
                .into_iter()
                .map(|lease| HeldLease { key: lease.owner.key, addresses: lease.addresses })
                .collect(),
            busy: busy.into_values().collect(),
            ready: self.ready_servers(&records),
            withdrawing: self.withdrawals().withdrawn(),
            draining: self.draining().borrow().clone(),
            speaker: None,
        })
    }

    fn busy(&self) -> BTreeMap<AttachmentKey, Busy> {
        let now = self.backends.clock.now();
        let requests = self.locks.held().into_iter().map(|(key, lasts)| (key, Work::Request, lasts, None));
        let deletion = |key: &AttachmentKey, attempts: &Attempts| {
            let lasts = now.saturating_duration_since(attempts.since);
            (key.clone(), Work::Deletion, lasts, attempts.error.clone())
        };
        let queued = self.queued();
        let queued = queued.waiting.iter().map(|(key, unsettled)| deletion(key, &unsettled.attempts));
        let doomed = self.doomed();
        let doomed = doomed.iter().map(|(key, doomed)| deletion(key, &doomed.attempts));
        // What is told of a deletion says more than that a request holds the lock.
        let all = requests.chain(queued).chain(doomed);
        let busy = all.map(|(key, work, lasts, error)| {
            let for_ms = u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX);
            (key.clone(), Busy { key, work, for_ms, error })
        });
        busy.collect()
    }
}
