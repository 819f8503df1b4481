//! Who may write a key's file: one call at a time for each key, in the order of asking.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use crate::attachment::AttachmentKey;

/// The keys that somebody writes or waits for.
#[derive(Debug, Default)]
pub(super) struct Turns {
    locks: Mutex<HashMap<AttachmentKey, Arc<AsyncMutex<()>>>>,
}

/// The right to write one key, until dropped.
#[derive(Debug)]
pub(super) struct Turn {
    turns: Arc<Turns>,
    key: AttachmentKey,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Turns {
    /// Waits until all who asked for `key` earlier are done.
    pub(super) async fn wait(turns: &Arc<Self>, key: &AttachmentKey) -> Turn {
        // Made before waiting, so that a dropped future cleans up after itself as well.
        let mut turn = Turn { turns: Arc::clone(turns), key: key.clone(), guard: None };
        let lock = {
            let mut locks = turns.locks.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(locks.entry(key.clone()).or_default())
        };
        turn.guard = Some(lock.lock_owned().await);
        turn
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut locks = self.turns.locks.lock().unwrap_or_else(PoisonError::into_inner);
        self.guard = None;
        // Clones are only made under the lock that is held here: a count of one means nobody waits.
        if locks.get(&self.key).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            locks.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::name::{ContainerId, InterfaceName};

    fn key(container: &str) -> AttachmentKey {
        AttachmentKey::new(ContainerId::new(container).unwrap(), InterfaceName::new("eth0").unwrap())
    }

    #[test]
    fn a_key_is_taken_in_turn_and_others_do_not_wait() {
        let (turns, a) = (Arc::new(Turns::default()), key("a"));
        let first = Turns::wait(&turns, &a).now_or_never().unwrap();
        let mut second = Box::pin(Turns::wait(&turns, &a));
        assert!(second.as_mut().now_or_never().is_none());
        assert!(Turns::wait(&turns, &key("b")).now_or_never().is_some());
        drop(first);
        assert!(second.now_or_never().is_some());
    }

    #[test]
    fn nothing_is_remembered_of_keys_that_nobody_writes() {
        let (turns, a) = (Arc::new(Turns::default()), key("a"));
        let first = Turns::wait(&turns, &a).now_or_never().unwrap();
        let mut given_up = Box::pin(Turns::wait(&turns, &a));
        assert!(given_up.as_mut().now_or_never().is_none());
        drop(first);
        drop(given_up);
        assert!(turns.locks.lock().unwrap().is_empty());
    }
}
