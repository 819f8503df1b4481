//! The directory of records: reading it at the start, replacing one file at a time.
//!
//! Each step of a replacement is an event of tracing, at the level of traces:
//! `tests/store_kill.rs` ends the process at every one of them.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, DirEntry, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use tracing::trace;

use super::record::{self, EXTENSION, MAX_BYTES, TEMPORARY_EXTENSION};
use super::{SetAside, failed};
use crate::attachment::{Attachment, AttachmentKey};
use crate::store::StoreError;

/// Who may look at the records: only the agent's user.
const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// An open directory of records.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    /// Holds the lock, and is what is synced after a change of names.
    handle: File,
    medium: Medium,
}

/// What a directory held when it was opened.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) records: BTreeMap<AttachmentKey, Attachment>,
    pub(super) set_aside: Vec<SetAside>,
}

/// What a power loss does to the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Medium {
    /// Takes all of them, synced or not.
    Memory,
    /// Leaves what was synced.
    Disk,
}

impl Directory {
    pub(super) fn open(path: PathBuf) -> Result<(Self, Contents), StoreError> {
        create(&path).map_err(failed("create the directory", &path))?;
        let handle = File::open(&path).map_err(failed("open the directory", &path))?;
        lock(&handle).map_err(failed("lock the directory", &path))?;
        fs::set_permissions(&path, Permissions::from_mode(DIRECTORY_MODE))
            .map_err(failed("set the permissions of", &path))?;
        let medium = Medium::of(&handle).map_err(failed("find out the file system of", &path))?;
        let directory = Self { path, handle, medium };
        let contents = directory.load()?;
        Ok((directory, contents))
    }

    /// Whether no write waits for a medium.
    pub(super) fn is_in_memory(&self) -> bool {
        self.medium == Medium::Memory
    }

    /// Makes the file of `key` hold `new`, or none, in place of `old`. On failure it holds `old` as before.
    pub(super) fn replace(
        &self,
        key: &AttachmentKey,
        old: Option<&Attachment>,
        new: Option<&Attachment>,
    ) -> Result<(), StoreError> {
        let path = self.path.join(record::file_name(key));
        self.place(&path, new)?;
        self.sync().map_err(|error| {
            // The new name is there and may not be durable, but nobody has been told
            // of it yet: take it back. Should that fail too, the first error says why.
            if let Err(error) = self.place(&path, old) {
                tracing::error!(path = %path.display(), "the old record can't be put back: {error}");
            }
            failed("sync the directory", &self.path)(error)
        })
    }

    fn place(&self, path: &Path, attachment: Option<&Attachment>) -> Result<(), StoreError> {
        let Some(attachment) = attachment else {
            return match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
                _ => {
                    trace!(path = %path.display(), "the file is removed");
                    Ok(())
                }
            };
        };
        let bytes = record::encode(attachment).map_err(|error| failed("encode", path)(error.into()))?;
        let temporary = path.with_extension(TEMPORARY_EXTENSION.trim_start_matches('.'));
        self.write_new(&temporary, &bytes).and_then(|()| fs::rename(&temporary, path)).map_err(|error| {
            // What can't be removed now is removed when the store is opened next.
            let _ = fs::remove_file(&temporary);
            failed("write", path)(error)
        })?;
        trace!(path = %path.display(), "the new file is in place");
        Ok(())
    }

    fn write_new(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(FILE_MODE).open(path)?;
        trace!(path = %path.display(), "the new file is made");
        file.write_all(bytes)?;
        trace!(path = %path.display(), "the new file is written");
        if self.medium == Medium::Disk {
            file.sync_all()?;
            trace!(path = %path.display(), "the new file is synced");
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        if self.medium == Medium::Disk {
            self.handle.sync_all()?;
            trace!(path = %self.path.display(), "the directory is synced");
        }
        Ok(())
    }

    fn load(&self) -> Result<Contents, StoreError> {
        let mut contents = Contents::default();
        let entries = fs::read_dir(&self.path)
            .and_then(Iterator::collect::<io::Result<Vec<DirEntry>>>)
            .map_err(failed("list", &self.path))?;
        for entry in entries {
            let (path, name) = (entry.path(), entry.file_name());
            if has_extension(&name, TEMPORARY_EXTENSION) {
                fs::remove_file(&path).map_err(failed("remove the unfinished", &path))?;
            } else if has_extension(&name, EXTENSION) {
                match read(&entry).map_err(failed("read", &path))? {
                    Ok(attachment) => {
                        contents.records.insert(attachment.key.clone(), attachment);
                    }
                    Err(reason) => contents.set_aside.push(self.set_aside(path, reason)?),
                }
            }
        }
        self.sync().map_err(failed("sync the directory", &self.path))?;
        contents.set_aside.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(contents)
    }

    fn set_aside(&self, path: PathBuf, reason: String) -> Result<SetAside, StoreError> {
        // Names of foreign files may be as long as the file system allows; ours are shorter than this.
        const STEM_BYTES: usize = 241;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let end = (0..=STEM_BYTES).rev().find(|&end| name.is_char_boundary(end)).unwrap_or(0);
        let stem = &name[..end];
        let kept_as = (1..=99_999_u32)
            .map(|number| self.path.join(format!("{stem}.corrupt-{number}")))
            .find(|candidate| candidate.symlink_metadata().is_err())
            .ok_or_else(|| io::Error::other("there are 99999 files of that name already, remove some"))
            .map_err(failed("set aside", &path))?;
        fs::rename(&path, &kept_as).map_err(failed("set aside", &path))?;
        let key = record::key_of(&name);
        drop(name);
        Ok(SetAside { path, kept_as, reason, key })
    }
}

