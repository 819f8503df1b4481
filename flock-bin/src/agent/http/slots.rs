//! How many connections are open at once, by where they come from.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Room for connections: that of this machine is nobody else's.
#[derive(Debug)]
pub(super) struct Slots {
    remote: Arc<Semaphore>,
    local: Arc<Semaphore>,
}

impl Slots {
    pub(super) fn new(remote: usize, local: usize) -> Self {
        Self { remote: Arc::new(Semaphore::new(remote)), local: Arc::new(Semaphore::new(local)) }
    }

    /// One for a connection from `peer`, while there is one.
    pub(super) fn take(&self, peer: IpAddr) -> Option<OwnedSemaphorePermit> {
        // On [::], IPv4 peers come as ::ffff:192.0.2.1. The kernel takes loopback addresses from
        // no other interface.
        let slots = if peer.to_canonical().is_loopback() { &self.local } else { &self.remote };
        Arc::clone(slots).try_acquire_owned().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn others_take_nothing_from_this_machine() {
        let slots = Slots::new(2, 1);
        let others: Vec<_> =
            ["2001:db8::1", "::ffff:10.0.1.1", "10.0.1.1"].map(|text| slots.take(peer(text))).into();
        assert_eq!(others.iter().map(Option::is_some).collect::<Vec<_>>(), [true, true, false]);
        for text in ["::1", "127.0.0.1", "::ffff:127.0.0.1", "127.1.2.3"] {
            let slot = slots.take(peer(text));
            assert!(slot.is_some(), "{text}");
            assert!(slots.take(peer("::1")).is_none(), "one is all there is");
        }
        drop(others);
        assert!(slots.take(peer("2001:db8::1")).is_some());
    }
}
