//! A drain of the node as the agent keeps it: what the next agent has to know ([`Kept`]), and how
//! BIRD ends while the node shuts down ([`Farewell`]).

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use flock_bird::BirdAnnouncer;
use flock_core::announcer::AnnounceError;
use flock_core::drain::{DrainPhase, DrainReason, DrainRecord, Draining};
use flock_core::handler::Handler;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::agent::remembered::{replace, replace_by};

/// How long BIRD is given at the end of a drain to take what is to be said last.
const LAST_WORD: Duration = Duration::from_secs(5);
/// How soon it is looked again whether the time is over.
const LOOK: Duration = Duration::from_millis(250);

/// The file with which an agent tells the next one of a drain.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    path: PathBuf,
}

impl Kept {
    pub(super) fn of_run_dir(run_dir: &Path) -> Self {
        Self { path: run_dir.join("drain.json") }
    }

    /// What the last agent has told, if it did.
    pub(super) fn read(&self) -> Option<DrainRecord> {
        let text = match std::fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "whether the node was drained is not known");
                return None;
            }
        };
        serde_json::from_str(&text)
            .inspect_err(|error| {
                tracing::warn!(path = %self.path.display(), %error, "whether the node was drained can't be read");
            })
            .ok()
    }

    /// Keeps up with the drain until `stopping` is ready.
    pub(super) async fn keep_up(self, handler: Arc<Handler>, stopping: impl Future<Output = ()>) {
        let mut draining = handler.draining();
        let mut stopping = std::pin::pin!(stopping);
        loop {
            draining.borrow_and_update();
            self.write(handler.drain_record()).await;
            tokio::select! {
                () = &mut stopping => return,
                // The sender is the handler's, which is here.
                _ = draining.changed() => {}
            }
        }
    }

    async fn write(&self, record: DrainRecord) {
        let path = self.path.clone();
        let written = tokio::task::spawn_blocking(move || replace(&path, &record)).await;
        if let Err(error) = written.unwrap_or_else(|error| Err(io::Error::other(error))) {
            tracing::warn!(path = %self.path.display(), %error, "a drain can't be kept for the next agent");
        }
    }
}

/// What BIRD is to do when it is ended: usually it leaves without a word and comes back. While the
/// node shuts down it does not come back, so it first has to say what a drain says.
///
/// The file `shutdown` beside BIRD's control socket is there while the node shuts down. It holds
/// the phase of the drain, and `Withdrawn` not before BIRD has withdrawn everything.
#[derive(Debug)]
pub(super) struct Farewell {
    path: PathBuf,
    said: watch::Sender<Option<DrainPhase>>,
}

impl Farewell {
    pub(super) fn beside(bird_socket: &Path) -> Self {
        Self { path: bird_socket.with_file_name("shutdown"), said: watch::Sender::new(None) }
    }

    /// Keeps the file as it should be until `stopping` is ready.
    pub(super) async fn keep_up(
        &self,
        handler: Arc<Handler>,
        bird: Option<Arc<BirdAnnouncer>>,
        stopping: impl Future<Output = ()>,
    ) {
        let mut draining = handler.draining();
        let mut stopping = std::pin::pin!(stopping);
        if !shuts_down(draining.borrow().as_ref()) {
            // An earlier agent's may be there.
            self.say(None);
        }
        loop {
            let leaves = shuts_down(draining.borrow_and_update().as_ref());
            let phase = handler.drain_phase().filter(|_| leaves);
            if phase != *self.said.borrow()
                && (phase != Some(DrainPhase::Withdrawn) || silent(&handler, bird.as_deref()).await)
            {
                self.say(phase);
            }
            let waits = leaves && *self.said.borrow() != Some(DrainPhase::Withdrawn);
            tokio::select! {
                () = &mut stopping => return,
                _ = draining.changed() => {}
                () = sleep(LOOK), if waits => {}
            }
        }
    }

    /// Ready when nothing more is to be said before the agent ends: at once, unless the node
    /// shuts down.
    pub(super) async fn said(&self, handler: &Handler) {
        let (mut said, mut draining) = (self.said.subscribe(), handler.draining());
        let mut told = false;
        while shuts_down(draining.borrow_and_update().as_ref())
            && *said.borrow_and_update() != Some(DrainPhase::Withdrawn)
        {
            if !std::mem::replace(&mut told, true) {
                tracing::info!("the node shuts down: stopping once nothing is announced any more");
            }
            tokio::select! {
                // The senders are this one's and the handler's.
                _ = said.changed() => {}
                _ = draining.changed() => {}
            }
        }
    }

    fn say(&self, phase: Option<DrainPhase>) {
        let done = match phase {
            // At once: BIRD's pod may look at any moment.
            Some(phase) => replace_by(&self.path, format!("{phase}\n").as_bytes()),
            None => match std::fs::remove_file(&self.path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                done => done,
            },
        };
        if let Err(error) = done {
            tracing::warn!(path = %self.path.display(), %error, "BIRD can't be told that the node shuts down");
        }
        self.said.send_replace(phase);
    }
}

fn shuts_down(draining: Option<&Draining>) -> bool {
    draining.is_some_and(|draining| draining.reasons.contains(&DrainReason::Shutdown))
}

/// Whether BIRD has taken that nothing is announced.
async fn silent(handler: &Handler, bird: Option<&BirdAnnouncer>) -> bool {
    if let Err(error) = handler.publish().await {
        tracing::warn!(%error, "the node shuts down, and what it announces is not known");
        return false;
    }
    if handler.announced_drain() != Some(DrainPhase::Withdrawn) {
        // Somebody has logged why.
        return false;
    }
    match bird {
        // One that is away announces nothing, and begins with what it finds.
        Some(bird) => matches!(
            timeout(LAST_WORD, bird.applied()).await,
            Ok(Ok(()) | Err(AnnounceError::Unreachable { .. }))
        ),
        None => true,
    }
}

#[cfg(test)]
mod tests;
