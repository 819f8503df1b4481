//! The locks on tokio.

use std::sync::Arc;
use std::time::Duration;

use super::KeyedLocks;
use crate::attachment::AttachmentKey;
use crate::name::{ContainerId, InterfaceName};

fn key(container: &str) -> AttachmentKey {
    AttachmentKey::new(ContainerId::new(container).unwrap(), InterfaceName::new("eth0").unwrap())
}

#[tokio::test]
async fn one_key_excludes_and_another_does_not() {
    let locks = Arc::new(KeyedLocks::default());
    let held = locks.lock(&key("a")).await;
    assert!(locks.try_lock(&key("a")).is_none());
    assert!(locks.try_lock(&key("b")).is_some());
    drop(held);
    assert!(locks.try_lock(&key("a")).is_some());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_left_after_a_cancelled_wait() {
    let locks = Arc::new(KeyedLocks::default());
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

#[tokio::test(start_paused = true)]
async fn a_key_is_held_since_the_first_of_those_without_a_break() {
    let locks = Arc::new(KeyedLocks::default());
    let second = Duration::from_secs(1);
    let first = locks.lock(&key("a")).await;
    tokio::time::advance(second).await;
    let handed_over = async {
        drop(first);
        tokio::time::advance(second).await;
    };
    let same = key("a");
    let (next, ()) = tokio::join!(biased; locks.lock(&same), handed_over);
    assert_eq!(locks.held(), [(key("a"), 2 * second)]);
    drop(next);
    let _anew = locks.lock(&key("a")).await;
    assert_eq!(locks.held(), [(key("a"), Duration::ZERO)]);
}
