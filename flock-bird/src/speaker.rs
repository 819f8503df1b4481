//! Bringing a configuration to BIRD: checked, put in place, taken.

use std::sync::Arc;

use async_trait::async_trait;
use flock_core::announcer::AnnounceError;

use crate::control::{Client, ControlError, Reply};
use crate::file::{ConfigFile, Staged};
use crate::verdict;

/// Where configurations go. Tests have another one than [`Speaker`].
#[async_trait]
pub(crate) trait Target: Send + 'static {
    /// Makes `text` the configuration, or changes nothing.
    async fn apply(&mut self, text: &Arc<str>) -> Result<(), AnnounceError>;

    /// Whatever BIRD said before, the next `apply` is to tell it.
    fn forget(&mut self);
}

/// One BIRD and its file.
///
/// A configuration comes in place only after BIRD found nothing wrong with it. Where
/// nobody listens it comes in place unchecked, so that a BIRD that starts later
/// starts with it; if that BIRD refuses it after all, what was there before returns.
///
/// It has no `Debug`: configurations hold passwords.
pub(crate) struct Speaker {
    file: ConfigFile,
    client: Client,
    /// What BIRD said it has taken.
    taken: Option<Arc<str>>,
    /// What was in place before an unchecked configuration.
    fallback: Option<Vec<u8>>,
}

impl Speaker {
    pub(crate) fn new(file: ConfigFile, client: Client) -> Self {
        Self { file, client, taken: None, fallback: None }
    }

    async fn replace(&mut self, text: &Arc<str>, in_place: Option<Vec<u8>>) -> Result<(), AnnounceError> {
        let file = self.file.clone();
        let bytes = Arc::clone(text);
        let staged = blocking(move || file.stage(bytes.as_bytes())).await?;
        match self.check(&staged, text).await {
            Ok(()) => self.fallback = None,
            Err(AnnounceError::Unreachable { .. }) => {
                self.fallback = self.fallback.take().or(in_place);
            }
            Err(error) => return Err(error),
        }
        self.taken = None;
        blocking(move || staged.commit()).await
    }

    async fn check(&self, staged: &Staged, text: &str) -> Result<(), AnnounceError> {
        let staged_path = staged.staging_path().display().to_string();
        let reply = self.ask(&format!("configure check \"{staged_path}\"")).await?;
        verdict::of_check(&reply, text).map_err(|error| match error {
            AnnounceError::Refused { message } => {
                let path = self.file.path().display().to_string();
                AnnounceError::Refused { message: message.replace(&staged_path, &path) }
            }
            error => error,
        })
    }

    async fn configure(&mut self, text: &Arc<str>) -> Result<(), AnnounceError> {
        // The path is named since a BIRD that was started with another file would read that one.
        let reply = self.ask(&format!("configure \"{}\"", self.file.path().display())).await?;
        let outcome = verdict::of_configure(&reply, text, self.client.socket());
        match &outcome {
            Ok(()) => {
                self.taken = Some(Arc::clone(text));
                self.fallback = None;
            }
            Err(AnnounceError::Refused { .. }) => {
                if let Some(before) = self.fallback.take() {
                    let file = self.file.clone();
                    blocking(move || file.stage(&before)?.commit()).await?;
                }
            }
            Err(_) => {}
        }
        outcome
    }

    async fn ask(&self, command: &str) -> Result<Reply, AnnounceError> {
        self.client.ask(command).await.map_err(|error| match error {
            ControlError::Unreachable { socket, reason } => {
                AnnounceError::Unreachable { endpoint: socket.display().to_string(), reason }
            }
            ControlError::Timeout { socket, after } => AnnounceError::Timeout {
                endpoint: socket.display().to_string(),
                seconds: after.as_secs() + u64::from(after.subsec_nanos() > 0),
            },
            error @ (ControlError::Protocol { .. } | ControlError::Command { .. }) => {
                AnnounceError::Backend(error.to_string())
            }
        })
    }
}

#[async_trait]
impl Target for Speaker {
    async fn apply(&mut self, text: &Arc<str>) -> Result<(), AnnounceError> {
        let file = self.file.clone();
        let in_place = blocking(move || file.read()).await?;
        if in_place.as_deref() != Some(text.as_bytes()) {
            self.replace(text, in_place).await?;
        } else if self.taken.as_ref() == Some(text) {
            return Ok(());
        }
        self.configure(text).await
    }

    fn forget(&mut self) {
        self.taken = None;
    }
}

/// Files are written and synced off the threads that serve requests.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, AnnounceError> + Send + 'static,
) -> Result<T, AnnounceError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => {
            Err(AnnounceError::Backend(format!("writing the configuration was cut short: {error}")))
        }
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests;
