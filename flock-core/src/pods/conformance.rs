//! Contract tests of [`PodSource`], one public function per case.
//!
//! A backend implements [`PodsHarness`] and runs the cases with
//! [`pods_conformance!`](crate::pods_conformance):
//!
//! ```
//! use async_trait::async_trait;
//! use flock_core::name::PodKey;
//! use flock_core::pods::conformance::PodsHarness;
//! use flock_core::pods::{FixedPods, PodInfo, PodSource};
//!
//! #[derive(Default)]
//! struct Harness(FixedPods);
//!
//! #[async_trait]
//! impl PodsHarness for Harness {
//!     fn source(&self) -> &dyn PodSource {
//!         &self.0
//!     }
//!
//!     async fn apply(&self, key: &PodKey, info: &PodInfo) {
//!         self.0.insert(key.clone(), info.clone());
//!     }
//!
//!     async fn remove(&self, key: &PodKey) {
//!         self.0.remove(key);
//!     }
//!
//!     async fn set_ready(&self, key: &PodKey, ready: bool) {
//!         self.0.set_ready(key, ready);
//!     }
//! }
//!
//! flock_core::pods_conformance!(Harness::default());
//! ```
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "these are tests, they fail by panicking")]

use std::pin::pin;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_core::stream::BoxStream;
use futures_util::{FutureExt, StreamExt};

use super::{PodChange, PodError, PodInfo, PodRef, PodSource};
use crate::name::PodKey;
use crate::retry::Retry;

/// What a backend supplies to be tested.
#[async_trait]
pub trait PodsHarness: Send + Sync {
    /// The backend, which knows no pod yet.
    fn source(&self) -> &dyn PodSource;

    /// Makes a pod that is not ready, or changes the one that is there. Another UID
    /// makes another pod in place of the one that is there.
    async fn apply(&self, key: &PodKey, info: &PodInfo);

    /// Deletes a pod.
    async fn remove(&self, key: &PodKey);

    /// Makes a pod ready or not. Only called by the cases about changes.
    async fn set_ready(&self, key: &PodKey, ready: bool);
}

/// Makes one `#[tokio::test]` of each case of [`pods::conformance`](crate::pods::conformance).
///
/// Takes an expression for a [`PodsHarness`](crate::pods::conformance::PodsHarness),
/// which is evaluated anew in each test. After `lookup:`, for a source that counts a
/// pod that is not there as one without annotations and tells no changes, only the
/// cases about finding a pod that is there are run. The crate that uses it needs
/// tokio with `macros` and `rt`.
#[macro_export]
macro_rules! pods_conformance {
    (@cases $harness:expr; $($case:ident)*) => {
        $(
            #[::tokio::test]
            async fn $case() {
                let harness = $harness;
                $crate::pods::conformance::$case(&harness).await;
            }
        )*
    };
    (lookup: $harness:expr) => {
        $crate::pods_conformance! { @cases $harness;
            a_pod_is_found_by_namespace_and_name
            a_pod_is_found_with_its_uid
            new_annotations_are_seen
            an_older_pod_of_the_same_name_is_not_the_answer
        }
    };
    ($harness:expr) => {
        $crate::pods_conformance! { lookup: $harness }
        $crate::pods_conformance! { @cases $harness;
            a_pod_that_does_not_come_is_not_found
            a_removed_pod_is_not_found
            a_pod_that_comes_wakes_who_waits
            a_pod_that_replaces_an_older_one_wakes_who_waits
            readiness_is_told_in_order
            a_pod_that_goes_is_told
            every_reader_is_told_what_comes_after_its_call
        }
    };
}

/// Not that of another namespace, and not one with a similar name.
pub async fn a_pod_is_found_by_namespace_and_name(harness: &dyn PodsHarness) {
    for (namespace, name) in [("default", "web"), ("other", "web"), ("default", "web-0")] {
        harness.apply(&pod(namespace, name), &info("1", &format!("{namespace}/{name}"))).await;
    }
    let found = harness.source().pod(&named(&pod("default", "web")), soon()).await.unwrap();
    assert_eq!(found, info("1", "default/web"));
}

/// As the runtime asks, which knows the UID.
pub async fn a_pod_is_found_with_its_uid(harness: &dyn PodsHarness) {
    harness.apply(&web(), &info("1", "first")).await;
    let found = harness.source().pod(&with_uid(&web(), "1"), soon()).await.unwrap();
    assert_eq!(found, info("1", "first"));
}

/// By the next request.
pub async fn new_annotations_are_seen(harness: &dyn PodsHarness) {
    harness.apply(&web(), &info("1", "first")).await;
    assert_eq!(harness.source().pod(&named(&web()), soon()).await.unwrap(), info("1", "first"));
    harness.apply(&web(), &info("1", "second")).await;
    let mut found = harness.source().pod(&named(&web()), soon()).await.unwrap();
    // A source that watches may hear of it a little later; one that asks anew answers at once.
    let limit = soon();
    while found == info("1", "first") && Instant::now() < limit {
        tokio::task::yield_now().await;
        found = harness.source().pod(&named(&web()), soon()).await.unwrap();
    }
    assert_eq!(found, info("1", "second"));
}

