//! The locks once more, on shuttle's mutex: whenever it is taken, another thread may go first.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt;
use shuttle::future::block_on;
use shuttle::thread;

mod sync {
    pub(super) use shuttle::sync::{Mutex, MutexGuard};
}
// The one name that it looks for beside it is the module above.
#[allow(clippy::duplicate_mod, dead_code, reason = "the same code on another mutex, not all of it tried")]
#[path = "keyed.rs"]
mod keyed;

use keyed::KeyedLocks;

use crate::attachment::AttachmentKey;
use crate::name::{ContainerId, InterfaceName};

fn key(container: &str) -> AttachmentKey {
    AttachmentKey::new(ContainerId::new(container).unwrap(), InterfaceName::new("eth0").unwrap())
}

/// Holds the key for a moment in which others may come.
async fn hold(locks: &Arc<KeyedLocks>, container: &str, inside: &AtomicUsize) {
    let _held = locks.lock(&key(container)).await;
    assert_eq!(inside.fetch_add(1, Ordering::Relaxed), 0, "two hold {container}");
    thread::yield_now();
    inside.fetch_sub(1, Ordering::Relaxed);
}

/// Waits, or gives up at once, or tries: all that callers do.
fn callers() {
    let locks = Arc::new(KeyedLocks::default());
    let inside = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
    let threads: Vec<_> = (0..4)
        .map(|number| {
            let (locks, inside) = (Arc::clone(&locks), Arc::clone(&inside));
            thread::spawn(move || match number {
                0 | 1 => block_on(hold(&locks, "a", &inside[0])),
                2 => {
                    // A caller that is dropped while it waits, and comes again.
                    drop(locks.lock(&key("a")).now_or_never());
                    block_on(hold(&locks, "b", &inside[1]));
                    block_on(hold(&locks, "a", &inside[0]));
                }
                _ => {
                    if let Some(_held) = locks.try_lock(&key("a")) {
                        assert_eq!(inside[0].fetch_add(1, Ordering::Relaxed), 0, "two hold a");
                        thread::yield_now();
                        inside[0].fetch_sub(1, Ordering::Relaxed);
                    }
                    block_on(hold(&locks, "b", &inside[1]));
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(locks.len(), 0, "keys that nobody holds are remembered");
}

#[test]
fn in_whatever_order_one_holds_a_key_and_all_come_to_it() {
    shuttle::check_random(callers, 3_000);
    shuttle::check_pct(callers, 1_000, 3);
}
