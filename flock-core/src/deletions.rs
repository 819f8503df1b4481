//! Deletions that wait for an agent. A DEL must succeed where no agent runs: the plugin
//! queues it here, and the next agent carries it out before it serves an ADD. An agent that
//! listens and knows nothing of its node yet queues a DEL as well.
//!
//! The queue is a directory `deletions` in the run directory, with one file for each
//! deletion, `<sequence>-<hash of the attachment>.json`:
//!
//! ```text
//! {"version": 1, "deletion": {"key": {"container": "…", "interface": "eth0"},
//!  "pod": {…}, "bootId": "…", "queuedMs": 1700000000000}}
//! ```
//!
//! - A file is written under a temporary name, synced where the directory is on a disk,
//!   and renamed: whoever dies on the way leaves the whole entry or none.
//! - The order is that of the sequence numbers; clocks jump.
//! - An attachment that waits already is not queued again. At most [`CAPACITY`] wait.
//! - What is no valid entry is renamed to `….corrupt-N` and told; it holds up nothing.
//!
//! # How plugin and agent exclude each other
//!
//! The directory's lock (flock(2)) makes "no agent listens" and "the queue was read" one
//! after the other, never at once:
//!
//! ```text
//! plugin  finds nobody listening → locks → looks once more, without waiting
//!         → still nobody: writes, unlocks      → somebody: unlocks, asks the agent
//! agent   listens → has a handler → locks → reads the queue, unlocks → carries it out → serves
//!   a DEL meanwhile: finds no handler → locks → looks once more
//!         → still none: writes, unlocks        → there is one: unlocks, has it carried out
//! ```
//!
//! Whoever has the lock after the agent read the queue finds the agent listening, and the
//! agent itself its handler, so that nothing is queued behind its back. The kernel lets go of the
//! lock however its holder ends, and nobody holds it while waiting for the other side.
//!
//! ```
//! # let run = tempfile::tempdir()?;
//! # let run_dir = run.path().join("flock");
//! use std::time::Duration;
//!
//! use flock_core::attachment::AttachmentKey;
//! use flock_core::client::Deadline;
//! use flock_core::deletions::{Deletion, DeletionQueue};
//! use flock_core::name::{ContainerId, InterfaceName};
//!
//! let queue = DeletionQueue::of_run_dir(&run_dir);
//! let key = AttachmentKey::new(ContainerId::new("0123456789ab")?, InterfaceName::new("eth0")?);
//! let deletion = Deletion { key, pod: None, boot_id: "this boot".into(), queued_ms: 0 };
//! queue.lock(Deadline::after(Duration::from_secs(1)))?.push(&deletion)?;
//!
//! let waiting = queue.lock(Deadline::after(Duration::from_secs(1)))?.waiting()?;
//! assert_eq!(waiting.entries[0].deletion, deletion);
//! waiting.entries[0].remove()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::attachment::AttachmentKey;
use crate::boot;
use crate::client::Deadline;
use crate::clock::{Clock, SystemClock};
use crate::directory::{self, Directory, failed};
use crate::excerpt;
use crate::name::PodKey;

mod entry;
mod error;

pub use error::{QueueError, not_queued};

/// How many deletions can wait.
pub const CAPACITY: usize = 10_000;

/// The queue's name in the run directory.
const DIRECTORY_NAME: &str = "deletions";

/// How often the lock is tried again: flock(2) waits without a limit or not at all.
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(16);

/// A DEL that was not carried out yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Deletion {
    /// What is to be deleted.
    pub key: AttachmentKey,
    /// Whose it is, where the runtime said so. For people only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodKey>,
    /// The boot in which it was queued ([`boot::id`]). In another one,
    /// there is nothing left to be deleted.
    pub boot_id: String,
    /// When it was queued, in milliseconds since 1970. For people only.
    pub queued_ms: u64,
}

impl Deletion {
    /// Of what exists now. Fails if the boot can't be told.
    pub fn of_this_boot(key: AttachmentKey, pod: Option<PodKey>) -> Result<Self, QueueError> {
        let boot_id = boot::id().map_err(QueueError::BootId)?;
        Ok(Self { key, pod, boot_id, queued_ms: SystemClock.unix_ms() })
    }

    /// Whether doing one does the other.
    fn is_same(&self, other: &Self) -> bool {
        self.key == other.key && self.boot_id == other.boot_id
    }
}

/// Where deletions wait. Nothing is touched before it is locked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeletionQueue {
    run_dir: PathBuf,
    path: PathBuf,
}

/// The queue while nobody else has it; dropping it lets others in.
#[derive(Debug)]
pub struct LockedQueue {
    directory: Directory,
}

/// What a queue holds.
#[derive(Debug, Default)]
pub struct Waiting {
    /// In the order in which they were queued.
    pub entries: Vec<QueuedDeletion>,
    /// Files that were no entries and got another name.
    pub set_aside: Vec<SetAside>,
}

