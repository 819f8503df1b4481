//! What is in a directory of records, without opening it as a store.

use std::collections::BTreeMap;
use std::fs::{self, DirEntry};
use std::io;
use std::path::{Path, PathBuf};

use super::StoreError;
use super::directory::read;
use super::record::key_of;
use crate::attachment::{Attachment, AttachmentKey};
use crate::directory::{EXTENSION, TEMPORARY_EXTENSION, failed, has_extension, name_before};

/// The files of a directory of records, looked at and left as they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contents {
    /// What can be read.
    pub records: BTreeMap<AttachmentKey, Attachment>,
    /// Files with a record's extension that are none.
    pub unreadable: Vec<Unreadable>,
    /// What an interrupted write left.
    pub unfinished: Vec<PathBuf>,
    /// What was set aside at an earlier start.
    pub set_aside: Vec<Kept>,
}

/// A file that should be a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// Where it is.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
    /// Whose record it should be, by its name; `None` if that is no record's name.
    pub key: Option<AttachmentKey>,
}

/// A file that was set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Where it is now.
    pub path: PathBuf,
    /// Whose record it was, by its old name; `None` if that is no record's name.
    pub key: Option<AttachmentKey>,
}

impl Contents {
    /// A file of `key` that was set aside, where no record has taken its place.
    pub fn kept_of(&self, key: &AttachmentKey) -> Option<&Kept> {
        let kept = self.set_aside.iter().find(|kept| kept.key.as_ref() == Some(key));
        kept.filter(|_| !self.records.contains_key(key))
    }

    /// Looks at `directory`, also while a store has it open.
    pub(super) fn read(directory: &Path) -> Result<Self, StoreError> {
        let mut contents = Self::default();
        let mut entries = fs::read_dir(directory)
            .and_then(Iterator::collect::<io::Result<Vec<DirEntry>>>)
            .map_err(failed("list", directory))?;
        entries.sort_by_key(DirEntry::file_name);
        for entry in entries {
            contents.add(&entry);
        }
        Ok(contents)
    }

    fn add(&mut self, entry: &DirEntry) {
        let (path, name) = (entry.path(), entry.file_name());
        if has_extension(&name, TEMPORARY_EXTENSION) {
            self.unfinished.push(path);
        } else if has_extension(&name, EXTENSION) {
            let reason = match read(entry) {
                Ok(Ok(attachment)) => {
                    self.records.insert(attachment.key.clone(), attachment);
                    return;
                }
                Ok(Err(reason)) => reason,
                // It was deleted since the directory was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => return,
                Err(error) => error.to_string(),
            };
            let key = key_of(&name.to_string_lossy());
            self.unreadable.push(Unreadable { path, reason, key });
        } else if let Some(before) = name_before(&name.to_string_lossy()) {
            self.set_aside.push(Kept { path, key: key_of(before) });
        }
    }
}
