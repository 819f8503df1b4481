//! Time as an argument, so that rest periods and deadlines are tested without waiting.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Where the time comes from.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Monotonic time, for durations.
    fn now(&self) -> Instant;

    /// Wall-clock time as milliseconds since the Unix epoch, for people.
    fn unix_ms(&self) -> u64;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn unix_ms(&self) -> u64 {
        let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
    }
}

/// A clock that stands still until it is told to advance.
#[derive(Debug)]
pub struct ManualClock {
    start: Instant,
    elapsed: Mutex<Duration>,
    unix_ms: Mutex<u64>,
}

impl ManualClock {
    /// Starts at an arbitrary instant, and at the Unix epoch.
    pub fn new() -> Self {
        Self { start: Instant::now(), elapsed: Mutex::default(), unix_ms: Mutex::default() }
    }

    /// Moves both clocks forward.
    pub fn advance(&self, by: Duration) {
        let mut elapsed = self.elapsed.lock().unwrap_or_else(PoisonError::into_inner);
        *elapsed += by;
        *self.unix() += u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
    }

    /// Sets the wall clock alone, as people and NTP do.
    pub fn set_unix_ms(&self, unix_ms: u64) {
        *self.unix() = unix_ms;
    }

    fn unix(&self) -> MutexGuard<'_, u64> {
        self.unix_ms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn elapsed(&self) -> Duration {
        *self.elapsed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Instant {
        self.start + self.elapsed()
    }

    fn unix_ms(&self) -> u64 {
        *self.unix()
    }
}
