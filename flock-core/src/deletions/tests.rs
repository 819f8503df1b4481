use std::os::unix::fs::PermissionsExt as _;
use std::time::Instant;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::directory::{inject, steps};
use crate::store::conformance::key;

fn deletion(container: &str) -> Deletion {
    Deletion {
        key: key(container, "eth0"),
        pod: PodKey::new("default", "web-0").ok(),
        boot_id: "boot-1".into(),
        queued_ms: 1,
    }
}

fn run_dir() -> (TempDir, DeletionQueue) {
    let temporary = tempfile::tempdir().unwrap();
    let queue = DeletionQueue::of_run_dir(&temporary.path().join("flock"));
    (temporary, queue)
}

fn lock(queue: &DeletionQueue) -> LockedQueue {
    queue.lock(Deadline::after(Duration::from_secs(5))).unwrap()
}

fn queued(queue: &DeletionQueue) -> Vec<Deletion> {
    let waiting = lock(queue).waiting().unwrap();
    assert_eq!(waiting.set_aside, []);
    waiting.entries.into_iter().map(|entry| entry.deletion).collect()
}

#[test]
fn what_is_queued_comes_out_in_order_until_it_is_removed() {
    let (_temporary, queue) = run_dir();
    let deletions = ["c", "a", "b"].map(deletion);
    for deletion in &deletions {
        lock(&queue).push(deletion).unwrap();
    }
    assert_eq!(queued(&queue), deletions);
    let first = lock(&queue).waiting().unwrap().entries.remove(0);
    first.remove().unwrap();
    first.remove().unwrap();
    assert_eq!(queued(&queue), deletions[1..]);
    // Behind those that are left, whatever became of the first number.
    lock(&queue).push(&deletions[0]).unwrap();
    assert_eq!(queued(&queue), ["a", "b", "c"].map(deletion));
}

#[test]
fn only_its_user_sees_the_queue() {
    let (temporary, queue) = run_dir();
    lock(&queue).push(&deletion("a")).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&temporary.path().join("flock")), 0o700);
    assert_eq!(mode(queue.path()), 0o700);
    assert_eq!(mode(&lock(&queue).waiting().unwrap().entries[0].path), 0o600);
}

#[test]
fn an_attachment_waits_once() {
    let (_temporary, queue) = run_dir();
    let again = Deletion { pod: None, queued_ms: 2, ..deletion("a") };
    let (other_boot, other_interface) = (
        Deletion { boot_id: "boot-2".into(), ..deletion("a") },
        Deletion { key: key("a", "eth1"), ..deletion("a") },
    );
    for deletion in [&deletion("a"), &again, &other_boot, &other_interface, &again, &other_boot] {
        lock(&queue).push(deletion).unwrap();
    }
    assert_eq!(queued(&queue), [deletion("a"), other_boot, other_interface]);
}

#[test]
fn a_full_queue_takes_what_waits_already_and_nothing_else() {
    // In memory: there are many files.
    let temporary = tempfile::tempdir_in("/dev/shm").unwrap();
    let queue = DeletionQueue::of_run_dir(&temporary.path().join("flock"));
    lock(&queue).push(&deletion("a")).unwrap();
    for number in 2..=CAPACITY {
        fs::write(queue.path().join(format!("{number:020}-{number:016x}.json")), "").unwrap();
    }
    lock(&queue).push(&deletion("a")).unwrap();
    let error = lock(&queue).push(&deletion("b")).unwrap_err();
    assert_eq!(
        cni_error(error),
        (
            11,
            format!("the queue {} is full: 10000 deletions wait there already", queue.path().display()),
            "start flock-agent on this node, which empties it".to_owned()
        )
    );
    assert_eq!(fs::read_dir(queue.path()).unwrap().count(), CAPACITY);
    fs::remove_file(queue.path().join(format!("{:020}-{:016x}.json", 7, 7))).unwrap();
    lock(&queue).push(&deletion("b")).unwrap();
}

