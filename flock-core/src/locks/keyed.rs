//! Locks by key: [`KeyedLocks`].
//!
//! `shuttled` compiles this file once more, with a mutex that tries the orders of threads.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;

use super::sync::{Mutex, MutexGuard};
use crate::attachment::AttachmentKey;

type Lock = Arc<tokio::sync::Mutex<()>>;

/// Locks by key. A key that nobody holds or waits for takes no memory.
#[derive(Debug, Default)]
pub(crate) struct KeyedLocks {
    locks: Mutex<HashMap<AttachmentKey, Held>>,
}

/// A lock that somebody holds or waits for.
#[derive(Debug)]
struct Held {
    lock: Lock,
    /// For all the time since then, by one or the other.
    since: Instant,
}

/// Holds a key's lock until it is dropped.
#[derive(Debug)]
pub(crate) struct KeyGuard {
    owner: Arc<KeyedLocks>,
    key: AttachmentKey,
    guard: Option<OwnedMutexGuard<()>>,
}

impl KeyedLocks {
    /// Waits for the lock of `key`, first come first served.
    pub(crate) async fn lock(self: &Arc<Self>, key: &AttachmentKey) -> KeyGuard {
        // The entry is made before waiting, so a waiter that is cancelled is a
        // holder that never was: the guard below cleans up either way.
        let mut waiting = KeyGuard { owner: Arc::clone(self), key: key.clone(), guard: None };
        let lock = self.entry(key);
        waiting.guard = Some(lock.lock_owned().await);
        waiting
    }

    /// The lock of `key` if nobody has it.
    pub(crate) fn try_lock(self: &Arc<Self>, key: &AttachmentKey) -> Option<KeyGuard> {
        // As above: an attempt that fails may be the last one to let go of the entry.
        let mut attempt = KeyGuard { owner: Arc::clone(self), key: key.clone(), guard: None };
        attempt.guard = self.entry(key).try_lock_owned().ok();
        attempt.guard.is_some().then_some(attempt)
    }

    /// The keys whose locks are held or waited for, and for how long.
    pub(crate) fn held(&self) -> Vec<(AttachmentKey, Duration)> {
        self.map().iter().map(|(key, held)| (key.clone(), held.since.elapsed())).collect()
    }

    fn entry(&self, key: &AttachmentKey) -> Lock {
        let new = || Held { lock: Lock::default(), since: Instant::now() };
        self.map().entry(key.clone()).or_insert_with(new).lock.clone()
    }

    fn map(&self) -> MutexGuard<'_, HashMap<AttachmentKey, Held>> {
        self.locks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.map().len()
    }
}

impl Drop for KeyGuard {
    fn drop(&mut self) {
        let mut map = self.owner.map();
        self.guard.take();
        // Clones are made under the map's lock only, so a count of one means
        // that nobody else holds this lock or waits for it.
        if map.get(&self.key).is_some_and(|held| Arc::strong_count(&held.lock) == 1) {
            map.remove(&self.key);
        }
    }
}