/// A deletion and the file that holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueuedDeletion {
    /// What it says.
    pub deletion: Deletion,
    path: PathBuf,
}

/// A file that is no valid entry and was renamed so that the rest could be carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} is not a valid queued deletion: {reason}; it was kept as {} and the others are carried out; \
     `flock-agent` finds an attachment without a container by itself",
    excerpt::line(&.path.display()), excerpt::line(&.kept_as.display())
)]
pub struct SetAside {
    /// The name it had.
    pub path: PathBuf,
    /// The name it has now.
    pub kept_as: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

impl DeletionQueue {
    /// The queue of the agent with this run directory. A relative one is found in what is the working
    /// directory now.
    pub fn of_run_dir(run_dir: &Path) -> Self {
        let run_dir = std::path::absolute(run_dir).unwrap_or_else(|_| run_dir.to_owned());
        Self { path: run_dir.join(DIRECTORY_NAME), run_dir }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All that waits, in order, for whoever only wants to know. Nothing is locked and nothing is
    /// changed: what is no entry is passed over, what others just take out may be missing or not.
    ///
    /// Fails only if the directory can't be listed; one that is not there is empty.
    pub fn inspect(&self) -> Result<Vec<QueuedDeletion>, QueueError> {
        let mut files = match fs::read_dir(&self.path).and_then(Iterator::collect::<io::Result<Vec<_>>>) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            files => files.map_err(failed("list", &self.path))?,
        };
        files.sort_by_key(fs::DirEntry::file_name);
        let entries = files.iter().filter_map(|file| {
            entry::read(file).ok().map(|deletion| QueuedDeletion { deletion, path: file.path() })
        });
        Ok(entries.collect())
    }

    /// Waits until nobody else has the queue, no longer than until `deadline`. It is made
    /// (mode 0700) where it is missing, and the run directory as well if what it is in is there.
    pub fn lock(&self, deadline: Deadline) -> Result<LockedQueue, QueueError> {
        if !self.run_dir.parent().is_some_and(Path::exists) {
            return Err(QueueError::NoRunDir { run_dir: self.run_dir.clone() });
        }
        let directory = Directory::open(self.path.clone())?;
        let mut pause = SHORTEST_PAUSE;
        while !directory.try_lock()? {
            let remaining = deadline.remaining();
            if remaining.is_zero() {
                return Err(QueueError::Busy { path: self.path.clone(), limit: deadline.limit() });
            }
            thread::sleep(pause.min(remaining));
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        Ok(LockedQueue { directory })
    }
}

impl LockedQueue {
    /// Queues `deletion`, unless its attachment waits already. It is durable when this returns.
    pub fn push(&self, deletion: &Deletion) -> Result<(), QueueError> {
        let files = self.directory.files()?;
        let named: Vec<_> =
            files.iter().filter_map(|file| Some((entry::Name::of(&file.file_name())?, file))).collect();
        let waits_already = named.iter().any(|(name, file)| {
            name.is_of(&deletion.key) && entry::read(file).is_ok_and(|waiting| waiting.is_same(deletion))
        });
        if waits_already {
            // Whoever queued it may have died before it was durable.
            return Ok(self.directory.sync()?);
        }
        if named.len() >= CAPACITY {
            return Err(QueueError::Full { path: self.directory.path().to_owned() });
        }
        let last = named.into_iter().map(|(name, _)| name.sequence).max().unwrap_or(0);
        let name = entry::Name::after(last, &deletion.key);
        let path = self.directory.path().join(name.to_string());
        let bytes = entry::encode(deletion).map_err(|error| failed("encode", &path)(error.into()))?;
        self.directory.write(&path, &bytes)?;
        Ok(self.directory.sync()?)
    }

    /// All that waits, in order. Files that are no entries are set aside and logged as warnings.
    pub fn waiting(&self) -> Result<Waiting, QueueError> {
        let mut files = self.directory.files()?;
        // Numbers have leading zeros.
        files.sort_by_key(fs::DirEntry::file_name);
        let mut waiting = Waiting::default();
        for file in files {
            let path = file.path();
            match entry::read(&file) {
                Ok(deletion) => waiting.entries.push(QueuedDeletion { deletion, path }),
                Err(reason) => match self.directory.set_aside(&path) {
                    Ok(kept_as) => {
                        let set_aside = SetAside { path, kept_as, reason };
                        tracing::warn!(path = %set_aside.path.display(), "{set_aside}");
                        waiting.set_aside.push(set_aside);
                    }
                    // It is looked at again at the next start; the others must not wait for it.
                    Err(failure) => tracing::error!(
                        path = %path.display(), reason, "{}", QueueError::from(failure)
                    ),
                },
            }
        }
        Ok(waiting)
    }
}

impl QueuedDeletion {
    /// The file that holds it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes it out of the queue. It is not synced: what a power loss would bring back is
    /// of another boot then.
    pub fn remove(&self) -> Result<(), QueueError> {
        Ok(directory::remove(&self.path)?)
    }
}

#[cfg(test)]
mod tests;
