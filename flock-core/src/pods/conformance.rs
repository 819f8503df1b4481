//! Contract tests of [`PodSource`], one public function per case.
//!
//! A backend implements [`PodsHarness`] and runs the cases with
//! [`pods_conformance!`](crate::pods_conformance):
//!
//! ```
//! use async_trait::async_trait;
//! use flock_core::name::PodKey;
//! use flock_core::pods::conformance::PodsHarness;
//! use flock_core::pods::{FixedPods, PodInfo, PodSource, PodState};
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
//!     async fn terminate(&self, key: &PodKey) -> bool {
//!         self.0.set_state(key, PodState::Terminating);
//!         true
//!     }
//! }
//!
//! flock_core::pods_conformance!(Harness::default());
//! ```
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "these are tests, they fail by panicking")]

use std::collections::BTreeSet;
use std::pin::pin;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_core::stream::BoxStream;
use futures_util::{FutureExt, StreamExt};

use super::{PodChange, PodError, PodInfo, PodRef, PodSource, PodState};
use crate::name::PodKey;
use crate::retry::Retry;

/// What a backend supplies to be tested.
#[async_trait]
pub trait PodsHarness: Send + Sync {
    /// The backend, which knows no pod yet.
    fn source(&self) -> &dyn PodSource;

    /// Makes a pod that is as `info` says, its state too, or changes the one that is
    /// there. Another UID makes another pod in place of the one that is there. Never
    /// called with a pod that is terminating.
    async fn apply(&self, key: &PodKey, info: &PodInfo);

    /// Deletes a pod.
    async fn remove(&self, key: &PodKey);

    /// Begins to delete a pod. Answers whether it is still answered until it is removed:
    /// a source that knows no pods that are being deleted loses it at once, which is
    /// the default.
    async fn terminate(&self, key: &PodKey) -> bool {
        self.remove(key).await;
        false
    }
}

