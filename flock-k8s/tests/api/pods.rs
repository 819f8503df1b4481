//! What is known of pods, and what is said where nothing is known.

use std::time::{Duration, Instant};

use flock_core::name::PodKey;
use flock_core::pods::{PodChange, PodError, PodInfo, PodRef, PodSource, PodState};
use flock_core::retry::Retry;
use flock_k8s::pods::KubePods;
use futures_core::stream::BoxStream;
use futures_util::{FutureExt, StreamExt};
use serde_json::{Value, json};

use crate::fake::{FakeApi, Mode};
use crate::log::Log;

pub const PODS: &str = "/api/v1/pods";

pub fn key(name: &str) -> PodKey {
    PodKey::new("default", name).unwrap()
}

pub fn pod(name: &str, uid: &str, ready: bool) -> Value {
    json!({
        "metadata": {"namespace": "default", "name": name, "uid": uid},
        "spec": {"nodeName": "host001"},
        "status": {"conditions": [
            {"type": "Initialized", "status": "True"},
            {"type": "Ready", "status": if ready { "True" } else { "False" }},
        ]},
    })
}

pub fn told(name: &str, uid: &str, state: PodState) -> PodChange {
    PodChange { pod: key(name), uid: Some(uid.to_owned()), state }
}

pub fn named(name: &str) -> PodRef {
    PodRef { key: key(name), uid: None }
}

/// By the clock of the test, which may be paused.
pub fn within(seconds: u64) -> Instant {
    tokio::time::Instant::now().into_std() + Duration::from_secs(seconds)
}

pub async fn next(changes: &mut BoxStream<'static, PodChange>) -> PodChange {
    tokio::time::timeout(Duration::from_secs(600), changes.next()).await.expect("told in time").unwrap()
}

/// With a watch that stands.
pub async fn synced(api: &FakeApi) -> KubePods {
    let pods = api.cluster().pods();
    api.until("the watch stands", |state| state.watches.count(PODS) == 1).await;
    pods.synced().await;
    pods
}

#[tokio::test(start_paused = true)]
async fn only_the_pods_of_the_node_are_asked_for() {
    let api = FakeApi::new();
    let _pods = synced(&api).await;
    api.see(|state| {
        for request in &state.requests {
            assert_eq!(
                (request.path.as_str(), request.query["fieldSelector"].as_str()),
                (PODS, "spec.nodeName=host001")
            );
        }
        assert_eq!(
            state.requests[0].query["resourceVersion"], "0",
            "the first list is cheap for the API server"
        );
        assert_eq!(state.requests[1].query["allowWatchBookmarks"], "true");
    });
}

#[tokio::test(start_paused = true)]
async fn only_annotations_of_flock_are_kept() {
    let api = FakeApi::new();
    let mut web = pod("web", "1", false);
    web["metadata"]["annotations"] = json!({
        "flock.fritzlab.net/ipv4": "false",
        "kubectl.kubernetes.io/last-applied-configuration": "{}",
    });
    api.put(PODS, web);
    let found = synced(&api).await.pod(&named("web"), within(0)).await.unwrap();
    let annotations = [("flock.fritzlab.net/ipv4".to_owned(), "false".to_owned())].into();
    assert_eq!(found, PodInfo { uid: Some("1".to_owned()), annotations, state: PodState::NotReady });
}

#[tokio::test(start_paused = true)]
async fn a_static_pod_is_found_by_the_uid_that_the_runtime_knows() {
    let api = FakeApi::new();
    let mut mirror = pod("web", "of the API", false);
    mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "of the kubelet"});
    api.put(PODS, mirror);
    let pods = synced(&api).await;
    for (uid, found) in [("of the API", true), ("of the kubelet", true), ("of another one", false)] {
        let wanted = PodRef { uid: Some(uid.to_owned()), ..named("web") };
        assert_eq!(pods.pod(&wanted, within(0)).await.is_ok(), found, "{uid}");
    }
    assert_eq!(next(&mut pods.changes()).await, told("web", "of the kubelet", PodState::NotReady));
}

