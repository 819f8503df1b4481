//! Draining the node: what is announced is marked first, and withdrawn after a time.

use std::future::Future;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::sleep;

use crate::drain::{DrainPhase, DrainReason, DrainRecord, Draining};
use crate::handler::{Change, Handler};

/// The drain, if there is one.
#[derive(Debug)]
pub(super) struct Drain {
    draining: watch::Sender<Option<Draining>>,
    /// Since when this handler knows of it: the wall clock may be set back.
    known: Mutex<Instant>,
    /// Nothing was announced since the boot.
    fresh: bool,
    /// The phase that went into what was announced last, or was to be.
    told: Mutex<Option<DrainPhase>>,
}

impl Drain {
    /// Goes on with what an earlier agent of this boot has left.
    pub(super) fn new(record: Option<&DrainRecord>, boot_id: &str, now: Instant) -> Self {
        let record = record.filter(|record| record.boot_id == boot_id);
        let draining = record.and_then(|record| record.draining.clone());
        Self {
            draining: watch::Sender::new(draining),
            known: Mutex::new(now),
            fresh: record.is_none(),
            told: Mutex::default(),
        }
    }

    /// The announcer is told of this phase.
    pub(super) fn tell(&self, phase: Option<DrainPhase>) {
        *lock(&self.told) = phase;
    }
}

impl Handler {
    /// Drains the node for `reason`, or no longer does. The first reason begins a drain and the last
    /// one ends it. What follows from it is done by [`run_drain`](Self::run_drain).
    ///
    /// The NodeConfig's own word ([`Bgp::drain`](crate::node_config::Bgp::drain)) is taken up with
    /// the NodeConfig.
    pub fn set_drain(&self, reason: DrainReason, wanted: bool) {
        let fresh = self.drain.fresh && !self.is_published();
        let now = if fresh { 0 } else { self.backends.clock.unix_ms() };
        self.drain.draining.send_if_modified(|draining| {
            if !wanted {
                let Some(going_on) = draining else { return false };
                let changed = going_on.reasons.remove(&reason);
                if going_on.reasons.is_empty() {
                    *draining = None;
                }
                return changed;
            }
            let begin = || {
                *lock(&self.drain.known) = self.backends.clock.now();
                Draining { since_ms: now, reasons: [].into() }
            };
            draining.get_or_insert_with(begin).reasons.insert(reason)
        });
    }

    /// The drain that goes on, now and at each change.
    pub fn draining(&self) -> watch::Receiver<Option<Draining>> {
        self.drain.draining.subscribe()
    }

    /// How far the drain is, where there is one.
    pub fn drain_phase(&self) -> Option<DrainPhase> {
        let left = self.drain_left()?;
        Some(if left.is_zero() { DrainPhase::Withdrawn } else { DrainPhase::Marked })
    }

    /// How long it is until everything is withdrawn, where there is a drain.
    fn drain_left(&self) -> Option<Duration> {
        let draining = self.drain.draining.borrow();
        let (draining, time) = (draining.as_ref()?, self.drain_time());
        let clock = &self.backends.clock;
        let known = clock.now().saturating_duration_since(*lock(&self.drain.known));
        Some(draining.left(clock.unix_ms(), time).min(time.saturating_sub(known)))
    }

    /// What the next agent of this boot is to be given
    /// ([`Settings::drain`](super::Settings::drain)).
    pub fn drain_record(&self) -> DrainRecord {
        DrainRecord { boot_id: self.settings.boot_id.clone(), draining: self.drain.draining.borrow().clone() }
    }

    /// Announces what follows from a drain until `shutdown` is ready: everything with
    /// GRACEFUL_SHUTDOWN (RFC 8326) at its beginning, nothing after the time that the NodeConfig sets,
    /// everything as usual at its end.
    pub async fn run_drain(&self, shutdown: impl Future<Output = ()>) {
        let mut shutdown = pin!(shutdown);
        let mut draining = self.draining();
        let mut said = None;
        loop {
            let now = draining.borrow_and_update().clone();
            let phase = self.drain_phase();
            if phase != said {
                self.say(phase, now.as_ref());
                said = phase;
            }
            if phase != *lock(&self.drain.told) {
                self.announce(Change::Gain).await;
            }
            let marked = self.drain_left().filter(|left| !left.is_zero());
            tokio::select! {
                () = &mut shutdown => return,
                // The sender is this handler's.
                _ = draining.changed() => {}
                () = sleep(marked.unwrap_or_default()), if marked.is_some() => {}
            }
        }
    }

    fn say(&self, phase: Option<DrainPhase>, draining: Option<&Draining>) {
        let reasons: Vec<_> =
            draining.iter().flat_map(|draining| &draining.reasons).map(ToString::to_string).collect();
        let reasons = reasons.join(", ");
        match phase {
            Some(DrainPhase::Marked) => tracing::info!(
                reasons,
                withdrawn_after_s = self.drain_time().as_secs(),
                "the node is drained: announcements carry GRACEFUL_SHUTDOWN and the least preference"
            ),
            Some(DrainPhase::Withdrawn) => {
                tracing::info!(reasons, "the node is drained: nothing is announced, sessions stay");
            }
            None => tracing::info!("the node is drained no longer: everything is announced"),
        }
    }

    /// Has those who follow the drain look again: how long it takes may have changed.
    pub(super) fn take_up_drain(&self) {
        let wanted = self.node().config.bgp.as_ref().is_some_and(|bgp| bgp.drain);
        self.set_drain(DrainReason::NodeConfig, wanted);
        self.drain.draining.send_modify(|_| {});
    }

    fn drain_time(&self) -> Duration {
        self.node().config.bgp.as_ref().map(|bgp| bgp.drain_time).unwrap_or_default()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
