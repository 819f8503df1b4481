//! A directory of small files that outlive the process: for its user only, locked by
//! one process at a time, each file replaced as a whole.
//!
//! A file is written under a temporary name, synced and renamed. On a file system that
//! lives in memory (tmpfs, ramfs) nothing is synced, because nothing there survives a
//! power loss and everything survives the process.
//!
//! Each step is an event of tracing, at the level of traces: `tests/steps` ends the
//! process at every one of them.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, DirEntry, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use tracing::trace;

mod fault;

use fault::step;

#[cfg(test)]
pub(crate) use fault::{inject, steps};

/// What every file's name ends with.
pub(crate) const EXTENSION: &str = ".json";

/// What a name ends with while its file is written.
pub(crate) const TEMPORARY_EXTENSION: &str = ".json.tmp";

/// Between the old name of a file that was set aside and a number.
const SET_ASIDE: &str = ".corrupt-";

/// Who may look at the files: only the user that they belong to.
const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// What could not be done with a file or the directory.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What was tried, as a verb.
    pub(crate) action: &'static str,
    /// With what.
    pub(crate) path: PathBuf,
    /// The system's answer.
    pub(crate) source: io::Error,
}

pub(crate) fn failed<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Failure + 'a {
    move |source| Failure { action, path: path.to_owned(), source }
}