impl Medium {
    #[cfg(target_os = "linux")]
    fn of(directory: &File) -> io::Result<Self> {
        // From linux/magic.h.
        const TMPFS_MAGIC: u64 = 0x0102_1994;
        const RAMFS_MAGIC: u64 = 0x8584_58f6;
        // The type of the field differs between architectures; the magic numbers have 32 bits.
        #[allow(clippy::cast_sign_loss, clippy::unnecessary_cast, reason = "see above")]
        let magic = rustix::fs::fstatfs(directory)?.f_type as u64 & 0xffff_ffff;
        Ok(if [TMPFS_MAGIC, RAMFS_MAGIC].contains(&magic) { Self::Memory } else { Self::Disk })
    }

    #[cfg(not(target_os = "linux"))]
    #[allow(clippy::unnecessary_wraps, reason = "it can fail where it asks")]
    fn of(_directory: &File) -> io::Result<Self> {
        Ok(Self::Disk)
    }
}

/// Creates the directory and the ones above it, and makes their names durable.
fn create(path: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = path
        .ancestors()
        .take_while(|ancestor| !ancestor.as_os_str().is_empty() && !ancestor.exists())
        .collect();
    DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(path)?;
    for created in missing {
        let parent = created.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new(".")))?.sync_all()?;
    }
    Ok(())
}

fn lock(directory: &File) -> io::Result<()> {
    rustix::fs::flock(directory, FlockOperation::NonBlockingLockExclusive).map_err(|error| {
        if error == rustix::io::Errno::WOULDBLOCK {
            io::Error::new(
                io::ErrorKind::WouldBlock,
                "another process has it open; stop the other agent or use another directory",
            )
        } else {
            error.into()
        }
    })
}

/// The record in the file, or what is wrong with it.
pub(super) fn read(entry: &DirEntry) -> io::Result<Result<Attachment, String>> {
    // Not following symbolic links: the store makes none.
    let metadata = entry.metadata()?;
    if !metadata.is_file() {
        return Ok(Err("it is not a regular file".to_owned()));
    }
    if metadata.len() > MAX_BYTES {
        return Ok(Err(format!("it has {} bytes, expected at most {MAX_BYTES}", metadata.len())));
    }
    let bytes = fs::read(entry.path())?;
    Ok(record::decode(&entry.file_name().to_string_lossy(), &bytes))
}

pub(super) fn has_extension(name: &OsStr, extension: &str) -> bool {
    name.as_encoded_bytes().ends_with(extension.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance::attachment;

    /// A directory whose changes can't be made durable: the null device refuses fsync(2).
    fn unsyncable(path: &Path) -> Directory {
        Directory { path: path.to_owned(), handle: File::open("/dev/null").unwrap(), medium: Medium::Disk }
    }

    #[test]
    fn a_change_that_is_not_durable_is_taken_back() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = unsyncable(temporary.path());
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

    #[test]
    fn bytes_are_on_the_medium_before_they_have_a_name() {
        let temporary = tempfile::tempdir().unwrap();
        let on_disk = unsyncable(temporary.path());
        // It takes every byte, and refuses fsync(2).
        let null = Path::new("/dev/null");
        on_disk.write_new(null, b"{}").unwrap_err();
        Directory { medium: Medium::Memory, ..on_disk }.write_new(null, b"{}").unwrap();
    }

    #[test]
    fn directories_are_made_with_those_above_them() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("run/flock/attachments");
        let (directory, contents) = Directory::open(path.clone()).unwrap();
        assert!(contents.records.is_empty() && contents.set_aside.is_empty());
        assert_eq!(directory.path, path);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, DIRECTORY_MODE);
    }

    #[test]
    fn a_directory_that_others_could_read_is_closed_to_them() {
        let temporary = tempfile::tempdir().unwrap();
        fs::set_permissions(temporary.path(), Permissions::from_mode(0o755)).unwrap();
        Directory::open(temporary.path().to_owned()).unwrap();
        let mode = fs::metadata(temporary.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, DIRECTORY_MODE);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn memory_is_told_from_disk() {
        // Linux systems have a tmpfs here; /proc is neither of the two kinds of memory.
        assert_eq!(Medium::of(&File::open("/dev/shm").unwrap()).unwrap(), Medium::Memory);
        assert_eq!(Medium::of(&File::open("/proc").unwrap()).unwrap(), Medium::Disk);
    }
}
