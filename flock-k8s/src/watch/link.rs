//! Whether a watch stands: [`Link`], and [`WatchHealth`] for others.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// How a watch is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchHealth {
    /// Whether everything has been listed at least once. What is known since then is kept
    /// while the API server is away.
    pub synced: bool,
    /// Whether the watch stands, so that changes come.
    pub connected: bool,
    /// How often the watch, or the list before it, failed and was tried again. The end that
    /// each watch comes to after about a minute is no failure.
    pub restarts: u64,
    /// For how long it has been failing.
    pub failing_for: Option<Duration>,
    /// What failed last, in words, while it is failing.
    pub error: Option<String>,
}

/// The state of a watch, which the watch writes and others wait for.
#[derive(Debug, Clone)]
pub(crate) struct Link(Arc<watch::Sender<State>>);

/// What is known of the API server.
#[derive(Debug, Clone)]
pub(crate) struct State {
    pub(crate) synced: bool,
    /// Since when the watch stands, or one after the other.
    connected: Option<Instant>,
    restarts: u64,
    pub(crate) failing: Option<Failing>,
}

#[derive(Debug, Clone)]
pub(crate) struct Failing {
    since: Instant,
    error: Arc<str>,
}

impl Failing {
    /// Since when, and why.
    pub(crate) fn words(&self) -> String {
        let seconds = self.since.elapsed().as_secs();
        format!("the API server has not been heard for {seconds} s: {}", self.error)
    }
}

impl Link {
    /// Not connected yet.
    pub(crate) fn new() -> Self {
        let state = State { synced: false, connected: None, restarts: 0, failing: None };
        Self(Arc::new(watch::Sender::new(state)))
    }

    /// Everything was listed; no watch yet.
    pub(super) fn listed(&self) {
        self.0.send_if_modified(|state| !std::mem::replace(&mut state.synced, true));
    }

    /// A watch stands. It may have nothing to say for as long as it lasts.
    pub(super) fn established(&self) {
        self.0.send_if_modified(|state| {
            if let Some(failing) = state.failing.take() {
                let seconds = failing.since.elapsed().as_secs();
                tracing::info!(after_s = seconds, "the API server is heard again");
            }
            let news = state.connected.is_none();
            state.connected.get_or_insert_with(Instant::now);
            news
        });
    }

    /// It could not be made, or broke. Said once, until it stands again. Says for how long it stood.
    pub(super) fn failed(&self, what: &str, error: String) -> Duration {
        let mut stood = Duration::ZERO;
        self.0.send_modify(|state| {
            stood = state.connected.take().map_or(stood, |since| since.elapsed());
            state.restarts += 1;
            let error: Arc<str> = error.into();
            if let Some(failing) = &mut state.failing {
                tracing::debug!(%error, "the watch of the {what} still fails");
                failing.error = error;
            } else {
                tracing::warn!(%error, "the watch of the {what} failed, trying again");
                state.failing = Some(Failing { since: Instant::now(), error });
            }
        });
        stood
    }

    /// For waiting.
    pub(crate) fn subscribe(&self) -> watch::Receiver<State> {
        self.0.subscribe()
    }

    /// For others.
    pub(crate) fn health(&self) -> WatchHealth {
        let state = self.0.borrow();
        WatchHealth {
            synced: state.synced,
            connected: state.connected.is_some(),
            restarts: state.restarts,
            failing_for: state.failing.as_ref().map(|failing| failing.since.elapsed()),
            error: state.failing.as_ref().map(|failing| failing.error.to_string()),
        }
    }

    /// Until everything was listed once.
    pub(crate) async fn synced(&self) {
        // The sender lives as long as `self`.
        let _ = self.subscribe().wait_for(|state| state.synced).await;
    }
}
