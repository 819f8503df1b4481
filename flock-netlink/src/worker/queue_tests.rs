//! The queue under shuttle, which tries orders of threads.

mod sync {
    pub(super) use shuttle::sync::{Condvar, Mutex, MutexGuard};
}
#[allow(clippy::duplicate_mod, reason = "the same code on another mutex")]
#[path = "queue.rs"]
mod queue;

use std::sync::Arc;

use queue::Queue;
use shuttle::thread;

/// Two threads that ask, two that work, and the end at any moment.
fn askers_and_workers() {
    let queue = Arc::new(Queue::default());
    let workers: Vec<_> = (0..2)
        .map(|_| {
            let queue = Arc::clone(&queue);
            thread::spawn(move || std::iter::from_fn(|| queue.next()).collect::<Vec<u32>>())
        })
        .collect();
    let askers: Vec<_> = (0..2)
        .map(|asker| {
            let queue = Arc::clone(&queue);
            thread::spawn(move || (0..2).for_each(|number| queue.push(asker * 10 + number)))
        })
        .collect();
    for asker in askers {
        asker.join().unwrap();
    }
    queue.close();
    // A worker that slept through something would never end: shuttle calls that a deadlock.
    let mut done = Vec::new();
    for worker in workers {
        let of_worker = worker.join().unwrap();
        for asker in [0, 10] {
            let of_asker: Vec<_> = of_worker.iter().filter(|number| **number / 10 * 10 == asker).collect();
            assert!(of_asker.is_sorted(), "{of_worker:?}");
        }
        done.extend(of_worker);
    }
    done.sort_unstable();
    assert_eq!(done, [0, 1, 10, 11]);
}

#[test]
fn in_whatever_order_each_job_is_done_once_and_every_worker_ends() {
    shuttle::check_random(askers_and_workers, 3_000);
    shuttle::check_pct(askers_and_workers, 1_000, 3);
}
