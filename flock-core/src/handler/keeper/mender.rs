//! Mends what the keeper has found, beside its looks.

use std::future::ready;

use futures_util::{StreamExt, stream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use crate::attachment::Attachment;
use crate::dataplane::Drift;
use crate::handler::keeper::{Outcome, Repaired};
use crate::handler::mend::{Mending, is_beyond_mending};
use crate::handler::{Handler, HandlerError};

/// So many at the same time: one that takes long does not stop the others.
const AT_ONCE: usize = 2;

/// An attachment that is not as it should be.
pub(super) struct Disturbed {
    pub(super) record: Attachment,
    pub(super) drifts: Vec<Drift>,
}

/// One that was worked on.
pub(super) struct Ended {
    pub(super) record: Attachment,
    pub(super) outcome: Result<Outcome, HandlerError>,
}

impl Handler {
    /// Mends each attachment that comes, and says what became of it. `repaired` is called where
    /// that is said in the log.
    pub(super) async fn mend_disturbed(
        &self,
        mut disturbed: UnboundedReceiver<Disturbed>,
        ended: UnboundedSender<Ended>,
        repaired: &(dyn Fn(Repaired) + Send + Sync),
    ) {
        stream::poll_fn(|context| disturbed.poll_recv(context))
            .map(|Disturbed { record, drifts }| async move {
                let outcome = self.mend_one_disturbed(&record, &drifts).await;
                if matches!(outcome, Ok(Outcome::Mended)) {
                    repaired(Repaired::Attachment);
                }
                Ended { record, outcome }
            })
            .buffer_unordered(AT_ONCE)
            .for_each(|one| {
                // It has no receiver where the keeper is about to stop.
                let _ = ended.send(one);
                ready(())
            })
            .await;
    }

    /// Mends a complete attachment that nobody else works on.
    async fn mend_one_disturbed(
        &self,
        found: &Attachment,
        drifts: &[Drift],
    ) -> Result<Outcome, HandlerError> {
        let Some(_guard) = self.locks.try_lock(&found.key) else { return Ok(Outcome::Busy) };
        // As it is now: before the lock, it may have been deleted, or made anew.
        match self.backends.store.get(&found.key).await? {
            Some(record) if record == *found => {}
            Some(_) => return Ok(Outcome::Busy),
            None => return Ok(Outcome::Fine),
        }
        if self.is_doomed(&found.key) {
            return Ok(Outcome::Fine);
        }
        Ok(match self.mend(found, drifts).await {
            Mending::Fine | Mending::Left { .. } => Outcome::Fine,
            Mending::Mended { found: drift } => {
                tracing::warn!(attachment = %found.owner(), found = drift, "repaired what something else had changed");
                Outcome::Mended
            }
            Mending::Failed { found: drift, error } => {
                // Its container may have ended since.
                let now = self.backends.dataplane.check(std::slice::from_ref(found)).await?.concat();
                if now.is_empty() || is_beyond_mending(&now) {
                    return Ok(Outcome::Fine);
                }
                Outcome::NotMended { found: drift, error: error.into() }
            }
        })
    }
}
