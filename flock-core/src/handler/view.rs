//! What the handler says of itself when it is inspected.

use crate::handler::{Handler, HandlerError};
use crate::inspection::{HeldLease, View};
use crate::node_config::Manifest;

impl Handler {
    /// What is in force, who holds what, and what is being worked on at the moment.
    pub async fn view(&self) -> Result<View, HandlerError> {
        let leases = self.backends.ipam.leases().await?;
        // After the leases: one that was found by itself may be of a call that is at work.
        let mut busy = self.locks.held();
        busy.extend(self.doomed_at(|_| true).into_iter().map(|attachment| attachment.key));
        busy.sort();
        busy.dedup();
        Ok(View {
            node_config: Manifest::from(&self.node_config()),
            boot_id: self.settings.boot_id.clone(),
            leases: leases
                .into_iter()
                .map(|lease| HeldLease { key: lease.owner.key, addresses: lease.addresses })
                .collect(),
            busy,
            speaker: None,
        })
    }
}
