//! The contract of the durable record, [`Store`].

use std::fmt;
use std::io;
use std::path::PathBuf;

use async_trait::async_trait;

use crate::attachment::{Attachment, AttachmentKey};
use crate::retry::Retry;

#[cfg(feature = "conformance")]
pub mod conformance;
mod file;
mod memory;

pub use file::{Contents, FileStore, Kept, SetAside, Unreadable};
pub use memory::MemoryStore;

/// Keeps attachments so that they survive the death of the process at any instruction.
///
/// # Contract
///
/// - **Atomic**: after a crash in the middle of [`put`](Self::put) or
///   [`delete`](Self::delete) the record is either the old one or the new one.
/// - **Durable**: what a call has returned success for is there after the process
///   is killed, and after a power loss where the medium survives one.
/// - **Ordered**: calls for one key take effect in the order they return; calls
///   for different keys do not wait for each other's medium.
/// - **Failing calls change nothing**: [`get`](Self::get) answers as before.
/// - **Idempotent**: deleting what is not there is success.
/// - **Nothing is thrown away**: a record that can't be read is set aside where a
///   person can look at it, reported, and does not hide the others.
#[cfg_attr(feature = "mocks", mockall::automock)]
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// Writes `attachment` under its key, in place of the one that was there.
    async fn put(&self, attachment: &Attachment) -> Result<(), StoreError>;

    /// The record of `key`, if there is one.
    async fn get(&self, key: &AttachmentKey) -> Result<Option<Attachment>, StoreError>;

    /// Forgets `key`.
    async fn delete(&self, key: &AttachmentKey) -> Result<(), StoreError>;

    /// All records, ordered by key.
    async fn list(&self) -> Result<Vec<Attachment>, StoreError>;
}

/// Why a record could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The medium refused.
    #[error("can't {action} {}: {source}{}", .path.display(), hint(.source))]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A backend without files failed.
    #[error("the record of attachments: {0}")]
    Backend(String),
}

impl StoreError {
    /// A full or failing disk may be mended without a change of the request.
    pub fn retry(&self) -> Retry {
        Retry::Later
    }
}

fn hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull => "; free some space there, nothing was changed",
        io::ErrorKind::PermissionDenied => "; is the agent running as root?",
        io::ErrorKind::ReadOnlyFilesystem => "; the run directory must be writable",
        _ => "",
    }
}