fn cni_error(error: QueueError) -> (u32, String, String) {
    let error = crate::cni::Error::from(error);
    (error.code.0, error.msg, error.details)
}

#[test]
fn what_is_no_entry_is_set_aside_and_the_rest_comes_out() {
    let whole = {
        let (_temporary, queue) = run_dir();
        lock(&queue).push(&deletion("a")).unwrap();
        fs::read_to_string(&lock(&queue).waiting().unwrap().entries[0].path).unwrap()
    };
    let name = entry::Name::after(0, &key("a", "eth0")).to_string();
    let too_long = " ".repeat(1 << 16) + &whole;
    for (name, text, reason) in [
        (name.as_str(), "", "it is empty"),
        (&name, "{\"version\": 1", "expected a JSON object with a format version: "),
        (&name, "[]", "expected a JSON object with a format version: "),
        (&name, "{\"version\": 1}", "missing field `deletion`"),
        (&name, "{\"version\": 2, \"other\": 1}", "its format version is 2, expected 1"),
        (&name, &whole.replace("\"eth0\"", "\"a/b\""), "\"a/b\" is not a valid interface name: "),
        (&name, &whole.replace("\"a\"", "\"../a\""), "\"../a\" is not a valid container id: "),
        (&name, &whole.replace("\"a\"", "\"b\""), "it is the deletion of b/eth0, whose file is named "),
        (&name, &too_long, "it has "),
        ("a.json", &whole, "its name is not that of an entry, expected SEQUENCE-HASH.json"),
        ("+0000000000000000001-0000000000000000.json", &whole, "its name is not that of an entry"),
    ] {
        let (_temporary, queue) = run_dir();
        lock(&queue).push(&deletion("c")).unwrap();
        let path = queue.path().join(name);
        fs::write(&path, text).unwrap();
        let waiting = lock(&queue).waiting().unwrap();
        let rest: Vec<_> = waiting.entries.into_iter().map(|entry| entry.deletion).collect();
        assert_eq!(rest, [deletion("c")], "{reason}");
        let [aside] = &waiting.set_aside[..] else { panic!("{reason}: {:?}", waiting.set_aside) };
        assert!(aside.reason.starts_with(reason), "{}\nexpected: {reason}", aside.reason);
        assert_eq!(fs::read_to_string(&aside.kept_as).unwrap(), text);
        // Once is enough, and nobody is held up by it.
        assert_eq!(queued(&queue), [deletion("c")]);
        lock(&queue).push(&deletion("a")).unwrap();
        assert_eq!(queued(&queue), ["c", "a"].map(deletion));
    }
}

#[test]
fn what_is_no_plain_file_is_set_aside_as_well() {
    let (_temporary, queue) = run_dir();
    lock(&queue).push(&deletion("a")).unwrap();
    let name = |number| queue.path().join(entry::Name::after(number, &key("b", "eth0")).to_string());
    fs::create_dir(name(1)).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", name(2)).unwrap();
    let waiting = lock(&queue).waiting().unwrap();
    assert_eq!(waiting.entries.len(), 1);
    let reasons: Vec<_> = waiting.set_aside.iter().map(|file| file.reason.as_str()).collect();
    assert_eq!(reasons, ["it is not a regular file"; 2]);
}

#[test]
fn whoever_has_the_lock_is_waited_for_until_the_deadline() {
    let (_temporary, queue) = run_dir();
    let locked = lock(&queue);
    let start = Instant::now();
    let error = queue.lock(Deadline::after(Duration::from_millis(50))).unwrap_err();
    assert!(start.elapsed() >= Duration::from_millis(50));
    let (code, msg, details) = cni_error(error);
    let expected = format!("another process has had the queue {} locked for 50ms", queue.path().display());
    assert_eq!((code, msg, details.as_str()), (11, expected, "end the flock process that is stuck with it"));

    let waiting = thread::spawn({
        let queue = queue.clone();
        move || queue.lock(Deadline::after(Duration::from_secs(60))).map(drop)
    });
    drop(locked);
    waiting.join().unwrap().unwrap();
}

