//! One file per attachment: [`FileStore`].
//!
//! The directory holds, for each attachment, one file named
//! `<container>@<interface>.json`. The first `@` divides the two, since a
//! container id never holds one; bytes of the interface's name other than ASCII
//! letters, digits, `-`, `_` and `.` are written as `%XX`. So the mapping from
//! keys to names is injective, and the longest name has 241 bytes of the 255 that
//! file systems allow.
//!
//! - A record is written to `….json.tmp`, synced and renamed, and then the
//!   directory is synced: whoever reads sees the old record or the new one. On a
//!   file system that lives in memory (tmpfs, ramfs) nothing is synced, because
//!   nothing there survives a power loss and everything survives the process.
//! - What a crash leaves of a temporary file is removed at the next
//!   [`open`](FileStore::open).
//! - A file `*.json` that is no valid record is renamed to `….corrupt-N` and told
//!   as [`SetAside`]. It is never overwritten and never read again, until a person
//!   mends it and gives it its old name back. Other files are left alone.
//! - A file that can't be read at all (an I/O error, missing permission) makes
//!   `open` fail: to go on without that record would give its address away again.
//!
//! A record is JSON, `{"version": 1, "attachment": {…}}`. A reader ignores keys
//! that it doesn't know; a change that an older reader would misunderstand takes
//! a new version number.

mod contents;
mod directory;
mod record;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

pub use self::contents::{Contents, Kept, Unreadable};
use self::directory::Directory;
use super::{Store, StoreError};
use crate::attachment::{Attachment, AttachmentKey};
use crate::excerpt;
use crate::locks::KeyedLocks;

/// Records that survive the death of the process at any instruction, one file each.
///
/// [`get`](Store::get) and [`list`](Store::list) answer from memory;
/// [`put`](Store::put) and [`delete`](Store::delete) return when the medium has
/// it. Clones are handles to the same store. The directory belongs to one store at
/// a time: it is locked (flock(2)) until the last handle is dropped or the process ends.
///
/// # Cancel safety
///
/// A call that is dropped before it is ready either has not begun or runs to its
/// end; a later call for the same key comes after it.
///
/// # Example
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let run = tempfile::tempdir()?;
/// # let directory = run.path().join("attachments");
/// use flock_core::store::{FileStore, Store};
///
/// let (store, set_aside) = FileStore::open(&directory).await?;
/// for file in &set_aside {
///     eprintln!("{file}");
/// }
/// for attachment in store.list().await? {
///     println!("{} is {:?}", attachment.owner(), attachment.state);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct FileStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    directory: Directory,
    records: Mutex<BTreeMap<AttachmentKey, Attachment>>,
    turns: Arc<KeyedLocks>,
    unreadable: Vec<AttachmentKey>,
}

/// A file that is no valid record and was renamed so that the rest could be loaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} is not a valid record of an attachment: {reason}; it was kept as {} and the other records were loaded; \
     to use it again, mend it, give it its old name back and start again",
    excerpt::line(&.path.display()), excerpt::line(&.kept_as.display())
)]
pub struct SetAside {
    /// The name it had.
    pub path: PathBuf,
    /// The name it has now.
    pub kept_as: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

impl FileStore {
    /// Loads the records in `directory`, which is created where it is missing.
    ///
    /// Fails if the directory can't be used or a file in it can't be read, and if
    /// another store has the directory open. Files that can be read but are no
    /// records are set aside, logged as warnings and returned.
    pub async fn open(directory: impl AsRef<Path>) -> Result<(Self, Vec<SetAside>), StoreError> {
        let path = directory.as_ref().to_owned();
        blocking(move || {
            let (directory, contents) = Directory::open(path)?;
            for file in &contents.set_aside {
                tracing::warn!(path = %file.path.display(), "{file}");
            }
            let shared = Shared {
                directory,
                records: Mutex::new(contents.records),
                turns: Arc::default(),
                unreadable: contents.unreadable,
            };
            Ok((Self { shared: Arc::new(shared) }, contents.set_aside))
        })
        .await
    }

    /// Looks at the files in `directory` and leaves them as they are; a store may have it open.
    ///
    /// Fails only if the directory can't be listed. Blocks for as long as the medium takes.
    pub fn inspect(directory: impl AsRef<Path>) -> Result<Contents, StoreError> {
        Contents::read(directory.as_ref())
    }

    /// Attachments that had no record when the directory was opened, but a file that was set
    /// aside, then or by an earlier start that may have ended before it did anything about it.
    pub fn unreadable(&self) -> &[AttachmentKey] {
        &self.shared.unreadable
    }

    /// Makes the record of `key` be `new`, on the medium and then in memory.
    async fn write(&self, key: AttachmentKey, new: Option<Attachment>) -> Result<(), StoreError> {
        let turn = self.shared.turns.lock(&key).await;
        let shared = Arc::clone(&self.shared);
        let in_memory = shared.directory.is_in_memory();
        let work = move || {
            // The turn ends with this closure, not with the future that a caller may
            // drop; and after the handle, so that whose turn is next is alone with it.
            let _turn = turn;
            let shared = shared;
            let old = shared.records().get(&key).cloned();
            shared.directory.replace(&key, old.as_ref(), new.as_ref())?;
            match new {
                Some(attachment) => shared.records().insert(key, attachment),
                None => shared.records().remove(&key),
            };
            Ok(())
        };
        // Where nothing is synced, a write takes less time than handing it to another
        // thread and back.
        if in_memory { work() } else { blocking(work).await }
    }
}

#[async_trait]
impl Store for FileStore {
    async fn put(&self, attachment: &Attachment) -> Result<(), StoreError> {
        self.write(attachment.key.clone(), Some(attachment.clone())).await
    }

    async fn get(&self, key: &AttachmentKey) -> Result<Option<Attachment>, StoreError> {
        Ok(self.shared.records().get(key).cloned())
    }

    async fn delete(&self, key: &AttachmentKey) -> Result<(), StoreError> {
        self.write(key.clone(), None).await
    }

    async fn list(&self) -> Result<Vec<Attachment>, StoreError> {
        Ok(self.shared.records().values().cloned().collect())
    }
}

impl Shared {
    fn records(&self) -> MutexGuard<'_, BTreeMap<AttachmentKey, Attachment>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(StoreError::Backend(format!("the thread that writes it failed: {error}"))),
    }
}
