//! The socket's file: who may have it, and how it comes and goes.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use rustix::io::Errno;
use tokio::net::UnixListener;

use crate::client::{self, ClientError, Deadline};

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
    let file = own_directory(directory)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => Err(BindError::AlreadyServing { socket: socket.to_owned() }),
        Err(error) => Err(io("lock the directory", directory)(error.into())),
    }
}

/// Opens the directory, and leaves it to nobody but this process's user: it may have been
/// made by somebody else, as a kubelet does for a hostPath, with mode 0755.
fn own_directory(path: &Path) -> Result<File, BindError> {
    let refuse = |found: String, advice| Err(BindError::Directory { path: path.to_owned(), found, advice });
    // What is looked at is what is used: a link could point elsewhere by then, and at a
    // directory whose mode is nothing of ours.
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = match open(path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::LOOP | Errno::NOTDIR) => {
            return refuse(
                "is a symbolic link".to_owned(),
                "remove it, or name the directory itself with --run-dir",
            );
        }
        Err(error) => return Err(io("open the directory", path)(error.into())),
    };
    let metadata = file.metadata().map_err(io("look at", path))?;
    let own = rustix::process::geteuid().as_raw();
    let mode = metadata.mode() & 0o7777;
    if metadata.uid() != own {
        return refuse(
            format!("belongs to user {}, expected {own}", metadata.uid()),
            "change its owner, or choose another --run-dir",
        );
    }
    if mode.trailing_zeros() >= 6 {
        // Nobody else has any right.
        return Ok(file);
    }
    if mode & 0o1000 != 0 || is_of_the_system(path) {
        return refuse(
            format!(
                "has the mode {mode:04o} and is used by others too, expected one of Flock's own with mode 0700"
            ),
            "choose another --run-dir",
        );
    }
    tracing::info!(directory = %path.display(), "the run directory had the mode {mode:04o} and has 0700 now");
    file.set_permissions(Permissions::from_mode(mode & 0o700)).map_err(io("set the mode of", path))?;
    Ok(file)
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
