//! The file store on a disk that is full.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]
#![cfg(target_os = "linux")]

use std::ffi::CStr;
use std::fs;
use std::path::Path;
use std::thread;

use flock_core::attachment::{Attachment, AttachmentState};
use flock_core::retry::Retry;
use flock_core::store::conformance::attachment;
use flock_core::store::{FileStore, Store};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};
use rustix::thread::UnshareFlags;

/// Runs `test` on a thread of its own, with a small file system at the path that it is given.
fn on_small_disk(options: &'static CStr, test: impl AsyncFnOnce(&Path) + Send + 'static) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    let thread = thread::spawn(move || {
        #[expect(deprecated, reason = "its successor is unsafe for a flag that is not used here")]
        let unshared = rustix::thread::unshare(UnshareFlags::NEWNS);
        unshared.expect("a mount namespace needs root: run `make test`");
        mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE).unwrap();
        mount("flock-test", &path, "tmpfs", MountFlags::empty(), Some(options)).unwrap();
        // The threads that the runtime starts for blocking work are in the same namespace.
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(test(&path));
        unmount(&path, UnmountFlags::DETACH).unwrap();
    });
    thread.join().unwrap();
}

/// Three pages: two records and the unfinished third.
#[test]
fn a_disk_without_space_changes_nothing() {
    on_small_disk(c"size=8k", assert_nothing_changes_when_full);
}

/// One for the directory itself.
#[test]
fn a_disk_without_inodes_changes_nothing() {
    on_small_disk(c"nr_inodes=3", assert_nothing_changes_when_full);
}

async fn assert_nothing_changes_when_full(path: &Path) {
    let (store, _) = FileStore::open(path).await.unwrap();
    let (first, second) = (attachment("a", "eth0", 1), attachment("b", "eth0", 2));
    store.put(&first).await.unwrap();
    store.put(&second).await.unwrap();

    let changed = Attachment { state: AttachmentState::Deleting, ..first.clone() };
    for record in [&changed, &attachment("c", "eth0", 3)] {
        let error = store.put(record).await.unwrap_err();
        let file = path.join(format!("{}@eth0.json", record.key.container));
        assert_eq!(
            error.to_string(),
            format!(
                "can't write {}: No space left on device (os error 28); free some space there, nothing was changed",
                file.display()
            )
        );
        assert_eq!(error.retry(), Retry::Later);
        assert_eq!(store.list().await.unwrap(), [first.clone(), second.clone()]);
        assert_eq!(fs::read_dir(path).unwrap().count(), 2, "something was left over");
    }
    drop(store);

    let (store, set_aside) = FileStore::open(path).await.unwrap();
    assert_eq!(set_aside, []);
    assert_eq!(store.list().await.unwrap(), [first, second.clone()]);
    // Deleting needs no space, and makes some.
    store.delete(&second.key).await.unwrap();
    store.put(&changed).await.unwrap();
    assert_eq!(store.list().await.unwrap(), [changed]);
}
