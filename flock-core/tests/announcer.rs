//! The contract of announcing, held by the memory backend.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

use async_trait::async_trait;
use flock_core::announcer::conformance::{AnnouncerHarness, Observed, example};
use flock_core::announcer::{AnnounceError, Announcements, MemoryAnnouncer, RouteAnnouncer};

#[derive(Default)]
struct Harness(MemoryAnnouncer);

#[async_trait]
impl AnnouncerHarness for Harness {
    fn announcer(&self) -> &dyn RouteAnnouncer {
        &self.0
    }

    fn wanted(&self) -> Announcements {
        example()
    }

    async fn observe(&self) -> Observed {
        self.0.announced().as_ref().map(Observed::expected).unwrap_or_default()
    }

    async fn changes(&self) -> u64 {
        self.0.changes()
    }
}

flock_core::announcer_conformance!(Harness::default());

#[tokio::test]
async fn a_refused_state_changes_nothing() {
    let announcer = MemoryAnnouncer::new();
    announcer.sync(&example()).await.unwrap();
    let refusals = [
        AnnounceError::Refused { message: "bird.conf:3 syntax error".to_owned() },
        AnnounceError::Backend("away".to_owned()),
    ];
    for refusal in &refusals {
        announcer.fail_next(refusal.clone());
    }
    let other = Announcements { anycast: [].into(), ..example() };
    for refusal in refusals {
        assert_eq!(announcer.sync(&other).await.unwrap_err(), refusal);
        assert_eq!(announcer.announced(), Some(example()));
        assert_eq!(announcer.changes(), 1);
    }
    announcer.sync(&other).await.unwrap();
    assert_eq!(announcer.announced(), Some(other));
    assert_eq!(announcer.changes(), 2);
}

#[tokio::test]
async fn a_clone_is_another_handle_to_the_same_state() {
    let announcer = MemoryAnnouncer::new();
    let observer = announcer.clone();
    assert_eq!(observer.announced(), None);
    announcer.sync(&example()).await.unwrap();
    assert_eq!(observer.announced(), Some(example()));
}
