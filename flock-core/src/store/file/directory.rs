//! The directory of records: reading it at the start, replacing one file at a time.

use std::collections::BTreeMap;
use std::fs::DirEntry;
use std::io;
use std::path::{Path, PathBuf};

use super::SetAside;
use super::record::{self, MAX_BYTES};
use crate::attachment::{Attachment, AttachmentKey};
use crate::directory::{self, Failure, failed};
use crate::store::StoreError;

/// An open directory of records.
#[derive(Debug)]
pub(super) struct Directory(directory::Directory);

/// What a directory held when it was opened.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) records: BTreeMap<AttachmentKey, Attachment>,
    pub(super) set_aside: Vec<SetAside>,
    /// Attachments of which there are only files that were set aside, now or earlier.
    pub(super) unreadable: Vec<AttachmentKey>,
}

impl From<Failure> for StoreError {
    fn from(Failure { action, path, source }: Failure) -> Self {
        Self::Io { action, path, source }
    }
}

impl Directory {
    pub(super) fn open(path: PathBuf) -> Result<(Self, Contents), StoreError> {
        let directory = directory::Directory::open(path)?;
        if !directory.try_lock()? {
            let source = io::Error::new(
                io::ErrorKind::WouldBlock,
                "another process has it open; stop the other agent or use another directory",
            );
            return Err(failed("lock the directory", directory.path())(source).into());
        }
        let directory = Self(directory);
        let contents = directory.load()?;
        Ok((directory, contents))
    }

    /// Whether no write waits for a medium.
    pub(super) fn is_in_memory(&self) -> bool {
        self.0.is_in_memory()
    }

    /// Makes the file of `key` hold `new`, or none, in place of `old`. On failure it holds `old` as before.
    pub(super) fn replace(
        &self,
        key: &AttachmentKey,
        old: Option<&Attachment>,
        new: Option<&Attachment>,
    ) -> Result<(), StoreError> {
        let path = self.0.path().join(record::file_name(key));
        self.place(&path, new)?;
        self.0.sync().map_err(|failure| {
            // The new name is there and may not be durable, but nobody has been told
            // of it yet: take it back. Should that fail too, the first error says why.
            if let Err(error) = self.place(&path, old) {
                tracing::error!(path = %path.display(), "the old record can't be put back: {error}");
            }
            failure.into()
        })
    }

    fn place(&self, path: &Path, attachment: Option<&Attachment>) -> Result<(), StoreError> {
        let Some(attachment) = attachment else { return Ok(directory::remove(path)?) };
        let bytes = record::encode(attachment).map_err(|error| failed("encode", path)(error.into()))?;
        Ok(self.0.write(path, &bytes)?)
    }

    fn load(&self) -> Result<Contents, StoreError> {
        let mut contents = Contents::default();
        for file in self.0.files()? {
            let path = file.path();
            match read(&file).map_err(failed("read", &path))? {
                Ok(attachment) => {
                    contents.records.insert(attachment.key.clone(), attachment);
                }
                Err(reason) => contents.set_aside.push(self.set_aside(path, reason)?),
            }
        }
        self.0.sync()?;
        let set_aside = self.0.set_aside_before()?;
        contents.unreadable = set_aside.iter().filter_map(|name| record::key_of(name)).collect();
        contents.unreadable.retain(|key| !contents.records.contains_key(key));
        contents.unreadable.sort_unstable();
        contents.unreadable.dedup();
        contents.set_aside.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(contents)
    }

    fn set_aside(&self, path: PathBuf, reason: String) -> Result<SetAside, StoreError> {
        let kept_as = self.0.set_aside(&path)?;
        Ok(SetAside { path, kept_as, reason })
    }
}

/// The record in the file, or what is wrong with it.
pub(super) fn read(file: &DirEntry) -> io::Result<Result<Attachment, String>> {
    let bytes = directory::read(file, MAX_BYTES)?;
    Ok(bytes.and_then(|bytes| record::decode(&file.file_name().to_string_lossy(), &bytes)))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::store::conformance::attachment;

    #[test]
    fn a_change_that_is_not_durable_is_taken_back() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = Directory(directory::Directory::unsyncable(temporary.path()));
        let (old, new) = (attachment("a", "eth0", 1), attachment("a", "eth0", 2));
        let path = temporary.path().join("a@eth0.json");

        directory.replace(&new.key, None, Some(&new)).unwrap_err();
        assert!(!path.exists(), "a new record stayed");

        fs::write(&path, record::encode(&old).unwrap()).unwrap();
        for change in [Some(&new), None] {
            let error = directory.replace(&old.key, Some(&old), change).unwrap_err().to_string();
            assert!(error.starts_with("can't sync the directory "), "{error}");
            assert_eq!(fs::read(&path).unwrap(), record::encode(&old).unwrap());
        }
        assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 1);
    }
}
