//! What a crash, a broken file and a full disk do to the file store: nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use flock_core::attachment::{Attachment, AttachmentState};
use flock_core::store::conformance::attachment;
use flock_core::store::{FileStore, SetAside, Store};
use tempfile::TempDir;

/// The names in the directory, in order.
fn names(directory: &Path) -> Vec<OsString> {
    let mut names: Vec<_> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names
}

/// A directory with records of the containers `a` and `b`.
async fn two_records() -> (TempDir, [Attachment; 2]) {
    let directory = tempfile::tempdir().unwrap();
    let records = [attachment("a", "eth0", 1), attachment("b", "eth0", 2)];
    let (store, _) = FileStore::open(directory.path()).await.unwrap();
    for record in &records {
        store.put(record).await.unwrap();
    }
    (directory, records)
}

async fn reopened(directory: &Path) -> (Vec<Attachment>, Vec<SetAside>) {
    let (store, set_aside) = FileStore::open(directory).await.unwrap();
    (store.list().await.unwrap(), set_aside)
}

#[tokio::test]
async fn files_are_for_the_agents_user_only() {
    let (directory, _) = two_records().await;
    assert_eq!(names(directory.path()), ["a@eth0.json", "b@eth0.json"]);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(directory.path()), 0o700);
    assert_eq!(mode(&directory.path().join("a@eth0.json")), 0o600);
}

#[tokio::test]
async fn a_directory_belongs_to_one_store_at_a_time() {
    let (directory, records) = two_records().await;
    let (store, _) = FileStore::open(directory.path()).await.unwrap();
    let error = FileStore::open(directory.path()).await.unwrap_err().to_string();
    assert_eq!(
        error,
        format!(
            "can't lock the directory {}: another process has it open; stop the other agent or use another directory",
            directory.path().display()
        )
    );
    assert_eq!(store.list().await.unwrap(), records);
    drop(store);
    assert_eq!(reopened(directory.path()).await.0, records);
}

#[tokio::test]
async fn a_directory_that_can_not_be_made_is_an_error() {
    let (directory, _) = two_records().await;
    let path = directory.path().join("a@eth0.json/attachments");
    let error = FileStore::open(&path).await.unwrap_err().to_string();
    assert_eq!(
        error,
        format!("can't create the directory {}: Not a directory (os error 20)", path.display())
    );
}

/// The process may die after any number of bytes, with an old record in place or without.
#[tokio::test]
async fn every_unfinished_file_is_removed_and_the_old_record_stays() {
    let (directory, [a, old]) = two_records().await;
    let new = Attachment { state: AttachmentState::Deleting, ..old.clone() };
    let (store, _) = FileStore::open(directory.path()).await.unwrap();
    let old_bytes = fs::read(directory.path().join("b@eth0.json")).unwrap();
    store.put(&new).await.unwrap();
    drop(store);
    let new_bytes = fs::read(directory.path().join("b@eth0.json")).unwrap();
    assert_ne!(old_bytes, new_bytes);

    for length in 0..=new_bytes.len() {
        fs::write(directory.path().join("b@eth0.json"), &old_bytes).unwrap();
        fs::write(directory.path().join("b@eth0.json.tmp"), &new_bytes[..length]).unwrap();
        let (records, set_aside) = reopened(directory.path()).await;
        assert_eq!(records, [a.clone(), old.clone()], "{length} bytes");
        assert_eq!(set_aside, [], "{length} bytes");

        fs::remove_file(directory.path().join("b@eth0.json")).unwrap();
        fs::write(directory.path().join("b@eth0.json.tmp"), &new_bytes[..length]).unwrap();
        assert_eq!(reopened(directory.path()).await.0, std::slice::from_ref(&a), "{length} bytes");
        assert_eq!(names(directory.path()), ["a@eth0.json"], "{length} bytes");
    }
}

/// A medium that loses what was not synced, or a person with an editor.
#[tokio::test]
async fn every_cut_record_is_set_aside() {
    let (directory, [a, _]) = two_records().await;
    let path = directory.path().join("b@eth0.json");
    let whole = fs::read(&path).unwrap();
    // The last byte is a newline that nobody misses.
    for length in 0..whole.len() - 1 {
        fs::write(&path, &whole[..length]).unwrap();
        let (records, set_aside) = reopened(directory.path()).await;
        assert_eq!(records, std::slice::from_ref(&a), "{length} bytes");
        let [only] = &set_aside[..] else { panic!("{length} bytes: {set_aside:?}") };
        assert_eq!(fs::read(&only.kept_as).unwrap(), &whole[..length]);
        fs::remove_file(&only.kept_as).unwrap();
    }
}

