//! The files of a node, as an argument: tests make each step fail.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// A file that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What is in it; of a symbolic link, what is in the file behind it.
    pub bytes: Vec<u8>,
    /// Its permission bits.
    pub mode: u32,
    /// Whether it is a file itself and not a link to one.
    pub is_plain: bool,
}

impl Entry {
    /// Whether it is a file with this content and these permissions.
    pub fn is(&self, bytes: &[u8], mode: u32) -> bool {
        self.is_plain && self.bytes == bytes && self.mode == mode
    }
}

/// What the installer does with files.
pub trait Files {
    /// Makes a directory and those above it, where they are missing.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;
    /// The names in a directory; none if it is not there.
    fn names(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// A file, if there is one.
    fn read(&self, path: &Path) -> io::Result<Option<Entry>>;
    /// Makes a file that was not there, and returns when the medium has it.
    fn write_new(&self, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()>;
    /// Gives a file another name in the same directory, in one step.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Returns when the medium has the names in a directory.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Removes a file; success if it is not there.
    fn remove(&self, path: &Path) -> io::Result<()>;
}

/// The files of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostFiles;

impl Files for HostFiles {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)
    }

    fn names(&self, dir: &Path) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        // The installer's own names are ASCII: what a lossy conversion changes is none of them.
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn read(&self, path: &Path) -> io::Result<Option<Entry>> {
        let kind = match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            metadata => metadata?.file_type(),
        };
        match (fs::read(path), fs::metadata(path)) {
            (Ok(bytes), Ok(metadata)) => {
                let mode = metadata.permissions().mode() & 0o7777;
                Ok(Some(Entry { bytes, mode, is_plain: kind.is_file() }))
            }
            // A link to nowhere is replaced like any other.
            (Err(error), _) if kind.is_symlink() && error.kind() == io::ErrorKind::NotFound => {
                Ok(Some(Entry { bytes: Vec::new(), mode: 0, is_plain: false }))
            }
            (Err(error), _) | (_, Err(error)) => Err(error),
        }
    }

    fn write_new(&self, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        // The mode above is cut by the umask.
        file.set_permissions(Permissions::from_mode(mode))?;
        file.write_all(bytes)?;
        file.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        match fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }
}

/// Runtimes read .conf, .conflist and .json.
const STAGING_EXTENSION: &str = "flock-tmp";

/// Where a file is written before it comes in place: in the same directory, hidden, under
/// a name of its own for each run, so that two runs at once can't mix their bytes.
#[derive(Debug)]
pub(super) struct Staging(PathBuf);

impl Staging {
    pub(super) fn beside(path: &Path) -> Self {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let unique = RandomState::new().hash_one(std::process::id());
        Self(path.with_file_name(format!(".{name}.{unique:016x}.{STAGING_EXTENSION}")))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Whether a file of this name was left by a run that was cut short.
    pub(super) fn is_one(name: &str) -> bool {
        let extension = Path::new(name).extension().and_then(OsStr::to_str);
        name.starts_with('.') && extension == Some(STAGING_EXTENSION)
    }
}