#[tokio::test(start_paused = true)]
async fn pods_on_the_network_of_the_host_are_left_out() {
    let api = FakeApi::new();
    let mut proxy = pod("proxy", "1", true);
    proxy["spec"]["hostNetwork"] = true.into();
    api.put(PODS, proxy);
    let pods = synced(&api).await;
    let error = pods.pod(&named("proxy"), within(0)).await.unwrap_err();
    assert!(matches!(error, PodError::NotFound { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_terminates_is_told_once_and_still_answered() {
    let api = FakeApi::new();
    let pods = synced(&api).await;
    let mut changes = pods.changes();
    let mut terminating = pod("web", "1", true);
    terminating["metadata"]["deletionTimestamp"] = "2001-02-03T04:05:06Z".into();
    api.put(PODS, terminating.clone());
    assert_eq!(next(&mut changes).await, told("web", "1", PodState::Terminating));
    let found = pods.pod(&named("web"), within(0)).await.unwrap();
    assert_eq!(found.state, PodState::Terminating);
    // Its end is no news.
    terminating["status"] = json!({});
    api.put(PODS, terminating);
    api.delete(PODS, "default", "web");
    api.put(PODS, pod("later", "2", true));
    assert_eq!(next(&mut changes).await, told("later", "2", PodState::Ready));
}

#[tokio::test(start_paused = true)]
async fn who_was_there_before_the_first_list_is_told_the_pods_when_they_are_listed() {
    let api = FakeApi::new();
    api.put(PODS, pod("web", "1", true));
    api.put(PODS, pod("starting", "2", false));
    let pods = api.cluster().pods();
    let mut changes = pods.changes();
    assert_eq!(changes.next().now_or_never(), None);
    assert_eq!(next(&mut changes).await, told("starting", "2", PodState::NotReady));
    assert_eq!(next(&mut changes).await, told("web", "1", PodState::Ready));
    assert_eq!(changes.next().now_or_never(), None);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_missing_says_where_it_was_looked_for() {
    let pods = synced(&FakeApi::new()).await;
    let error = pods.pod(&named("web"), within(1)).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "pod default/web did not appear among the pods of node host001 that the API server tells of within \
         the deadline"
    );
}

#[tokio::test(start_paused = true)]
async fn a_pod_with_another_uid_is_named() {
    let api = FakeApi::new();
    api.put(PODS, pod("web", "1", false));
    let wanted = PodRef { uid: Some("2".to_owned()), ..named("web") };
    let error = synced(&api).await.pod(&wanted, within(1)).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "pod default/web did not appear with the UID 2 on node host001 (the UID there is 1) within the deadline"
    );
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_is_away_is_said_with_since_when_and_why() {
    let api = FakeApi::new();
    let pods = synced(&api).await;
    api.set_mode(Mode::Away);
    let error = pods.pod(&named("web"), within(30)).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "pods: default/web is not known: the API server has not been heard for 30 s: connection refused"
    );
    assert_eq!(error.retry(), Retry::Later);
    let health = pods.health();
    assert!(health.synced && !health.connected && health.restarts > 5, "{health:?}");
    assert_eq!(health.failing_for, Some(Duration::from_secs(30)));
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_an_api_server_that_is_away_is_logged_once() {
    let log = Log::default();
    let _guard = log.install();
    let api = FakeApi::new();
    let pods = synced(&api).await;
    let wanted = named("web");
    let (answer, ()) = tokio::join!(pods.pod(&wanted, within(60)), async {
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(log.count("waiting for the pod"), 0, "all is well");
        api.set_mode(Mode::Away);
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(log.count("waiting for the pod"), 1, "{}", log.text());
    });
    assert!(answer.is_err());
    assert_eq!(log.count("waiting for the pod"), 1, "{}", log.text());
    assert_eq!(log.count("the watch of the pods of node host001 failed"), 1, "{}", log.text());
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_never_answered_is_said() {
    let api = FakeApi::new();
    api.set_mode(Mode::Silent);
    let pods = api.cluster().pods();
    let error = pods.pod(&named("web"), within(1)).await.unwrap_err().to_string();
    assert_eq!(
        error,
        "pods: default/web is not known: the API server has not listed the pods of node host001 yet"
    );
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_refuses_is_said_in_its_words() {
    let api = FakeApi::new();
    api.set_mode(Mode::Failing(403));
    let pods = api.cluster().pods();
    let error = pods.pod(&named("web"), within(3)).await.unwrap_err().to_string();
    assert!(error.ends_with(r#"the API server answers 403 "it is broken""#), "{error}");
}

#[tokio::test(start_paused = true)]
async fn pods_that_are_known_are_answered_while_the_api_server_is_away() {
    let api = FakeApi::new();
    api.put(PODS, pod("web", "1", true));
    let pods = synced(&api).await;
    api.set_mode(Mode::Away);
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(pods.pod(&named("web"), within(0)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn who_waits_gets_the_pod_when_the_api_server_is_back() {
    let api = FakeApi::new();
    let pods = synced(&api).await;
    api.set_mode(Mode::Away);
    let wanted = named("web");
    let waiting = pods.pod(&wanted, within(300));
    let returning = async {
        tokio::time::sleep(Duration::from_secs(180)).await;
        api.put(PODS, pod("web", "1", false));
        api.set_mode(Mode::Up);
    };
    let started = tokio::time::Instant::now();
    let (found, ()) = tokio::join!(waiting, returning);
    assert!(found.is_ok(), "{found:?}");
    // The longest pause between attempts.
    assert!(started.elapsed() <= Duration::from_secs(185), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn the_watch_ends_with_its_owner() {
    let api = FakeApi::new();
    let pods = synced(&api).await;
    let mut changes = pods.changes();
    drop(pods);
    assert_eq!(changes.next().await, None);
    api.see(|state| assert_eq!(state.watches.count(PODS), 0));
}
