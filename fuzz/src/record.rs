//! Files in the directory of records.
//!
//! The first line is the file's name, the rest is what it holds.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use flock_core::attachment::Attachment;
use flock_core::store::{FileStore, SetAside, Store as _};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::files::{assert_passed_over, assert_set_aside, must, named, temporary};

thread_local! {
    static LAB: Lab = Lab::new();
}

/// Reads `data` as a file's name and what is in it.
pub fn check(data: &[u8]) {
    let Some((name, content)) = named(data) else { return };
    LAB.with(|lab| lab.check(name, content));
}

/// One directory after the other.
struct Lab {
    runtime: Runtime,
    parent: TempDir,
}

impl Lab {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        Self { runtime: must(runtime), parent: temporary() }
    }

    fn check(&self, name: &OsStr, content: &[u8]) {
        let directory = self.parent.path().join("attachments");
        let path = directory.join(name);
        must(fs::create_dir(&directory));
        must(fs::write(&path, content));
        let (records, set_aside) = self.open(&directory);
        match (records.as_slice(), set_aside.as_slice()) {
            ([record], []) => self.loaded(&directory, name, record),
            ([], [file]) => {
                assert_eq!(file.path, path);
                assert_set_aside(&path, content, &file.kept_as, [&file.reason, file]);
            }
            ([], []) => assert_passed_over(&path, content),
            more => panic!("from one file: {more:?}"),
        }
        must(fs::remove_dir_all(&directory));
    }

    fn open(&self, directory: &Path) -> (Vec<Attachment>, Vec<SetAside>) {
        self.runtime.block_on(async {
            let (store, set_aside) = must(FileStore::open(directory).await);
            (must(store.list().await), set_aside)
        })
    }

    /// What was read is written under the same name and read as the same.
    fn loaded(&self, directory: &Path, name: &OsStr, record: &Attachment) {
        let path = directory.join(name);
        must(fs::remove_file(&path));
        self.runtime.block_on(async {
            let (store, _) = must(FileStore::open(directory).await);
            must(store.put(record).await);
        });
        assert!(path.exists(), "the record of {} has another name than {}", record.key, name.display());
        assert_eq!(self.open(directory), (vec![record.clone()], vec![]));
    }
}
