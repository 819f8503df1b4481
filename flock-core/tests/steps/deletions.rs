//! The plugin is killed between any two steps of queueing a deletion.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use flock_core::client::Deadline;
use flock_core::deletions::{Deletion, DeletionQueue};
use flock_core::store::conformance::key;

use crate::death::{self, DIRECTORY_SYNCED, IN_PLACE, LOCKED, MADE, SYNCED, THERE, WRITTEN};

/// Tell the child where to queue and at which step to die.
const RUN_DIR: &str = "DELETIONS_STEPS_RUN_DIR";
const STEP: &str = "DELETIONS_STEPS_STEP";

fn deletion(container: &str) -> Deletion {
    Deletion { key: key(container, "eth0"), pod: None, boot_id: "boot-1".into(), queued_ms: 1 }
}

fn push(run_dir: &Path, container: &str) {
    let queue = DeletionQueue::of_run_dir(run_dir);
    // Where a dead process had the lock, this would wait until it fails.
    let locked = queue.lock(Deadline::after(Duration::from_secs(5))).unwrap();
    locked.push(&deletion(container)).unwrap();
}

#[test]
fn a_kill_at_any_step_on_disk_leaves_the_whole_entry_or_none() {
    let steps = [THERE, LOCKED, MADE, WRITTEN, SYNCED, IN_PLACE, DIRECTORY_SYNCED];
    every_step("a_kill_at_any_step_on_disk_leaves_the_whole_entry_or_none", Path::new("/var/tmp"), &steps);
}

#[test]
fn a_kill_at_any_step_in_memory_leaves_the_whole_entry_or_none() {
    let steps = [THERE, LOCKED, MADE, WRITTEN, IN_PLACE];
    every_step("a_kill_at_any_step_in_memory_leaves_the_whole_entry_or_none", Path::new("/dev/shm"), &steps);
}

fn every_step(test: &str, medium: &Path, expected: &[&str]) {
    if let Some(run_dir) = env::var_os(RUN_DIR) {
        death::at(env::var(STEP).unwrap().parse().unwrap());
        push(Path::new(&run_dir), "b");
        return;
    }
    // The first deletion of a node, and one behind another.
    for before in [&[][..], &["a"]] {
        let mut steps = Vec::new();
        loop {
            let directory = tempfile::tempdir_in(medium).unwrap();
            let run_dir = directory.path().join("flock");
            for container in before {
                push(&run_dir, container);
            }
            let mut child = Command::new(env::current_exe().unwrap());
            child
                .args(["--exact", &format!("deletions::{test}"), "--nocapture"])
                .env(RUN_DIR, &run_dir)
                .env(STEP, steps.len().to_string());
            // It dies at one step after the other, until there is none left.
            let Some(step) = death::of(&mut child) else { break };
            steps.push(step);
            judge(&run_dir, before, &steps);
        }
        assert_eq!(steps, expected, "{before:?}");
    }
}

/// After a death at the last of `steps`.
fn judge(run_dir: &Path, before: &[&str], steps: &[String]) {
    let queued = || {
        let queue = DeletionQueue::of_run_dir(run_dir);
        let waiting = queue.lock(Deadline::after(Duration::from_secs(5))).unwrap().waiting().unwrap();
        assert_eq!(waiting.set_aside, [], "{steps:?}");
        let deletions = waiting.entries.into_iter().map(|entry| entry.deletion);
        deletions.collect::<Vec<_>>()
    };
    let whole: Vec<_> = before.iter().chain(&["b"]).map(|container| deletion(container)).collect();
    let decided = steps.iter().any(|step| step == IN_PLACE);
    assert_eq!(queued(), whole[..before.len() + usize::from(decided)], "{steps:?}");
    // Whoever was not answered comes again; it is queued once.
    push(run_dir, "b");
    assert_eq!(queued(), whole, "{steps:?}");
    let files = fs::read_dir(run_dir.join("deletions")).unwrap().count();
    assert_eq!(files, whole.len(), "{steps:?}");
}
