//! STATUS.

use std::sync::PoisonError;

use crate::cni::{self, Code};
use crate::handler::{Handler, HandlerError};
use crate::ipam::{IpamError, Usage};

/// What stands in the way of pods, found by [`Handler::status`]. Nothing is the default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// The node's prefixes that have no address left to give: new pods fail.
    pub exhausted: Vec<Usage>,
    /// Why pods that run may not be reachable as they should be, a sentence each.
    pub limits: Vec<String>,
}

impl Status {
    /// The answer to STATUS: success, or code 50 where new pods fail, or code 51 where
    /// pods that run may be limited, whatever becomes of new ones (CNI specification,
    /// section 2, "STATUS").
    pub fn answer(&self) -> Result<(), cni::Error> {
        let exhausted = self.exhausted.iter().map(|usage| IpamError::Exhausted(*usage).to_string());
        let msg = self.limits.iter().cloned().chain(exhausted).collect::<Vec<_>>().join("; ");
        if !self.limits.is_empty() {
            let details =
                "pods on this node reach each other; others may not reach them until this is mended";
            return Err(cni::Error::new(Code::LIMITED, msg, details));
        }
        if !self.exhausted.is_empty() {
            let details = "running pods are not affected; new ones wait for an address";
            return Err(cni::Error::new(Code::NOT_AVAILABLE, msg, details));
        }
        Ok(())
    }
}

impl Handler {
    /// Whether pods can be added and those that run are reachable, as far as the backends
    /// have said so. Asks the allocator and nobody else, so it answers at once.
    pub async fn status(&self) -> Result<Status, HandlerError> {
        let mut exhausted = self.backends.ipam.usage().await?;
        exhausted.retain(|usage| usage.free() == 0);
        let unannounced = self.unannounced.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let limits = unannounced.map(|reason| format!("announcements are not up to date: {reason}"));
        Ok(Status { exhausted, limits: limits.into_iter().collect() })
    }

    /// What STATUS says of the announcements from now on; `None` if all is well.
    pub(super) fn set_unannounced(&self, reason: Option<String>) {
        *self.unannounced.lock().unwrap_or_else(PoisonError::into_inner) = reason;
    }
}