/// An open directory.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    /// Holds the lock, and is what is synced after a change of names.
    handle: File,
    medium: Medium,
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
    /// Opens `path`, which is made where it is missing, with the directories above it.
    pub(crate) fn open(path: PathBuf) -> Result<Self, Failure> {
        step().and_then(|()| create(&path)).map_err(failed("create the directory", &path))?;
        let handle = File::open(&path).map_err(failed("open the directory", &path))?;
        step()
            .and_then(|()| fs::set_permissions(&path, Permissions::from_mode(DIRECTORY_MODE)))
            .map_err(failed("set the permissions of", &path))?;
        let medium = Medium::of(&handle).map_err(failed("find out the file system of", &path))?;
        trace!(path = %path.display(), "the directory is there");
        Ok(Self { path, handle, medium })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Locks it (flock(2)) until this value is dropped or the process ends; `false` if
    /// another one has it.
    pub(crate) fn try_lock(&self) -> Result<bool, Failure> {
        let locked = rustix::fs::flock(&self.handle, FlockOperation::NonBlockingLockExclusive);
        match step().and(locked.map_err(io::Error::from)) {
            Ok(()) => {
                trace!(path = %self.path.display(), "the directory is locked");
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(failed("lock the directory", &self.path)(error)),
        }
    }

    /// Whether no write waits for a medium.
    pub(crate) fn is_in_memory(&self) -> bool {
        self.medium == Medium::Memory
    }

    /// Makes the file at `path` hold `bytes`; whoever reads sees what it held before, or
    /// these. The name is durable after the next [`sync`](Self::sync).
    pub(crate) fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), Failure> {
        let temporary = path.with_extension(TEMPORARY_EXTENSION.trim_start_matches('.'));
        self.write_new(&temporary, bytes)
            .and_then(|()| step())
            .and_then(|()| fs::rename(&temporary, path))
            .map_err(|error| {
            // What can't be removed now is removed when the directory is read next.
            let _ = fs::remove_file(&temporary);
            failed("write", path)(error)
        })?;
        trace!(path = %path.display(), "the new file is in place");
        Ok(())
    }

    fn write_new(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        step()?;
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(FILE_MODE).open(path)?;
        trace!(path = %path.display(), "the new file is made");
        step()?;
        file.write_all(bytes)?;
        trace!(path = %path.display(), "the new file is written");
        if self.medium == Medium::Disk {
            step()?;
            file.sync_all()?;
            trace!(path = %path.display(), "the new file is synced");
        }
        Ok(())
    }

    /// Makes the names durable.
    pub(crate) fn sync(&self) -> Result<(), Failure> {
        if self.medium == Medium::Disk {
            step().and_then(|()| self.handle.sync_all()).map_err(failed("sync the directory", &self.path))?;
            trace!(path = %self.path.display(), "the directory is synced");
        }
        Ok(())
    }

    /// The complete files, those that a crash left unfinished having been removed. Names
    /// that this module does not make are left alone.
    pub(crate) fn files(&self) -> Result<Vec<DirEntry>, Failure> {
        let mut files = fs::read_dir(&self.path)
            .and_then(Iterator::collect::<io::Result<Vec<DirEntry>>>)
            .map_err(failed("list", &self.path))?;
        for unfinished in files.iter().filter(|file| has_extension(&file.file_name(), TEMPORARY_EXTENSION)) {
            let path = unfinished.path();
            step().and_then(|()| fs::remove_file(&path)).map_err(failed("remove the unfinished", &path))?;
            trace!(path = %path.display(), "an unfinished file is removed");
        }
        files.retain(|file| has_extension(&file.file_name(), EXTENSION));
        Ok(files)
    }

    /// The old names of all files that were set aside, now or earlier.
    pub(crate) fn set_aside_before(&self) -> Result<Vec<String>, Failure> {
        let files = fs::read_dir(&self.path)
            .and_then(Iterator::collect::<io::Result<Vec<DirEntry>>>)
            .map_err(failed("list", &self.path))?;
        let names = files.iter().map(|file| file.file_name().to_string_lossy().into_owned());
        Ok(names.filter_map(|name| name_before(&name).map(str::to_owned)).collect())
    }

    /// Gives `path` a name under which nothing reads or replaces it, and returns that.
    pub(crate) fn set_aside(&self, path: &Path) -> Result<PathBuf, Failure> {
        // Names of foreign files may be as long as the file system allows; ours are shorter than this.
        const STEM_BYTES: usize = 241;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let end = (0..=STEM_BYTES).rev().find(|&end| name.is_char_boundary(end)).unwrap_or(0);
        let stem = &name[..end];
        let kept_as = (1..=99_999_u32)
            .map(|number| self.path.join(format!("{stem}{SET_ASIDE}{number}")))
            .find(|candidate| candidate.symlink_metadata().is_err())
            .ok_or_else(|| io::Error::other("there are 99999 files of that name already, remove some"))
            .map_err(failed("set aside", path))?;
        fs::rename(path, &kept_as).map_err(failed("set aside", path))?;
        Ok(kept_as)
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

/// Removes the file at `path`, durably after the next [`sync`](Directory::sync). None is success.
pub(crate) fn remove(path: &Path) -> Result<(), Failure> {
    match step().and_then(|()| fs::remove_file(path)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => {
            trace!(path = %path.display(), "the file is removed");
            Ok(())
        }
    }
}

/// The bytes of a file, or what is wrong with it.
pub(crate) fn read(file: &DirEntry, max_bytes: u64) -> io::Result<Result<Vec<u8>, String>> {
    // Not following symbolic links: nobody here makes any.
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Ok(Err("it is not a regular file".to_owned()));
    }
    if metadata.len() > max_bytes {
        return Ok(Err(format!("it has {} bytes, expected at most {max_bytes}", metadata.len())));
    }
    fs::read(file.path()).map(Ok)
}

/// What a file was called before it was set aside; `None` of one that never was.
pub(crate) fn name_before(name: &str) -> Option<&str> {
    let (before, number) = name.rsplit_once(SET_ASIDE)?;
    number.parse::<u32>().ok().map(|_| before)
}

pub(crate) fn has_extension(name: &OsStr, extension: &str) -> bool {
    name.as_encoded_bytes().ends_with(extension.as_bytes())
}

#[cfg(test)]
impl Directory {
    /// Its changes can't be made durable: the null device refuses fsync(2).
    pub(crate) fn unsyncable(path: &Path) -> Self {
        Self { path: path.to_owned(), handle: File::open("/dev/null").unwrap(), medium: Medium::Disk }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_on_the_medium_before_they_have_a_name() {
        let temporary = tempfile::tempdir().unwrap();
        let on_disk = Directory::unsyncable(temporary.path());
        // It takes every byte, and refuses fsync(2).
        let null = Path::new("/dev/null");
        on_disk.write_new(null, b"{}").unwrap_err();
        Directory { medium: Medium::Memory, ..on_disk }.write_new(null, b"{}").unwrap();
    }

    #[test]
    fn directories_are_made_with_those_above_them() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("run/flock/attachments");
        let directory = Directory::open(path.clone()).unwrap();
        assert!(directory.files().unwrap().is_empty());
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
