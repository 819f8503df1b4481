//! Records in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use super::{Store, StoreError};
use crate::attachment::{Attachment, AttachmentKey};

/// Records that live as long as the last handle to them.
///
/// A clone is another handle to the same records: what a test keeps of a store
/// that it gave away, and what "opens" the store again after a restart that is
/// only played.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore {
    records: Arc<Mutex<BTreeMap<AttachmentKey, Attachment>>>,
}

impl MemoryStore {
    /// Without any record.
    pub fn new() -> Self {
        Self::default()
    }

    fn records(&self) -> MutexGuard<'_, BTreeMap<AttachmentKey, Attachment>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn put(&self, attachment: &Attachment) -> Result<(), StoreError> {
        self.records().insert(attachment.key.clone(), attachment.clone());
        Ok(())
    }

    async fn get(&self, key: &AttachmentKey) -> Result<Option<Attachment>, StoreError> {
        Ok(self.records().get(key).cloned())
    }

    async fn delete(&self, key: &AttachmentKey) -> Result<(), StoreError> {
        self.records().remove(key);
        Ok(())
    }

    async fn list(&self) -> Result<Vec<Attachment>, StoreError> {
        Ok(self.records().values().cloned().collect())
    }
}
