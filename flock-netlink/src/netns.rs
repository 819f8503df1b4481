//! Network namespaces: looking at one, and opening something inside it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use flock_core::attachment::Netns;
use flock_core::dataplane::DataplaneError;
use rustix::fs::{Mode, OFlags, fstat, fstatfs, open};
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::conversation::Conversation;
use crate::worker::Worker;

/// The file system of namespace files (`NSFS_MAGIC` of linux/magic.h).
const NSFS_MAGIC: u64 = 0x6e73_6673;

/// The namespace of the node, to go back to.
#[derive(Debug)]
pub(crate) struct Home {
    file: File,
    device: u64,
    inode: u64,
}

impl Home {
    pub(crate) fn of_this_thread() -> io::Result<Self> {
        let file = File::open("/proc/thread-self/ns/net")?;
        let status = fstat(&file)?;
        Ok(Self { file, device: status.st_dev, inode: status.st_ino })
    }

    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { file: self.file.try_clone()?, device: self.device, inode: self.inode })
    }

    /// Moves the calling thread into this namespace.
    pub(crate) fn return_here(&self) -> io::Result<()> {
        move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))?;
        Ok(())
    }
}

/// A pod's namespace that was opened and found to be the right one.
#[derive(Debug)]
pub(crate) struct Namespace {
    file: File,
}

impl Namespace {
    /// Opens the namespace that an attachment was made for.
    pub(crate) fn open(netns: &Netns) -> Result<Self, DataplaneError> {
        let path = netns.path.as_path();
        let (file, found) = open_namespace_file(path)?;
        if !found.is_same(netns) {
            return Err(DataplaneError::NamespaceChanged { path: path.to_owned() });
        }
        Ok(Self { file })
    }

    pub(crate) fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Worker {
    /// Looks at a path for the first time.
    pub(crate) fn identify(&mut self, path: &Path) -> Result<Netns, DataplaneError> {
        let (file, found) = open_namespace_file(path)?;
        if found.device == self.home.device && found.inode == self.home.inode {
            return Err(not_a_namespace(path, "it is the node's own network namespace"));
        }
        match move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)) {
            Err(Errno::INVAL) => {
                return Err(not_a_namespace(path, "it is a namespace of another kind than network"));
            }
            Err(error) => return Err(cannot_enter(path, error.into())),
            Ok(()) => self.go_home().map_err(|error| cannot_enter(path, error))?,
        }
        Ok(found)
    }

    /// Opens a netlink socket in the pod's namespace.
    pub(crate) fn converse_in(&mut self, namespace: &Namespace) -> io::Result<Conversation> {
        self.inside(namespace, Conversation::open)
    }

    /// Does something short in the pod's namespace.
    pub(crate) fn inside<T>(
        &mut self,
        namespace: &Namespace,
        action: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        let result = action();
        self.go_home()?;
        result
    }

    fn go_home(&mut self) -> io::Result<()> {
        let returned = self.home.return_here();
        self.lost = returned.is_err();
        returned
    }
}

fn open_namespace_file(path: &Path) -> Result<(File, Netns), DataplaneError> {
    let unreadable = |error: io::Error, what: &str| match error.kind() {
        io::ErrorKind::NotFound => not_a_namespace(path, "there is no such file"),
        // That says nothing about the file, and passes.
        _ if is_shortage(&error) => cannot_enter(path, error),
        _ => not_a_namespace(path, &format!("it can't be {what}: {error}")),
    };
    // What the path names is looked up once, and everything further is done with what was
    // found: the path may name something else a moment later. It is found without being
    // opened, which may take for ever (a pipe) or set something off (a device).
    let found = open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| unreadable(error.into(), "looked at"))?;
    let file_system = fstatfs(&found).map_err(|error| unreadable(error.into(), "looked at"))?;
    if u64::try_from(file_system.f_type) != Ok(NSFS_MAGIC) {
        return Err(not_a_namespace(path, "it is not a namespace file, but one of another file system"));
    }
    // This link leads to the file itself, whatever has become of its path.
    let file = File::open(format!("/proc/thread-self/fd/{}", found.as_raw_fd()))
        .map_err(|error| unreadable(error, "opened"))?;
    let status = fstat(&file).map_err(|error| unreadable(error.into(), "looked at"))?;
    Ok((file, Netns { path: path.to_owned(), device: status.st_dev, inode: status.st_ino }))
}

fn is_shortage(error: &io::Error) -> bool {
    [Errno::MFILE, Errno::NFILE, Errno::NOMEM]
        .iter()
        .any(|errno| Some(errno.raw_os_error()) == error.raw_os_error())
}

fn not_a_namespace(path: &Path, reason: &str) -> DataplaneError {
    DataplaneError::NotANamespace { path: path.to_owned(), reason: reason.to_owned() }
}

fn cannot_enter(path: &Path, source: io::Error) -> DataplaneError {
    DataplaneError::Kernel {
        action: format!("let us enter the network namespace {}", path.display()),
        source,
    }
}
