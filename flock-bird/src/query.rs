//! Asking BIRD for something that it lists, and what can come of it.

use flock_core::excerpt;

use crate::control::{Client, ControlError, Reply};

/// Why BIRD can't tell something.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// BIRD gave no reply.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// BIRD does not know what was asked for: its configuration is not the one that Flock writes.
    #[error(
        "BIRD does not answer {command:?}: {message}; does it run with the configuration that flock-agent writes?"
    )]
    Refused {
        /// What it was asked.
        command: String,
        /// Its own words, as an [`excerpt`].
        message: String,
    },
}

/// The rows of a listing in their order. Releases of BIRD differ, and one row that can't be read
/// does not hide the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rows<T> {
    /// Those that could be read.
    pub known: Vec<T>,
    /// The others, as BIRD wrote them.
    pub unknown: Vec<String>,
}

impl<T> Default for Rows<T> {
    fn default() -> Self {
        Self { known: Vec::new(), unknown: Vec::new() }
    }
}

/// The reply to `command`, which is a success.
pub(crate) async fn ask(client: &Client, command: &str) -> Result<Reply, QueryError> {
    let reply = client.ask(command).await?;
    if reply.is_success() {
        return Ok(reply);
    }
    let message = excerpt::line(reply.text()).to_string();
    Err(QueryError::Refused { command: command.to_owned(), message })
}
