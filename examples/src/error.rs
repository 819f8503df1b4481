//! What can go wrong in a lab.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// The result of whatever a lab does.
pub type Result<T, E = LabError> = std::result::Result<T, E>;

/// Why a lab can't be built, or does not do what was expected of it.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// A program is not installed, not built or not executable.
    #[error("can't run {program}: {source}; {hint}")]
    Start {
        /// As it was called.
        program: String,
        /// The system's answer.
        source: io::Error,
        /// What to do.
        hint: &'static str,
    },
    /// A command ended badly.
    #[error("`{command}` ended with {status}: {output}")]
    Failed {
        /// As one would type it.
        command: String,
        /// Its exit status or signal.
        status: String,
        /// What it said, on both streams.
        output: String,
    },
    /// A condition did not come true in time.
    #[error("{what} was expected within {limit:?} but did not happen{last}")]
    Timeout {
        /// The condition.
        what: String,
        /// How long was waited.
        limit: Duration,
        /// The last thing that was seen instead, if anything.
        last: String,
    },
    /// A file can't be read or written.
    #[error("can't {action} {}: {source}", .path.display())]
    File {
        /// A verb.
        action: &'static str,
        /// Which one.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Private namespaces are not to be had.
    #[error(
        "can't make private namespaces: {reason}; run this as root, or allow user namespaces \
         (sysctl kernel.unprivileged_userns_clone=1, and where AppArmor restricts them \
         kernel.apparmor_restrict_unprivileged_userns=0)"
    )]
    NoNamespaces {
        /// What unshare said.
        reason: String,
    },
    /// Something is there, but it is not what it should be.
    #[error("{0}")]
    Unexpected(String),
}

impl LabError {
    /// For `map_err` on calls that work on a file.
    pub fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }
}
