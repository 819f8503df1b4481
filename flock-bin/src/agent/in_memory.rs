//! A node in memory, for tests.

use std::sync::Arc;
use std::time::Duration;

use flock_core::announcer::MemoryAnnouncer;
use flock_core::clock::Clock;
use flock_core::dataplane::MemoryDataplane;
use flock_core::handler::Backends;
use flock_core::ipam::MemoryIpam;
use flock_core::store::MemoryStore;

use crate::agent::pods::PlainPods;

/// One of each backend, whose pods are all there and ready.
pub(super) fn backends(clock: Arc<dyn Clock>) -> Backends {
    Backends {
        ipam: Arc::new(MemoryIpam::new(Arc::clone(&clock), Duration::ZERO, 0)),
        store: Arc::new(MemoryStore::new()),
        dataplane: Arc::new(MemoryDataplane::new()),
        announcer: Arc::new(MemoryAnnouncer::new()),
        pods: Arc::new(PlainPods),
        clock,
    }
}