#[tokio::test]
async fn what_is_no_record_is_set_aside_and_the_rest_is_loaded() {
    let whole = {
        let (directory, _) = two_records().await;
        fs::read_to_string(directory.path().join("b@eth0.json")).unwrap()
    };
    let newer = "its format version 2 is newer than 1, the newest that this version of Flock reads; \
                 it was written by a newer one";
    let cases: [(&[u8], &str); 10] = [
        (b"", "it is empty"),
        (b"\xff\xfe", "it is not UTF-8: "),
        (b"\0\0\0\0", "it is not JSON: "),
        (b"{\"version\": 1", "it is not JSON: "),
        (b"[]", "expected a JSON object with a format version: "),
        (b"{}", "expected a JSON object with a format version: missing field `version`"),
        (b"{\"version\": 1}", "missing field `attachment`"),
        (b"{\"version\": 2, \"other\": 1}", newer),
        (b"{\"version\": 0}", "its format version is 0, expected 1"),
        (
            &whole.replace("\"container\": \"b\"", "\"container\": \"c\"").into_bytes(),
            "it is the record of c/eth0, whose file is named c@eth0.json",
        ),
    ];
    for (bytes, reason) in cases {
        let (directory, [a, _]) = two_records().await;
        let path = directory.path().join("b@eth0.json");
        fs::write(&path, bytes).unwrap();
        let (records, set_aside) = reopened(directory.path()).await;
        assert_eq!(records, [a], "{reason}");
        let [only] = &set_aside[..] else { panic!("{reason}: {set_aside:?}") };
        assert!(only.reason.starts_with(reason), "{}\nexpected: {reason}", only.reason);
        assert_eq!(only.path, path);
        assert_eq!(only.kept_as, directory.path().join("b@eth0.json.corrupt-1"));
        assert_eq!(fs::read(&only.kept_as).unwrap(), bytes);
        assert_eq!(names(directory.path()), ["a@eth0.json", "b@eth0.json.corrupt-1"]);
        // Once is enough.
        assert_eq!(reopened(directory.path()).await.1, []);
    }
}

#[tokio::test]
async fn what_is_no_plain_file_is_set_aside_as_well() {
    let (directory, records) = two_records().await;
    fs::create_dir(directory.path().join("c@eth0.json")).unwrap();
    symlink("a@eth0.json", directory.path().join("d@eth0.json")).unwrap();
    fs::File::create(directory.path().join("e@eth0.json")).unwrap().set_len(1 << 30).unwrap();
    let (found, set_aside) = reopened(directory.path()).await;
    assert_eq!(found, records);
    let reasons: Vec<_> = set_aside.iter().map(|file| file.reason.as_str()).collect();
    assert_eq!(
        reasons,
        [
            "it is not a regular file",
            "it is not a regular file",
            "it has 1073741824 bytes, expected at most 1048576"
        ]
    );
}

#[tokio::test]
async fn a_broken_file_never_replaces_an_earlier_one() {
    let (directory, [a, b]) = two_records().await;
    let path = directory.path().join("b@eth0.json");
    for text in ["first", "second", "third"] {
        fs::write(&path, text).unwrap();
        assert_eq!(reopened(directory.path()).await.1.len(), 1);
    }
    for (number, text) in [(1, "first"), (2, "second"), (3, "third")] {
        let kept = directory.path().join(format!("b@eth0.json.corrupt-{number}"));
        assert_eq!(fs::read_to_string(kept).unwrap(), text);
    }
    // The key is free for a new record.
    let (store, _) = FileStore::open(directory.path()).await.unwrap();
    store.put(&b).await.unwrap();
    drop(store);
    assert_eq!(reopened(directory.path()).await, (vec![a, b], vec![]));
}

/// The process may die after a file was set aside, before anything was done about it.
#[tokio::test]
async fn what_was_set_aside_is_remembered_until_there_is_a_record_again() {
    let (directory, [_, b]) = two_records().await;
    fs::write(directory.path().join("b@eth0.json"), "{").unwrap();
    fs::write(directory.path().join("no-record.json"), "{").unwrap();
    for start in 0..3 {
        let (store, set_aside) = FileStore::open(directory.path()).await.unwrap();
        assert_eq!(set_aside.len(), if start == 0 { 2 } else { 0 });
        assert_eq!(store.unreadable(), std::slice::from_ref(&b.key), "start {start}");
    }
    let (store, _) = FileStore::open(directory.path()).await.unwrap();
    store.put(&b).await.unwrap();
    drop(store);
    let (store, _) = FileStore::open(directory.path()).await.unwrap();
    assert_eq!(store.unreadable(), []);
}

#[tokio::test]
async fn the_longest_names_are_set_aside_as_well() {
    let directory = tempfile::tempdir().unwrap();
    let foreign = format!("{}.json", "é".repeat(125));
    assert_eq!(foreign.len(), 255);
    fs::write(directory.path().join(&foreign), "").unwrap();
    let own = attachment(&"x".repeat(190), &"@".repeat(15), 1);
    let (store, set_aside) = FileStore::open(directory.path()).await.unwrap();
    assert_eq!(set_aside.len(), 1);
    store.put(&own).await.unwrap();
    drop(store);
    let file =
        names(directory.path()).into_iter().find(|name| name.as_encoded_bytes().starts_with(b"x")).unwrap();
    fs::write(directory.path().join(&file), "").unwrap();
    assert_eq!(reopened(directory.path()).await.1.len(), 1);
    assert_eq!(names(directory.path()).len(), 2);
}

#[tokio::test]
async fn the_message_says_where_the_file_is_and_what_to_do() {
    let (directory, _) = two_records().await;
    let path = directory.path().join("b@eth0.json");
    fs::write(&path, "").unwrap();
    let (_, set_aside) = reopened(directory.path()).await;
    assert_eq!(
        set_aside[0].to_string(),
        format!(
            "{0} is not a valid record of an attachment: it is empty; it was kept as {0}.corrupt-1 and the other \
             records were loaded; to use it again, mend it, give it its old name back and start again",
            path.display()
        )
    );
}

#[tokio::test]
async fn files_of_others_are_left_alone() {
    let (directory, records) = two_records().await;
    for name in ["README", "b@eth0.json.corrupt-1", "x.tmp", "x.json~"] {
        fs::write(directory.path().join(name), "mine").unwrap();
    }
    let before = names(directory.path());
    assert_eq!(reopened(directory.path()).await, (records.to_vec(), vec![]));
    assert_eq!(names(directory.path()), before);
}
