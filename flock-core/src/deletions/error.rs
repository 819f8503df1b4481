//! Why a deletion could not be queued, or the queue not be read.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::CAPACITY;
use crate::cni::{self, Code};
use crate::directory::Failure;

/// Why the queue can't be used.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// As many wait as may.
    #[error("the queue {} is full: {CAPACITY} deletions wait there already", .path.display())]
    Full {
        /// The queue.
        path: PathBuf,
    },
    /// Another process had it all the time.
    #[error("another process has had the queue {} locked for {limit:?}", .path.display())]
    Busy {
        /// The queue.
        path: PathBuf,
        /// How long it was waited for.
        limit: Duration,
    },
    /// Not even what the run directory is in is there.
    #[error("the run directory {} can't be made: the directory above it does not exist", .run_dir.display())]
    NoRunDir {
        /// The run directory.
        run_dir: PathBuf,
    },
    /// Whether the deletion will still be of this boot can't be told.
    #[error("can't read which boot this is from {file}: {0}", file = crate::boot::ID_FILE)]
    BootId(#[source] io::Error),
    /// The medium refused.
    #[error("can't {action} {}: {source}", .path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

impl QueueError {
    /// What to do.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::Full { .. } => "start flock-agent on this node, which empties it",
            Self::Busy { .. } => "end the flock process that is stuck with it",
            Self::NoRunDir { .. } => "check \"runDir\" in the network configuration",
            Self::BootId(_) => "mount /proc",
            Self::Io { .. } => "the run directory must be writable and have space",
        }
    }
}

impl From<Failure> for QueueError {
    fn from(Failure { action, path, source }: Failure) -> Self {
        Self::Io { action, path, source }
    }
}

/// What a runtime is told where neither the agent nor the queue took a deletion.
pub fn not_queued(agent: &cni::Error, queue: &cni::Error) -> cni::Error {
    cni::Error {
        code: queue.code,
        msg: format!("{}, and the deletion can't be queued: {}", agent.msg, queue.msg),
        details: format!("{}; for the queue: {}", agent.details, queue.details),
    }
}

/// The runtime comes again: what could not be queued now may be deleted then.
impl From<QueueError> for cni::Error {
    fn from(error: QueueError) -> Self {
        Self::new(Code::TRY_AGAIN_LATER, error.to_string(), error.advice())
    }
}
