//! The queue that the threads take their jobs from.
//!
//! `queue_tests` compiles this file once more, with a mutex that tries the orders of threads.

use std::collections::VecDeque;
use std::sync::PoisonError;

use super::sync::{Condvar, Mutex, MutexGuard};

/// First in, first out, for any number of threads.
#[derive(Debug)]
pub(super) struct Queue<T> {
    inner: Mutex<Inner<T>>,
    more: Condvar,
}

#[derive(Debug)]
struct Inner<T> {
    items: VecDeque<T>,
    closed: bool,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { inner: Mutex::new(Inner { items: VecDeque::new(), closed: false }), more: Condvar::new() }
    }
}

impl<T> Queue<T> {
    /// Puts one in, and wakes one of those that wait.
    pub(super) fn push(&self, item: T) {
        self.lock().items.push_back(item);
        self.more.notify_one();
    }

    /// There will be no more: those that wait are to end once it is empty.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.more.notify_all();
    }

    /// The next one, waiting for it; `None` when there will be none.
    pub(super) fn next(&self) -> Option<T> {
        let mut inner = self.lock();
        loop {
            if let Some(item) = inner.items.pop_front() {
                return Some(item);
            }
            if inner.closed {
                return None;
            }
            inner = self.more.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
