//! When a change is due: the first at once, those that follow shortly together.

use std::time::Duration;

use tokio::time::Instant;

/// Spaces applications. It keeps no clock: the time is an argument.
#[derive(Debug)]
pub(crate) struct Debounce {
    window: Duration,
    applied: Option<Instant>,
}

impl Debounce {
    /// No two applications within `window`.
    pub(crate) fn new(window: Duration) -> Self {
        Self { window, applied: None }
    }

    /// When a change that came at `now` is due.
    pub(crate) fn due(&self, now: Instant) -> Instant {
        self.applied.map_or(now, |applied| now.max(applied + self.window))
    }

    /// An application begins.
    pub(crate) fn begin(&mut self, now: Instant) {
        self.applied = Some(now);
    }
}

/// Spaces attempts: each pause is twice the one before.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
}

impl Backoff {
    /// A BIRD that restarts is back after about this time.
    const FIRST: Duration = Duration::from_millis(200);
    /// Long enough to cost nothing, short enough to be waited for.
    const LAST: Duration = Duration::from_secs(5);

    pub(crate) fn new() -> Self {
        Self { next: Self::FIRST }
    }

    /// The pause after one more failure.
    pub(crate) fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(Self::LAST);
        pause
    }

    /// Begins anew after a success.
    pub(crate) fn reset(&mut self) {
        *self = Self::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_due_at_once_and_those_within_the_window_at_its_end() {
        let ms = Duration::from_millis;
        let start = Instant::now();
        let mut debounce = Debounce::new(ms(500));
        assert_eq!(debounce.due(start), start);
        debounce.begin(start);
        assert_eq!(debounce.due(start + ms(1)), start + ms(500));
        assert_eq!(debounce.due(start + ms(499)), start + ms(500));
        assert_eq!(debounce.due(start + ms(800)), start + ms(800));
    }

    #[test]
    fn pauses_double_up_to_a_limit_and_begin_anew() {
        let mut backoff = Backoff::new();
        let pauses: Vec<u128> = (0..7).map(|_| backoff.pause().as_millis()).collect();
        assert_eq!(pauses, [200, 400, 800, 1600, 3200, 5000, 5000]);
        backoff.reset();
        assert_eq!(backoff.pause(), Backoff::FIRST);
    }
}
