//! The socket's file: who may have it, and how it comes and goes.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Dir, FlockOperation, Mode, OFlags, flock, open};
use rustix::io::Errno;
use tokio::net::UnixListener;

use crate::client::{self, ClientError, Deadline};
use crate::excerpt;

/// Why a server can't listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody else does.
    #[error(
        "another flock-agent is already serving {}: stop it first, or give this one another --run-dir",
        .socket.display()
    )]
    AlreadyServing {
        /// Where.
        socket: PathBuf,
    },
    /// The name is taken by something else.
    #[error("{} exists and is not a socket: remove it, or choose another --run-dir", .path.display())]
    NotASocket {
        /// What is in the way.
        path: PathBuf,
    },
    /// The directory is not the agent's alone, and must not be made so.
    #[error("the run directory {} {found}: {advice}", .path.display())]
    Directory {
        /// Which one.
        path: PathBuf,
        /// What was found.
        found: String,
        /// What to do.
        advice: &'static str,
    },
    /// The system refused.
    #[error("can't {action} {}: {source}", .path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// The file of a socket that this process listens on.
#[derive(Debug)]
pub(super) struct Socket {
    path: PathBuf,
    inode: (u64, u64),
    /// Held locked for as long as the server lives; the kernel unlocks it however the
    /// process ends. Two agents that start at once can't both take a stale socket over.
    _directory: File,
}

/// Keeps agents from using a run directory, until it is dropped or the process ends.
#[derive(Debug)]
pub struct Claim {
    _directory: File,
}

impl Claim {
    /// Takes the run directory that holds `socket`; fails while an agent uses it.
    pub fn of(socket: &Path) -> Result<Self, BindError> {
        Ok(Self { _directory: locked_directory(socket)? })
    }
}

/// What is in a run directory beside the socket, and the directory's own two names.
const OWN_NAMES: [&str; 9] = [
    ".",
    "..",
    "attachments",
    "deletions",
    "node-config.json",
    "passwords.json",
    "bird",
    "bird.ctl",
    "bird.started",
];

/// A live agent accepts at once; one with a full queue is alive as well.
const PROBE: Duration = Duration::from_millis(500);

impl Socket {
    pub(super) fn bind(path: PathBuf) -> Result<(Self, UnixListener), BindError> {
        let directory = locked_directory(&path)?;
        remove_stale(&path)?;
        let listener = UnixListener::bind(&path).map_err(io("listen on", &path))?;
        fs::set_permissions(&path, Permissions::from_mode(0o600)).map_err(io("set the mode of", &path))?;
        let inode = inode(&path).map_err(io("look at", &path))?;
        Ok((Self { path, inode, _directory: directory }, listener))
    }

    /// Removes the file, unless it is another one by now.
    pub(super) fn remove(&self) {
        if inode(&self.path).is_ok_and(|found| found == self.inode) {
            // What can't be removed is replaced by the next agent.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn locked_directory(socket: &Path) -> Result<File, BindError> {
    let directory = match socket.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(io("create the directory", directory))?;
    let file = opened(directory)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Err(BindError::AlreadyServing { socket: socket.to_owned() }),
        Err(error) => return Err(io("lock the directory", directory)(error.into())),
    }
    close_to_others(&file, directory, socket.file_name())?;
    Ok(file)
}

fn refused<T>(path: &Path, found: String, advice: &'static str) -> Result<T, BindError> {
    Err(BindError::Directory { path: path.to_owned(), found, advice })
}

/// The directory itself, if it is this process's user's.
fn opened(path: &Path) -> Result<File, BindError> {
    // What is looked at is what is used: a link could point elsewhere by then, and at a
    // directory whose mode is nothing of ours.
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = match open(path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::LOOP | Errno::NOTDIR) => {
            let advice = "remove it, or name the directory itself with --run-dir";
            return refused(path, "is a symbolic link".to_owned(), advice);
        }
        Err(error) => return Err(io("open the directory", path)(error.into())),
    };
    let owner = file.metadata().map_err(io("look at", path))?.uid();
    let own = rustix::process::geteuid().as_raw();
    if owner != own {
        let found = format!("belongs to user {owner}, expected {own}");
        return refused(path, found, "change its owner, or choose another --run-dir");
    }
    Ok(file)
}

/// Leaves the directory to nobody but its owner: it may have been made by somebody else, as a
/// kubelet does for a hostPath, with mode 0755. One that is used by others too is not changed:
/// who names /var/lib by mistake must not lose the system.
fn close_to_others(directory: &File, path: &Path, socket: Option<&OsStr>) -> Result<(), BindError> {
    let mode = directory.metadata().map_err(io("look at", path))?.mode() & 0o7777;
    if mode.trailing_zeros() >= 6 {
        // Nobody else has any right.
        return Ok(());
    }
    if mode & 0o1000 != 0 || is_of_the_system(path) {
        let found = format!(
            "has the mode {mode:04o} and is used by others too, expected one of Flock's own with mode 0700"
        );
        return refused(path, found, "choose another --run-dir");
    }
    if let Some(foreign) = foreign_entry(directory, socket).map_err(io("list the directory", path))? {
        let found = format!(
            "has the mode {mode:04o} and holds {}, expected nothing that is not Flock's, or the mode 0700",
            excerpt::quoted(&foreign.to_string_lossy())
        );
        return refused(path, found, "choose another --run-dir, or set the mode if nobody else uses it");
    }
    tracing::info!(directory = %path.display(), "the run directory had the mode {mode:04o} and has 0700 now");
    directory.set_permissions(Permissions::from_mode(mode & 0o700)).map_err(io("set the mode of", path))
}

/// Something in the directory that neither Flock nor its BIRD puts there.
fn foreign_entry(directory: &File, socket: Option<&OsStr>) -> io::Result<Option<OsString>> {
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if Some(name) != socket && !OWN_NAMES.iter().any(|own| name == *own) {
            return Ok(Some(name.to_owned()));
        }
    }
    Ok(None)
}

/// Whether it is one like /run: whoever names that by mistake must not lose the system.
fn is_of_the_system(path: &Path) -> bool {
    fs::canonicalize(path).map_or(true, |path| path.components().count() <= 2)
}

fn remove_stale(path: &Path) -> Result<(), BindError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io("look at", path)(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(BindError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    // Somebody who serves without holding the lock, not an agent of this release.
    match client::connect(path, Deadline::after(PROBE)) {
        Err(ClientError::NotRunning { .. }) => {
            fs::remove_file(path).map_err(io("remove the stale socket", path))
        }
        _ => Err(BindError::AlreadyServing { socket: path.to_owned() }),
    }
}

fn inode(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BindError {
    let path = path.to_owned();
    move |source| BindError::Io { action, path, source }
}
