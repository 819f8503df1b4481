//! The file store is killed in the middle of its work, again and again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

use std::collections::BTreeMap;
use std::env;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use flock_core::attachment::{Attachment, AttachmentKey};
use flock_core::store::conformance::attachment;
use flock_core::store::{FileStore, Store};

/// Tells the child where to write, and from which step on.
const DIRECTORY: &str = "STORE_KILL_DIRECTORY";
const FIRST_STEP: &str = "STORE_KILL_FIRST_STEP";

const ROUNDS: usize = 25;

type Records = BTreeMap<AttachmentKey, Attachment>;

/// The state after each kill is that after the last step that was acknowledged, or
/// after the one that was under way: nothing is lost, nothing is half.
#[test]
fn what_was_acknowledged_survives_sigkill() {
    if let Some(directory) = env::var_os(DIRECTORY) {
        let first = env::var(FIRST_STEP).unwrap().parse().unwrap();
        write_until_killed(Path::new(&directory), first);
    }
    let directory = tempfile::tempdir().unwrap();
    let mut done = 0;
    let mut model = Records::new();
    for round in 0..ROUNDS {
        let acknowledged = run_and_kill(directory.path(), done);
        for step in done..acknowledged {
            apply(step, &mut model);
        }
        let found = reopened(directory.path());
        done = acknowledged;
        if found != model {
            apply(acknowledged, &mut model);
            done += 1;
        }
        assert_eq!(found, model, "round {round}, {acknowledged} steps acknowledged");
    }
    assert!(done >= 100, "only {done} steps were done in all, expected more than 100 in {ROUNDS} rounds");
}

/// Lets a child write from step `first` on, kills it and returns the first step
/// that it did not acknowledge.
fn run_and_kill(directory: &Path, first: u32) -> u32 {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "what_was_acknowledged_survives_sigkill", "--nocapture"])
        .env(DIRECTORY, directory)
        .env(FIRST_STEP, first.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    // The harness's own lines come before.
    let mut steps = lines.filter_map(|line| Some(line.strip_prefix("done ")?.parse::<u32>().unwrap()));
    // At a moment that nobody chose; how far the child is beyond what was read depends on the scheduler.
    let wait_for = RandomState::new().build_hasher().finish() % 20;
    let mut next = first;
    for step in steps.by_ref().take(usize::try_from(wait_for).unwrap() + 1) {
        assert_eq!(step, next);
        next += 1;
    }
    child.kill().unwrap();
    for step in steps {
        assert_eq!(step, next);
        next += 1;
    }
    let status = child.wait().unwrap();
    assert_eq!(status.code(), None, "the child ended by itself: {status}");
    next
}

fn write_until_killed(directory: &Path, first: u32) -> ! {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let (store, set_aside) = FileStore::open(directory).await.unwrap();
        assert_eq!(set_aside, []);
        let mut out = std::io::stdout();
        for number in first.. {
            match step(number) {
                Ok(record) => store.put(&record).await.unwrap(),
                Err(key) => store.delete(&key).await.unwrap(),
            }
            writeln!(out, "done {number}").unwrap();
        }
    });
    unreachable!("there are four billion steps");
}

/// What step `number` puts, or deletes.
fn step(number: u32) -> Result<Attachment, AttachmentKey> {
    let record = attachment(&format!("c{}", number % 3), "eth0", number % 10_000);
    if number % 5 == 4 { Err(record.key) } else { Ok(record) }
}

fn apply(number: u32, records: &mut Records) {
    match step(number) {
        Ok(record) => records.insert(record.key.clone(), record),
        Err(key) => records.remove(&key),
    };
}

fn reopened(directory: &Path) -> Records {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let (store, set_aside) = FileStore::open(directory).await.unwrap();
        assert_eq!(set_aside, []);
        let leftovers: Vec<_> = std::fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .filter(|name| name.as_encoded_bytes().ends_with(b".tmp"))
            .collect();
        assert!(leftovers.is_empty(), "{leftovers:?}");
        store.list().await.unwrap().into_iter().map(|record| (record.key.clone(), record)).collect()
    })
}
