//! A speaker that tells nobody.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use super::{AnnounceError, Announcements, RouteAnnouncer};

/// Keeps the wanted state in memory, where a test or another component can look at it.
///
/// A clone is another handle to the same state.
#[derive(Debug, Clone, Default)]
pub struct MemoryAnnouncer {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    announced: Option<Announcements>,
    changes: u64,
    failures: VecDeque<AnnounceError>,
}

impl MemoryAnnouncer {
    /// Announces nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// What is announced: the last state that was accepted, with its peers ordered.
    pub fn announced(&self) -> Option<Announcements> {
        self.state().announced.clone()
    }

    /// How many calls changed something.
    pub fn changes(&self) -> u64 {
        self.state().changes
    }

    /// Lets a coming call fail with `error` and change nothing. Several errors are taken one after the other.
    pub fn fail_next(&self, error: AnnounceError) {
        self.state().failures.push_back(error);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl RouteAnnouncer for MemoryAnnouncer {
    async fn sync(&self, wanted: &Announcements) -> Result<(), AnnounceError> {
        let mut wanted = wanted.clone();
        wanted.peers.sort_by(|one, other| one.name.cmp(&other.name));
        let mut state = self.state();
        if let Some(error) = state.failures.pop_front() {
            return Err(error);
        }
        if state.announced.as_ref() != Some(&wanted) {
            state.announced = Some(wanted);
            state.changes += 1;
        }
        Ok(())
    }
}