/// It may ask for other addresses.
pub async fn an_older_pod_of_the_same_name_is_not_the_answer(harness: &dyn PodsHarness) {
    harness.apply(&web(), &info("1", "older")).await;
    let answer = harness.source().pod(&with_uid(&web(), "2"), Instant::now()).await;
    assert!(answer.is_err(), "{answer:?}");
}

/// With an error that names it and says that it may still come.
pub async fn a_pod_that_does_not_come_is_not_found(harness: &dyn PodsHarness) {
    assert_not_found(harness).await;
}

/// As if it had never been there.
pub async fn a_removed_pod_is_not_found(harness: &dyn PodsHarness) {
    let mut changes = harness.source().changes();
    harness.apply(&web(), &info("1", "first")).await;
    harness.source().pod(&named(&web()), soon()).await.unwrap();
    harness.remove(&web()).await;
    assert_eq!(next(&mut changes).await, PodChange::Gone(web()));
    assert_not_found(harness).await;
}

/// Long before the deadline.
pub async fn a_pod_that_comes_wakes_who_waits(harness: &dyn PodsHarness) {
    let wanted = with_uid(&web(), "1");
    let mut waiting = pin!(harness.source().pod(&wanted, soon()));
    assert!(waiting.as_mut().now_or_never().is_none(), "answered before the pod was there");
    harness.apply(&pod("default", "another"), &info("2", "another")).await;
    assert!(waiting.as_mut().now_or_never().is_none(), "answered with another pod");
    harness.apply(&web(), &info("1", "first")).await;
    assert_eq!(waiting.await.unwrap(), info("1", "first"));
}

/// A StatefulSet's pod is made again under its name.
pub async fn a_pod_that_replaces_an_older_one_wakes_who_waits(harness: &dyn PodsHarness) {
    harness.apply(&web(), &info("1", "older")).await;
    let wanted = with_uid(&web(), "2");
    let mut waiting = pin!(harness.source().pod(&wanted, soon()));
    assert!(waiting.as_mut().now_or_never().is_none(), "answered with the older pod");
    harness.remove(&web()).await;
    harness.apply(&web(), &info("2", "newer")).await;
    assert_eq!(waiting.await.unwrap(), info("2", "newer"));
}

/// Each change once.
pub async fn readiness_is_told_in_order(harness: &dyn PodsHarness) {
    let mut changes = harness.source().changes();
    harness.apply(&web(), &info("1", "first")).await;
    for ready in [true, false, true] {
        harness.set_ready(&web(), ready).await;
        assert_eq!(next(&mut changes).await, PodChange::Ready(web(), ready));
    }
    harness.set_ready(&web(), true).await;
    harness.remove(&web()).await;
    assert_eq!(next(&mut changes).await, PodChange::Gone(web()), "what is no change was told");
}

/// And that it came back, once it is ready.
pub async fn a_pod_that_goes_is_told(harness: &dyn PodsHarness) {
    let mut changes = harness.source().changes();
    harness.apply(&web(), &info("1", "first")).await;
    harness.remove(&web()).await;
    assert_eq!(next(&mut changes).await, PodChange::Gone(web()));
    harness.apply(&web(), &info("2", "second")).await;
    harness.set_ready(&web(), true).await;
    assert_eq!(next(&mut changes).await, PodChange::Ready(web(), true));
}

/// And nothing that was before.
pub async fn every_reader_is_told_what_comes_after_its_call(harness: &dyn PodsHarness) {
    let mut early = harness.source().changes();
    harness.apply(&web(), &info("1", "first")).await;
    harness.set_ready(&web(), true).await;
    assert_eq!(next(&mut early).await, PodChange::Ready(web(), true));
    let mut late = harness.source().changes();
    harness.set_ready(&web(), false).await;
    assert_eq!(next(&mut early).await, PodChange::Ready(web(), false));
    assert_eq!(next(&mut late).await, PodChange::Ready(web(), false));
}

async fn assert_not_found(harness: &dyn PodsHarness) {
    let error = harness.source().pod(&named(&web()), Instant::now()).await.unwrap_err();
    assert!(matches!(&error, PodError::NotFound { pod, .. } if *pod == web()), "{error:?}");
    assert!(error.to_string().contains("default/web"), "{error}");
    assert_eq!(error.retry(), Retry::Later);
}

async fn next(changes: &mut BoxStream<'static, PodChange>) -> PodChange {
    let change = tokio::time::timeout_at(soon().into(), changes.next()).await;
    assert!(matches!(change, Ok(Some(_))), "no change was told in time, or the stream ended: {change:?}");
    change.ok().flatten().unwrap()
}

/// Far enough away for the slowest machine; no case that succeeds waits for it.
fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

fn web() -> PodKey {
    pod("default", "web")
}

fn pod(namespace: &str, name: &str) -> PodKey {
    PodKey::new(namespace, name).unwrap()
}

fn named(key: &PodKey) -> PodRef {
    PodRef { key: key.clone(), uid: None }
}

fn with_uid(key: &PodKey, uid: &str) -> PodRef {
    PodRef { key: key.clone(), uid: Some(uid.to_owned()) }
}

fn info(uid: &str, note: &str) -> PodInfo {
    let annotations = [("example.com/note".to_owned(), note.to_owned())].into();
    PodInfo { uid: Some(uid.to_owned()), annotations }
}
