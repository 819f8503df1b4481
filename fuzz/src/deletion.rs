//! Files in the directory of queued deletions.
//!
//! The first line is the file's name, the rest is what it holds.

use std::ffi::OsStr;
use std::fs;
use std::time::Duration;

use flock_core::client::Deadline;
use flock_core::deletions::{DeletionQueue, QueuedDeletion, Waiting};
use tempfile::TempDir;

use crate::files::{assert_passed_over, assert_set_aside, must, named, temporary};

thread_local! {
    static PARENT: TempDir = temporary();
}

/// Reads `data` as a file's name and what is in it.
pub fn check(data: &[u8]) {
    let Some((name, content)) = named(data) else { return };
    PARENT.with(|parent| {
        let run_dir = parent.path().join("flock");
        file(&DeletionQueue::of_run_dir(&run_dir), name, content);
        must(fs::remove_dir_all(&run_dir));
    });
}

fn file(queue: &DeletionQueue, name: &OsStr, content: &[u8]) {
    let path = queue.path().join(name);
    must(fs::create_dir_all(queue.path()));
    must(fs::write(&path, content));
    let Waiting { entries, set_aside } = waiting(queue);
    match (entries.as_slice(), set_aside.as_slice()) {
        ([entry], []) => {
            assert_eq!(must(fs::read(&path)), content, "the queue was looked at, and changed");
            queued(queue, entry);
        }
        ([], [file]) => {
            assert_eq!(file.path, path);
            assert_set_aside(&path, content, &file.kept_as, [&file.reason, file]);
        }
        ([], []) => assert_passed_over(&path, content),
        more => panic!("from one file: {more:?}"),
    }
}

/// It waits once however often it is queued, and what is written of it is read as the same.
fn queued(queue: &DeletionQueue, entry: &QueuedDeletion) {
    push(queue, entry);
    assert_eq!(waiting(queue).entries, std::slice::from_ref(entry));
    must(entry.remove());
    push(queue, entry);
    let Waiting { entries, set_aside } = waiting(queue);
    let again: Vec<_> = entries.into_iter().map(|again| again.deletion).collect();
    assert_eq!((again, set_aside), (vec![entry.deletion.clone()], vec![]));
}

fn push(queue: &DeletionQueue, entry: &QueuedDeletion) {
    must(must(queue.lock(deadline())).push(&entry.deletion));
}

fn waiting(queue: &DeletionQueue) -> Waiting {
    must(must(queue.lock(deadline())).waiting())
}

fn deadline() -> Deadline {
    Deadline::after(Duration::from_secs(1))
}
