//! How soon a disturbance is looked at.

use std::time::Duration;

use tokio::time::Instant;

/// One cause disturbs many things, one after the other: they are looked at together.
const GATHER: Duration = Duration::from_millis(25);

/// Where there was a look after a look.
const SLOW: Duration = Duration::from_millis(500);

/// So many looks are soon, one after the other.
const BURST: u32 = 20;

/// After each of this another one may be soon.
const REFILL: Duration = Duration::from_secs(1);

/// Looks soon as long as that is seldom: a disturbance by itself is undone at once, and one
/// that comes back again and again, or a flood of them, costs three looks in a second at most,
/// none of them later than half a second.
#[derive(Debug)]
pub(super) struct Pace {
    soon: u32,
    refilled: Option<Instant>,
    took: Duration,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self { soon: BURST, refilled: None, took: Duration::ZERO }
    }

    /// How long to gather before the next look.
    pub(super) fn pause(&mut self, now: Instant) -> Duration {
        let refilled = *self.refilled.get_or_insert(now);
        let passed = now.duration_since(refilled).as_secs() / REFILL.as_secs();
        let passed = u32::try_from(passed).unwrap_or(u32::MAX);
        if passed > 0 {
            self.soon = self.soon.saturating_add(passed).min(BURST);
            self.refilled = Some(now);
        }
        let pause = if self.soon > 0 { GATHER } else { SLOW };
        self.soon = self.soon.saturating_sub(1);
        // A node with many pods must not do nothing else, nor be looked at too late.
        pause.max((2 * self.took).min(SLOW))
    }

    /// The last look took so long.
    pub(super) fn took(&mut self, took: Duration) {
        self.took = took;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looks(every: Duration, within: Duration) -> u32 {
        let mut pace = Pace::new();
        let start = Instant::now();
        let (mut now, mut looks) = (start, 0);
        while now - start < within {
            now += every + pace.pause(now);
            looks += 1;
        }
        looks
    }

    #[test]
    fn what_never_ends_is_looked_at_at_most_three_times_in_a_second() {
        let looks = looks(Duration::ZERO, Duration::from_secs(60));
        assert!((170..=220).contains(&looks), "{looks}");
    }

    #[test]
    fn what_is_seldom_is_looked_at_soon() {
        let mut pace = Pace::new();
        let mut now = Instant::now();
        for _ in 0..100 {
            assert_eq!(pace.pause(now), GATHER);
            now += Duration::from_secs(2);
        }
    }

    #[test]
    fn long_looks_leave_time_for_others_and_are_not_put_off_for_long() {
        let mut pace = Pace::new();
        for (took, pause) in [(5, 25), (100, 200), (200, 400), (1000, 500), (10_000, 500)] {
            pace.took(Duration::from_millis(took));
            assert_eq!(pace.pause(Instant::now()), Duration::from_millis(pause), "{took}");
        }
    }
}
