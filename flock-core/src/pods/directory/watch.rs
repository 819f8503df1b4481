//! Being woken when something happens in a directory: [`Watch`].

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{ErrorKind, Event, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

/// Events of one moment follow each other faster than this: a file that is written in several
/// pieces, several files that are renamed.
const QUIET: Duration = Duration::from_millis(2);
/// Events that do not end are not waited for any longer.
const GATHER: Duration = Duration::from_millis(20);
/// How often the directory is looked at without any event: a file system on a network tells of
/// none, nor does what a link points to.
const RESCAN: Duration = Duration::from_secs(2);

/// Watches a directory, and its parent, for it may be made or replaced.
///
/// What happened is not told, only that something did: events may be missing, and late.
#[derive(Debug)]
pub(super) struct Watch {
    directory: PathBuf,
    hints: Arc<Hints>,
    armed: Option<Armed>,
}

#[derive(Debug, Default)]
struct Hints {
    something: Notify,
    /// What is watched may not be what is found under that name now.
    moved: AtomicBool,
}

#[derive(Debug)]
struct Armed {
    found: [Option<Identity>; 2],
    watcher: Option<RecommendedWatcher>,
}

#[derive(Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
}

impl Watch {
    /// Watches nothing yet.
    pub(super) fn new(directory: &Path) -> Self {
        let directory = std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned());
        Self { directory, hints: Arc::default(), armed: None }
    }

    /// Waits until it is worth while to look into the directory: at once the first time, then
    /// after an event and those that come with it, or some seconds. Cancel safe.
    pub(super) async fn changed(&self) {
        let something = || self.hints.something.notified();
        if self.armed.is_none() {
            return;
        }
        tokio::select! {
            () = something() => {}
            () = sleep(RESCAN) => return,
        }
        let limit = Instant::now() + GATHER;
        while Instant::now() < limit && timeout(QUIET, something()).await.is_ok() {}
    }

    /// Watches what is found under the directory's name now. To be called before each look
    /// into the directory; blocks.
    ///
    /// The error says why no event will come. A directory that is not there is none: its
    /// parent tells when it comes.
    pub(super) fn arm(&mut self) -> Result<(), notify::Error> {
        let moved = self.hints.moved.swap(false, Ordering::AcqRel);
        let found = [self.directory.parent(), Some(&*self.directory)].map(|path| identity(path?));
        let armed = self.armed.take().filter(|armed| !moved && armed.found == found);
        let watcher = armed.and_then(|armed| armed.watcher).map_or_else(|| self.watcher(), Ok);
        let (watcher, result) = match watcher {
            Ok(watcher) => (Some(watcher), Ok(())),
            Err(error) => (None, Err(error)),
        };
        self.armed = Some(Armed { found, watcher });
        result
    }

    fn watcher(&self) -> Result<RecommendedWatcher, notify::Error> {
        let (hints, directory) = (Arc::clone(&self.hints), self.directory.clone());
        let mut watcher = notify::recommended_watcher(move |event| hints.take(&event, &directory))?;
        // First, so that no directory comes unseen. One that can't be watched leaves that to
        // the next rescan.
        if let Some(parent) = self.directory.parent() {
            let _ = watcher.watch(parent, RecursiveMode::NonRecursive);
        }
        match watcher.watch(&self.directory, RecursiveMode::NonRecursive) {
            Err(error) if !is_missing(&error) => Err(error),
            _ => Ok(watcher),
        }
    }
}

impl Hints {
    fn take(&self, event: &notify::Result<Event>, directory: &Path) {
        let parent = directory.parent();
        match event {
            Ok(event) if !event.need_rescan() && !event.paths.is_empty() => {
                let is_beside = |path: &PathBuf| path != directory && path.parent() == parent;
                if is_mere_access(event.kind) || event.paths.iter().all(is_beside) {
                    return;
                }
                let is_it = |path: &PathBuf| path == directory || Some(&**path) == parent;
                if event.paths.iter().any(is_it) && is_of_names(event.kind) {
                    self.moved.store(true, Ordering::Release);
                }
            }
            // Events were lost.
            Ok(_) | Err(_) => self.moved.store(true, Ordering::Release),
        }
        self.something.notify_one();
    }
}

/// Reading, that of the manifests by Flock as well. Who wrote something closes it.
fn is_mere_access(kind: EventKind) -> bool {
    matches!(kind, EventKind::Access(access) if access != AccessKind::Close(AccessMode::Write))
}

/// Whether what a name stands for may be another thing now.
fn is_of_names(kind: EventKind) -> bool {
    !matches!(kind, EventKind::Access(_) | EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Metadata(_)))
}

fn is_missing(error: &notify::Error) -> bool {
    match &error.kind {
        ErrorKind::PathNotFound => true,
        ErrorKind::Io(error) => error.kind() == io::ErrorKind::NotFound,
        _ => false,
    }
}

fn identity(path: &Path) -> Option<Identity> {
    let found = fs::metadata(path).ok()?;
    Some(Identity { device: found.dev(), inode: found.ino() })
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use notify::event::{CreateKind, DataChange, Flag, MetadataKind, RemoveKind, RenameMode};

    use super::*;

    #[test]
    fn only_what_may_have_changed_a_manifest_wakes() {
        const OPEN: EventKind = EventKind::Access(AccessKind::Open(AccessMode::Any));
        const CLOSED: EventKind = EventKind::Access(AccessKind::Close(AccessMode::Write));
        const CREATED: EventKind = EventKind::Create(CreateKind::File);
        const DATA: EventKind = EventKind::Modify(ModifyKind::Data(DataChange::Any));
        const METADATA: EventKind = EventKind::Modify(ModifyKind::Metadata(MetadataKind::Any));
        const RENAMED: EventKind = EventKind::Modify(ModifyKind::Name(RenameMode::From));
        const REMOVED: EventKind = EventKind::Remove(RemoveKind::Folder);

        for (kind, path, wakes, moves) in [
            // Flock's own look into the directory.
            (OPEN, "/etc/pods", false, false),
            (OPEN, "/etc/pods/web.yaml", false, false),
            (CREATED, "/etc/pods/web.yaml", true, false),
            (DATA, "/etc/pods/web.yaml", true, false),
            (CLOSED, "/etc/pods/web.yaml", true, false),
            (METADATA, "/etc/pods", true, false),
            (RENAMED, "/etc/pods/..data", true, false),
            (RENAMED, "/etc/pods", true, true),
            (REMOVED, "/etc", true, true),
            (RENAMED, "/etc/beside", false, false),
            (CREATED, "/etc/pods.yaml", false, false),
        ] {
            let hints = Hints::default();
            hints.take(&Ok(Event::new(kind).add_path(path.into())), Path::new("/etc/pods"));
            let woken = hints.something.notified().now_or_never().is_some();
            let moved = hints.moved.load(Ordering::Acquire);
            assert_eq!((woken, moved), (wakes, moves), "{kind:?} of {path}");
        }
        for lost in [Ok(Event::new(EventKind::Other).set_flag(Flag::Rescan)), Err(notify::Error::generic(""))]
        {
            let hints = Hints::default();
            hints.take(&lost, Path::new("/etc/pods"));
            assert!(hints.something.notified().now_or_never().is_some(), "{lost:?}");
            assert!(hints.moved.load(Ordering::Acquire), "{lost:?}");
        }
    }
}