/// What it is in is the working directory then, which is there.
#[test]
fn a_run_directory_may_be_relative() {
    let queue = DeletionQueue::of_run_dir(Path::new("flock"));
    assert_eq!(queue.path(), std::env::current_dir().unwrap().join("flock/deletions"));
}

#[test]
fn a_run_directory_in_nowhere_is_not_made() {
    let temporary = tempfile::tempdir().unwrap();
    let run_dir = temporary.path().join("no/flock");
    let queue = DeletionQueue::of_run_dir(&run_dir);
    let error = queue.lock(Deadline::after(Duration::from_secs(1))).unwrap_err().to_string();
    let expected = format!(
        "the run directory {} can't be made: the directory above it does not exist",
        run_dir.display()
    );
    assert_eq!(error, expected);
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0);
}

#[test]
fn a_step_that_fails_is_told_and_leaves_the_whole_entry_or_none() {
    // On a disk: a tmpfs has fewer steps.
    let temporary = || tempfile::tempdir_in("/var/tmp").unwrap();
    let push = |queue: &DeletionQueue, container| {
        queue.lock(Deadline::after(Duration::from_secs(5)))?.push(&deletion(container))
    };
    let unharmed = temporary();
    inject(None);
    push(&DeletionQueue::of_run_dir(&unharmed.path().join("flock")), "a").unwrap();
    let all = steps();
    assert!(all >= 8, "only {all} steps");
    for failing in 0..all {
        let temporary = temporary();
        let queue = DeletionQueue::of_run_dir(&temporary.path().join("flock"));
        inject(Some(failing));
        let error = push(&queue, "a").unwrap_err().to_string();
        inject(None);
        assert!(error.starts_with("can't ") && error.ends_with(": it is broken"), "{failing}: {error}");
        assert!(queued(&queue).len() <= 1, "{failing}: {error}");
        push(&queue, "a").unwrap();
        assert_eq!(queued(&queue), [deletion("a")], "{failing}: {error}");
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_refused_without_panic(name in "[0-9a-f+.-]{0,42}(\\.json)?", bytes: Vec<u8>) {
        prop_assert!(entry::decode(name.as_ref(), &bytes).is_err());
        let real = entry::Name::after(3, &key("a", "eth0")).to_string();
        prop_assert!(entry::decode(real.as_ref(), &bytes).is_err());
    }

    #[test]
    fn names_sort_by_number_and_are_read_back(numbers in proptest::collection::vec(any::<u64>(), 1..20)) {
        let name = |number: &u64| entry::Name::after(*number, &key("a", "eth0"));
        let mut texts: Vec<String> = numbers.iter().map(|number| name(number).to_string()).collect();
        texts.sort();
        let read: Vec<_> = texts.iter().map(|text| entry::Name::of(text.as_ref()).unwrap().sequence).collect();
        prop_assert!(read.is_sorted());
    }
}

#[test]
fn an_inspection_waits_for_nobody_and_changes_nothing() {
    let (_temporary, queue) = run_dir();
    assert_eq!(queue.inspect().unwrap(), []);
    assert!(!queue.path().exists());
    let locked = lock(&queue);
    for container in ["b", "a"] {
        locked.push(&deletion(container)).unwrap();
    }
    for other in ["x.json", "y.json.tmp", "z.json.corrupt-1"] {
        fs::write(queue.path().join(other), "{").unwrap();
    }
    let files = || {
        let names = fs::read_dir(queue.path()).unwrap().map(|file| file.unwrap().file_name());
        names.collect::<std::collections::BTreeSet<_>>()
    };
    let before = files();
    let found = queue.inspect().unwrap();
    assert_eq!(
        found.iter().map(|found| &found.deletion).collect::<Vec<_>>(),
        [&deletion("b"), &deletion("a")]
    );
    assert!(found.iter().all(|found| found.path().exists()));
    assert_eq!(files(), before);
}