/// Makes one `#[tokio::test]` of each case of [`pods::conformance`](crate::pods::conformance).
///
/// Takes an expression for a [`PodsHarness`](crate::pods::conformance::PodsHarness),
/// which is evaluated anew in each test. A source that counts a pod that is not there as
/// one without annotations takes only the cases about finding a pod that is there, by
/// `lookup:` before the expression, and, if it tells changes, those by `changes:`. The
/// crate that uses it needs tokio with `macros` and `rt`.
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
            a_pod_that_is_there_is_found_after_the_deadline_too
            new_annotations_are_seen
            an_older_pod_of_the_same_name_is_not_the_answer
        }
    };
    (changes: $harness:expr) => {
        $crate::pods_conformance! { @cases $harness;
            changes_begin_with_the_pods_that_are_there
            a_pod_is_told_when_it_appears
            readiness_is_told_in_order
            a_pod_that_is_replaced_is_told_by_both_uids
            a_pod_that_terminates_is_told_before_it_is_gone
            a_pod_that_goes_is_told_and_that_it_came_back
            what_is_no_change_is_not_told
            every_reader_is_told_what_comes_after_its_call
        }
    };
    ($harness:expr) => {
        $crate::pods_conformance! { lookup: $harness }
        $crate::pods_conformance! { changes: $harness }
        $crate::pods_conformance! { @cases $harness;
            a_pod_that_does_not_come_is_not_found
            a_removed_pod_is_not_found
            a_pod_that_comes_wakes_who_waits
            a_pod_that_replaces_an_older_one_wakes_who_waits
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

/// Who does not want to wait asks with a deadline that has passed.
pub async fn a_pod_that_is_there_is_found_after_the_deadline_too(harness: &dyn PodsHarness) {
    harness.apply(&web(), &info("1", "first")).await;
    harness.source().pod(&named(&web()), soon()).await.unwrap();
    let passed = Instant::now().checked_sub(Duration::from_secs(1)).unwrap();
    let found = harness.source().pod(&named(&web()), passed).await.unwrap();
    assert_eq!(found, info("1", "first"));
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
    assert_eq!(next(&mut changes).await, told("1", PodState::NotReady));
    harness.remove(&web()).await;
    assert_eq!(next(&mut changes).await, told("1", PodState::Terminating));
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

/// In whatever state they are, and before anything else.
pub async fn changes_begin_with_the_pods_that_are_there(harness: &dyn PodsHarness) {
    let mut first = harness.source().changes();
    for (name, state) in [("waits", PodState::NotReady), ("serves", PodState::Ready)] {
        harness.apply(&pod("default", name), &PodInfo { state, ..info(name, "") }).await;
    }
    harness.apply(&pod("default", "gone"), &info("gone", "")).await;
    harness.apply(&pod("default", "ends"), &info("ends", "")).await;
    // Told here, so known to the source.
    let mut known = BTreeSet::new();
    while known.len() < 4 {
        known.insert(next(&mut first).await.pod);
    }
    harness.remove(&pod("default", "gone")).await;
    assert_eq!(next(&mut first).await.state, PodState::Terminating);
    let is_still_there = harness.terminate(&pod("default", "ends")).await;
    assert_eq!(next(&mut first).await.state, PodState::Terminating);

    let mut present = harness.source().changes();
    let mut expected = vec![("serves", PodState::Ready), ("waits", PodState::NotReady)];
    if is_still_there {
        expected.insert(0, ("ends", PodState::Terminating));
    }
    let mut found = Vec::new();
    for _ in 0..expected.len() {
        found.push(next(&mut present).await);
    }
    found.sort_by(|one, other| one.pod.cmp(&other.pod));
    let expected = expected.into_iter().map(|(name, state)| PodChange {
        pod: pod("default", name),
        uid: Some(name.to_owned()),
        state,
    });
    assert_eq!(found, expected.collect::<Vec<_>>());
    // Nothing of them is told again.
    harness.apply(&web(), &info("1", "")).await;
    assert_eq!(next(&mut present).await, told("1", PodState::NotReady));
}

/// Though it is not ready yet.
pub async fn a_pod_is_told_when_it_appears(harness: &dyn PodsHarness) {
    let mut changes = harness.source().changes();
    harness.apply(&web(), &info("1", "first")).await;
    assert_eq!(next(&mut changes).await, told("1", PodState::NotReady));
    let other = pod("other", "web");
    harness.apply(&other, &PodInfo { state: PodState::Ready, ..info("2", "") }).await;
    let expected = PodChange { pod: other, uid: Some("2".to_owned()), state: PodState::Ready };
    assert_eq!(next(&mut changes).await, expected);
}

/// And is there with what else is known of the pod.
pub async fn readiness_is_told_in_order(harness: &dyn PodsHarness) {
    let mut changes = harness.source().changes();
    for state in [PodState::NotReady, PodState::Ready, PodState::NotReady, PodState::Ready] {
        harness.apply(&web(), &PodInfo { state, ..info("1", "first") }).await;
        assert_eq!(next(&mut changes).await, told("1", state));
        let found = harness.source().pod(&with_uid(&web(), "1"), soon()).await.unwrap();
        assert_eq!(found.state, state);
    }
}

/// A StatefulSet's pod is made again under its name: the old one's end comes first.
pub async fn a_pod_that_is_replaced_is_told_by_both_uids(harness: &dyn PodsHarness) {
    let mut changes = harness.source().changes();
    let ready = |uid| PodInfo { state: PodState::Ready, ..info(uid, "") };
    harness.apply(&web(), &ready("1")).await;
    assert_eq!(next(&mut changes).await, told("1", PodState::Ready));
    harness.apply(&web(), &ready("2")).await;
    assert_eq!(next(&mut changes).await, told("1", PodState::Terminating));
    assert_eq!(next(&mut changes).await, told("2", PodState::Ready));
    // Of one that was terminating, the end was told.
    harness.terminate(&web()).await;
    assert_eq!(next(&mut changes).await, told("2", PodState::Terminating));
    harness.apply(&web(), &info("3", "")).await;
    assert_eq!(next(&mut changes).await, told("3", PodState::NotReady));
}

/// However ready it is, and once.
pub async fn a_pod_that_terminates_is_told_before_it_is_gone(harness: &dyn PodsHarness) {
    let mut changes = harness.source().changes();
    harness.apply(&web(), &PodInfo { state: PodState::Ready, ..info("1", "") }).await;
    assert_eq!(next(&mut changes).await, told("1", PodState::Ready));
    let is_still_there = harness.terminate(&web()).await;
    assert_eq!(next(&mut changes).await, told("1", PodState::Terminating));
    if is_still_there {
        let found = harness.source().pod(&with_uid(&web(), "1"), soon()).await.unwrap();
        assert_eq!(found.state, PodState::Terminating);
        harness.remove(&web()).await;
    }
    assert_nothing_was_told(harness, &mut changes).await;
}

/// The UID may be the same: that of a manifest that was moved away and back.
pub async fn a_pod_that_goes_is_told_and_that_it_came_back(harness: &dyn PodsHarness) {
    let mut changes = harness.source().changes();
    for _ in 0..2 {
        harness.apply(&web(), &info("1", "first")).await;
        assert_eq!(next(&mut changes).await, told("1", PodState::NotReady));
        harness.remove(&web()).await;
        assert_eq!(next(&mut changes).await, told("1", PodState::Terminating));
    }
}

/// Neither the same once more, nor other annotations.
pub async fn what_is_no_change_is_not_told(harness: &dyn PodsHarness) {
    let mut changes = harness.source().changes();
    let ready = |note| PodInfo { state: PodState::Ready, ..info("1", note) };
    harness.apply(&web(), &ready("first")).await;
    assert_eq!(next(&mut changes).await, told("1", PodState::Ready));
    harness.apply(&web(), &ready("first")).await;
    harness.apply(&web(), &ready("second")).await;
    assert_nothing_was_told(harness, &mut changes).await;
}

/// Both the early and the late one.
pub async fn every_reader_is_told_what_comes_after_its_call(harness: &dyn PodsHarness) {
    let mut early = harness.source().changes();
    harness.apply(&web(), &info("1", "first")).await;
    assert_eq!(next(&mut early).await, told("1", PodState::NotReady));
    let mut late = harness.source().changes();
    assert_eq!(next(&mut late).await, told("1", PodState::NotReady));
    harness.apply(&web(), &PodInfo { state: PodState::Ready, ..info("1", "first") }).await;
    for reader in [&mut early, &mut late] {
        assert_eq!(next(reader).await, told("1", PodState::Ready));
    }
}

/// By what comes next: another pod, whose name is the last of all.
async fn assert_nothing_was_told(harness: &dyn PodsHarness, changes: &mut BoxStream<'static, PodChange>) {
    let last = pod("zz", "last");
    harness.apply(&last, &info("last", "")).await;
    let expected = PodChange { pod: last, uid: Some("last".to_owned()), state: PodState::NotReady };
    assert_eq!(next(changes).await, expected, "what is no change was told");
}

/// Of default/web.
fn told(uid: &str, state: PodState) -> PodChange {
    PodChange { pod: web(), uid: Some(uid.to_owned()), state }
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

/// A pod that is not ready.
fn info(uid: &str, note: &str) -> PodInfo {
    let annotations = [("example.com/note".to_owned(), note.to_owned())].into();
    PodInfo { uid: Some(uid.to_owned()), annotations, state: PodState::NotReady }
}
