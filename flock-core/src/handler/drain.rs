//! Draining the node: what is announced is marked first, and withdrawn after a time.

use std::future::Future;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::sleep;

use crate::clock::Clock;
use crate::drain::{DrainPhase, DrainReason, DrainRecord, Draining};
use crate::handler::{Change, Handler};

/// The drain, if there is one.
#[derive(Debug)]
pub(super) struct Drain {
    draining: watch::Sender<Option<Draining>>,
    /// Since when it goes on. Its lock is taken within that of `draining`.
    begun: Mutex<Begun>,
    /// Nothing was announced since the boot.
    fresh: bool,
    /// The phase that went into what was announced last.
    told: Mutex<Option<DrainPhase>>,
}

/// When a drain began, by the clock that nobody sets: a drain neither ends sooner nor is begun anew
/// where somebody sets the other one.
#[derive(Debug, Clone, Copy)]
struct Begun {
    at: Instant,
    /// How long it had gone on by then.
    before: Duration,
}

impl Begun {
    fn elapsed(self, now: Instant) -> Duration {
        self.before.saturating_add(now.saturating_duration_since(self.at))
    }
}

impl Drain {
    /// Goes on with what an earlier agent of this boot has left.
    pub(super) fn new(record: Option<&DrainRecord>, boot_id: &str, clock: &dyn Clock) -> Self {
        let record = record.filter(|record| record.boot_id == boot_id);
        let draining = record.and_then(|record| record.draining.clone());
        let since_ms = draining.as_ref().map_or(0, |draining| draining.since_ms);
        // Of the clocks of two agents only the one that can be set is the same.
        let before = Duration::from_millis(clock.unix_ms().saturating_sub(since_ms));
        Self {
            draining: watch::Sender::new(draining),
            begun: Mutex::new(Begun { at: clock.now(), before }),
            fresh: record.is_none(),
            told: Mutex::default(),
        }
    }

    fn begin(&self, begun: Begun) {
        *self.begun.lock().unwrap_or_else(PoisonError::into_inner) = begun;
    }

    fn elapsed(&self, now: Instant) -> Duration {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner).elapsed(now)
    }

    /// The announcer was told of this phase.
    pub(super) fn tell(&self, phase: Option<DrainPhase>) {
        *self.told() = phase;
    }

    fn told(&self) -> MutexGuard<'_, Option<DrainPhase>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
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
        let clock = &self.backends.clock;
        let since_ms = if fresh { 0 } else { clock.unix_ms() };
        let begun = Begun { at: clock.now(), before: Duration::ZERO };
        self.drain.draining.send_if_modified(|draining| {
            if !wanted {
                let Some(going_on) = draining else { return false };
                let changed = going_on.reasons.remove(&reason);
                if going_on.reasons.is_empty() {
                    *draining = None;
                }
                return changed;
            }
            let anew = || {
                self.drain.begin(begun);
                Draining { since_ms, reasons: [].into(), withdrawn: fresh }
            };
            draining.get_or_insert_with(anew).reasons.insert(reason)
        });
    }

    /// The drain that goes on, now and at each change.
    pub fn draining(&self) -> watch::Receiver<Option<Draining>> {
        self.drain.draining.subscribe()
    }

    /// How far the drain is, where there is one.
    pub fn drain_phase(&self) -> Option<DrainPhase> {
        let draining = self.drain.draining.borrow();
        if draining.as_ref()?.withdrawn {
            return Some(DrainPhase::Withdrawn);
        }
        Some(DrainPhase::after(self.drain.elapsed(self.backends.clock.now()), self.drain_time()))
    }

    /// The phase that is to be announced now. One that withdraws is kept: no other time and no other
    /// agent announces anything again before the drain ends.
    pub(super) fn take_drain_phase(&self) -> Option<DrainPhase> {
        let phase = self.drain_phase();
        self.drain.draining.send_if_modified(|draining| {
            let Some(draining) = draining else { return false };
            let news = phase == Some(DrainPhase::Withdrawn) && !draining.withdrawn;
            draining.withdrawn |= news;
            news
        });
        phase
    }

    /// The phase of the drain that went into what the announcer was handed over last; `None` where there
    /// was no drain, or nothing was handed over.
    pub fn announced_drain(&self) -> Option<DrainPhase> {
        *self.drain.told()
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
            let phase = self.take_drain_phase();
            let now = draining.borrow_and_update().clone();
            if phase != said {
                self.say(phase, now.as_ref());
                said = phase;
            }
            if phase != self.announced_drain() {
                // No route comes or goes. So what the kernel refuses keeps nobody from being told.
                self.announce(Change::Loss).await;
            }
            let elapsed = now.map(|_| self.drain.elapsed(self.backends.clock.now()));
            let left = elapsed.map(|elapsed| self.drain_time().saturating_sub(elapsed));
            let marked = left.filter(|left| !left.is_zero());
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
