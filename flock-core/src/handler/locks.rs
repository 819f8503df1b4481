//! One lock for each attachment, so that requests for one are serialised and
//! requests for different ones are not.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OwnedMutexGuard;

use crate::attachment::AttachmentKey;

type Lock = Arc<tokio::sync::Mutex<()>>;

/// Locks by key. A key that nobody holds or waits for takes no memory.
#[derive(Debug, Default)]
pub(super) struct KeyedLocks {
    locks: Mutex<HashMap<AttachmentKey, Lock>>,
}

/// Holds a key's lock until it is dropped.
#[derive(Debug)]
pub(super) struct KeyGuard<'a> {
    owner: &'a KeyedLocks,
    key: AttachmentKey,
    guard: Option<OwnedMutexGuard<()>>,
}

impl KeyedLocks {
    /// Waits for the lock of `key`, first come first served.
    pub(super) async fn lock(&self, key: &AttachmentKey) -> KeyGuard<'_> {
        // The entry is made before waiting, so a waiter that is cancelled is a
        // holder that never was: the guard below cleans up either way.
        let mut waiting = KeyGuard { owner: self, key: key.clone(), guard: None };
        let lock = self.entry(key);
        waiting.guard = Some(lock.lock_owned().await);
        waiting
    }

    /// The lock of `key` if nobody has it.
    pub(super) fn try_lock(&self, key: &AttachmentKey) -> Option<KeyGuard<'_>> {
        // As above: an attempt that fails may be the last one to let go of the entry.
        let mut attempt = KeyGuard { owner: self, key: key.clone(), guard: None };
        attempt.guard = self.entry(key).try_lock_owned().ok();
        attempt.guard.is_some().then_some(attempt)
    }

    /// The keys whose locks are held or waited for.
    pub(super) fn held(&self) -> Vec<AttachmentKey> {
        self.map().keys().cloned().collect()
    }

    fn entry(&self, key: &AttachmentKey) -> Lock {
        self.map().entry(key.clone()).or_default().clone()
    }

    fn map(&self) -> MutexGuard<'_, HashMap<AttachmentKey, Lock>> {
        self.locks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.map().len()
    }
}

impl Drop for KeyGuard<'_> {
    fn drop(&mut self) {
        let mut map = self.owner.map();
        self.guard.take();
        // Clones are made under the map's lock only, so a count of one means
        // that nobody else holds this lock or waits for it.
        if map.get(&self.key).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            map.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::name::{ContainerId, InterfaceName};

    fn key(container: &str) -> AttachmentKey {
        AttachmentKey::new(ContainerId::new(container).unwrap(), InterfaceName::new("eth0").unwrap())
    }

    #[tokio::test]
    async fn one_key_excludes_and_another_does_not() {
        let locks = KeyedLocks::default();
        let held = locks.lock(&key("a")).await;
        assert!(locks.try_lock(&key("a")).is_none());
        assert!(locks.try_lock(&key("b")).is_some());
        drop(held);
        assert!(locks.try_lock(&key("a")).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_left_after_a_cancelled_wait() {
        let locks = KeyedLocks::default();
        let held = locks.lock(&key("a")).await;
        let waited = tokio::time::timeout(Duration::from_millis(1), locks.lock(&key("a"))).await;
        assert!(waited.is_err());
        drop(held);
        assert_eq!(locks.len(), 0);
    }

    #[tokio::test]
    async fn many_holders_leave_nothing() {
        let locks = Arc::new(KeyedLocks::default());
        let mut tasks = tokio::task::JoinSet::new();
        for index in 0..100 {
            let locks = Arc::clone(&locks);
            tasks.spawn(async move {
                let _held = locks.lock(&key(["a", "b", "c"][index % 3])).await;
                tokio::task::yield_now().await;
            });
        }
        while let Some(result) = tasks.join_next().await {
            result.unwrap();
        }
        assert_eq!(locks.len(), 0);
    }
}
