//! How long to wait before another attempt.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// Spaces attempts: each pause is up to twice as long as the one before. Half of it is
/// random, so that a thousand nodes do not come back to a restarted API server as one.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    random: u64,
}

impl Backoff {
    /// An API server that restarts behind a load balancer is back after about this time.
    const FIRST: Duration = Duration::from_millis(200);
    /// Long enough to cost nothing, short enough to be waited for by an ADD.
    const LAST: Duration = Duration::from_secs(5);

    /// With randomness from the system.
    pub(crate) fn new() -> Self {
        Self::seeded(RandomState::new().hash_one(0))
    }

    fn seeded(random: u64) -> Self {
        Self { next: Self::FIRST, random }
    }

    /// The pause after one more failure.
    pub(crate) fn pause(&mut self) -> Duration {
        let half = self.next / 2;
        self.next = (self.next * 2).min(Self::LAST);
        // A step of Knuth's MMIX generator, of which the upper bits are good.
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let permille = u32::try_from((self.random >> 32) % 1001).unwrap_or(0);
        half + half * permille / 1000
    }

    /// Begins anew after a success.
    pub(crate) fn reset(&mut self) {
        self.next = Self::FIRST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_limit_and_begin_anew() {
        let mut backoff = Backoff::seeded(1);
        for full in [200, 400, 800, 1600, 3200, 5000, 5000] {
            let pause = backoff.pause().as_millis();
            assert!((full / 2..=full).contains(&pause), "{pause} of {full}");
        }
        backoff.reset();
        assert!(backoff.pause() <= Backoff::FIRST);
    }

    #[test]
    fn nodes_do_not_come_back_together() {
        let mut pauses: Vec<_> = (0..100).map(|seed| Backoff::seeded(seed).pause()).collect();
        pauses.sort();
        pauses.dedup();
        assert!(pauses.len() > 20, "{} different pauses of 100", pauses.len());
    }
}
