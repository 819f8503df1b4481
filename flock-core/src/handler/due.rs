//! Whether the network has been told of everything.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

/// Counts changes, and those that the network has been told of.
#[derive(Debug, Default)]
pub(super) struct Due {
    changes: AtomicU64,
    told: AtomicU64,
}

impl Due {
    /// Whether there is something to be told.
    pub(super) fn is_due(&self) -> bool {
        self.told.load(Ordering::Acquire) < self.changes()
    }

    /// There is something new to be told.
    pub(super) fn add(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    /// How many there were so far: looked at before what is told is gathered.
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// All of the first `changes` were told, or will never be taken.
    pub(super) fn told(&self, changes: u64) {
        self.told.fetch_max(changes, Ordering::AcqRel);
    }
}

/// A change that is being made and has to be told. Whatever becomes of it, also if it is
/// dropped in the middle, it is told: by whoever made it, else by the reaper.
#[derive(Debug)]
#[must_use = "dropped, it has the reaper tell of a change"]
pub(super) struct Untold<'a> {
    due: &'a Due,
    reaper: &'a Notify,
    settled: bool,
}

impl<'a> Untold<'a> {
    pub(super) fn new(due: &'a Due, reaper: &'a Notify) -> Self {
        Self { due, reaper, settled: false }
    }

    /// Nothing was changed, or somebody has told of it.
    pub(super) fn settle(mut self) {
        self.settled = true;
    }
}

impl Drop for Untold<'_> {
    fn drop(&mut self) {
        if !self.settled {
            self.due.add();
            self.reaper.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_after_the_look_is_still_due() {
        let due = Due::default();
        assert!(!due.is_due());
        due.add();
        let seen = due.changes();
        due.add();
        due.told(seen);
        assert!(due.is_due());
        due.told(due.changes());
        assert!(!due.is_due());
        // A late word about an earlier look changes nothing.
        due.told(seen);
        assert!(!due.is_due());
    }

    #[test]
    fn a_change_that_is_dropped_is_left_to_the_reaper() {
        let (due, reaper) = (Due::default(), Notify::new());
        Untold::new(&due, &reaper).settle();
        assert!(!due.is_due());
        drop(Untold::new(&due, &reaper));
        assert!(due.is_due());
        assert!(futures_util::FutureExt::now_or_never(reaper.notified()).is_some());
    }
}
