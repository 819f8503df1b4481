//! The file store is killed between any two steps of a write.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

use flock_core::attachment::{Attachment, AttachmentState};
use flock_core::store::conformance::attachment;
use flock_core::store::{FileStore, Store};
use tempfile::TempDir;

use crate::death::{self, DIRECTORY_SYNCED, IN_PLACE, MADE, REMOVED, SYNCED, WRITTEN};

/// Tell the child where to write, what, and at which step to die.
const DIRECTORY: &str = "STORE_STEPS_DIRECTORY";
const CHANGE: &str = "STORE_STEPS_CHANGE";
const STEP: &str = "STORE_STEPS_STEP";

/// What is done to the record of the container `a`.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Change {
    Make,
    Replace,
    Remove,
}

impl Change {
    const ALL: [Self; 3] = [Self::Make, Self::Replace, Self::Remove];

    fn before(self) -> Option<Attachment> {
        (self != Self::Make).then(|| attachment("a", "eth0", 1))
    }

    fn after(self) -> Option<Attachment> {
        let new = Attachment { state: AttachmentState::Deleting, ..attachment("a", "eth0", 1) };
        (self != Self::Remove).then_some(new)
    }

    /// What is there in the end: the step from which on it is the new state.
    fn decisive(self) -> &'static str {
        if self == Self::Remove { REMOVED } else { IN_PLACE }
    }

    async fn carry_out(self, store: &FileStore) {
        match self.after() {
            Some(record) => store.put(&record).await.unwrap(),
            None => store.delete(&attachment("a", "eth0", 1).key).await.unwrap(),
        }
    }
}

#[test]
fn a_kill_at_any_step_on_disk_leaves_the_old_record_or_the_new_one() {
    // Survives a reboot, says the Filesystem Hierarchy Standard, so it is no tmpfs.
    let written = [MADE, WRITTEN, SYNCED, IN_PLACE, DIRECTORY_SYNCED];
    every_step(
        "store::a_kill_at_any_step_on_disk_leaves_the_old_record_or_the_new_one",
        Path::new("/var/tmp"),
        &written,
        &[REMOVED, DIRECTORY_SYNCED],
    );
}

#[test]
fn a_kill_at_any_step_in_memory_leaves_the_old_record_or_the_new_one() {
    let written = [MADE, WRITTEN, IN_PLACE];
    every_step(
        "store::a_kill_at_any_step_in_memory_leaves_the_old_record_or_the_new_one",
        Path::new("/dev/shm"),
        &written,
        &[REMOVED],
    );
}

fn every_step(test: &str, medium: &Path, of_put: &[&str], of_delete: &[&str]) {
    if let Some(directory) = env::var_os(DIRECTORY) {
        let number = |name| env::var(name).unwrap().parse::<usize>().unwrap();
        die_in_the_middle(Path::new(&directory), Change::ALL[number(CHANGE)], number(STEP));
        return;
    }
    for (index, change) in Change::ALL.into_iter().enumerate() {
        let mut steps = Vec::new();
        loop {
            let directory = prepared(medium, change);
            let mut child = Command::new(env::current_exe().unwrap());
            child
                .args(["--exact", test, "--nocapture"])
                .env(DIRECTORY, directory.path())
                .env(CHANGE, index.to_string())
                .env(STEP, steps.len().to_string());
            // It dies at one step after the other, until there is none left.
            let Some(step) = death::of(&mut child) else { break };
            steps.push(step);
            judge(directory.path(), change, &steps);
        }
        let expected = if change == Change::Remove { of_delete } else { of_put };
        assert_eq!(steps, expected, "{change:?}");
    }
}

/// A directory with the record of `b`, and of `a` where the change needs it.
fn prepared(medium: &Path, change: Change) -> TempDir {
    let directory = tempfile::tempdir_in(medium).unwrap();
    block_on(async {
        let (store, _) = FileStore::open(directory.path()).await.unwrap();
        store.put(&attachment("b", "eth0", 2)).await.unwrap();
        if let Some(record) = change.before() {
            store.put(&record).await.unwrap();
        }
    });
    directory
}

/// After a death at the last of `steps`.
fn judge(directory: &Path, change: Change, steps: &[String]) {
    let decided = steps.iter().any(|step| step == change.decisive());
    let expected = if decided { change.after() } else { change.before() };
    let b = attachment("b", "eth0", 2);
    block_on(async {
        let (store, set_aside) = FileStore::open(directory).await.unwrap();
        assert_eq!(set_aside, [], "{change:?} {steps:?}");
        let found = store.list().await.unwrap();
        assert_eq!(
            found,
            expected.into_iter().chain([b.clone()]).collect::<Vec<_>>(),
            "{change:?} {steps:?}"
        );
        // Whoever was not answered does it again.
        change.carry_out(&store).await;
        let found = store.list().await.unwrap();
        assert_eq!(found, change.after().into_iter().chain([b]).collect::<Vec<_>>(), "{change:?} {steps:?}");
    });
    let names: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(
        names.iter().all(|name| name.as_encoded_bytes().ends_with(b"@eth0.json")),
        "{change:?} {steps:?}: {names:?}"
    );
}

fn die_in_the_middle(directory: &Path, change: Change, step: usize) {
    block_on(async {
        let (store, _) = FileStore::open(directory).await.unwrap();
        // Opening has steps too; those of the change are counted.
        death::at(step);
        change.carry_out(&store).await;
    });
}

fn block_on(work: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work);
}
