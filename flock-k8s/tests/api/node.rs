//! The node's condition and its startup taint.

use std::time::Duration;

use flock_k8s::Readiness;
use flock_k8s::node::{DRAIN_ON_CORDON, Leaving};
use serde_json::{Value, json};

use crate::fake::store::Store;
use crate::fake::{FakeApi, Mode, Recorded};

const NODES: &str = "/api/v1/nodes";
const HOST001: &str = "/api/v1/nodes/host001";
const TAINT: &str = "flock.fritzlab.net/agent-not-ready";
const LONG_AGO: &str = "2001-02-03T04:05:06Z";

fn node() -> Value {
    json!({
        "metadata": {"name": "host001"},
        "spec": {"taints": [
            {"key": "example.com/special", "value": "x", "effect": "NoSchedule"},
            {"key": TAINT, "effect": "NoSchedule", "timeAdded": LONG_AGO},
        ]},
        "status": {"conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}]},
    })
}

fn api() -> FakeApi {
    let api = FakeApi::new();
    api.put(NODES, node());
    api
}

fn readiness(ready: bool) -> Readiness {
    let reason = if ready { "FlockIsReady" } else { "FlockIsNotReady" };
    Readiness { ready, reason: reason.to_owned(), message: "In words.".to_owned() }
}

fn unavailable(object: &Value) -> Option<&Value> {
    let conditions = object["status"]["conditions"].as_array()?;
    conditions.iter().find(|condition| condition["type"] == "NetworkUnavailable")
}

async fn has_condition(api: &FakeApi, status: &str) {
    let holds = |object: &Value| unavailable(object).is_some_and(|condition| condition["status"] == status);
    api.until("the condition", |state| state.store.at(HOST001).is_some_and(holds)).await;
}

fn keys(object: &Value) -> Vec<&str> {
    let taints = object["spec"]["taints"].as_array();
    taints.into_iter().flatten().map(|taint| taint["key"].as_str().unwrap()).collect()
}

async fn has_no_startup_taint(api: &FakeApi) {
    let holds = |object: &Value| !keys(object).contains(&TAINT);
    api.until("the taint is gone", |state| state.store.at(HOST001).is_some_and(holds)).await;
}

#[tokio::test(start_paused = true)]
async fn the_condition_is_set_beside_those_of_others() {
    let api = api();
    let writer = api.cluster().node(None);
    writer.publish(readiness(true));
    has_condition(&api, "False").await;
    let object = api.at(HOST001);
    assert_eq!(object["status"]["conditions"][0], node()["status"]["conditions"][0]);
    let condition = unavailable(&object).unwrap();
    assert_eq!((&condition["reason"], &condition["message"]), (&json!("FlockIsReady"), &json!("In words.")));
    assert_eq!(object["spec"], node()["spec"], "no taint was to be removed");
    writer.publish(readiness(false));
    has_condition(&api, "True").await;
}

#[tokio::test(start_paused = true)]
async fn the_time_of_the_transition_is_that_of_the_last_flip() {
    let api = FakeApi::new();
    let mut object = node();
    object["status"]["conditions"] = json!([{
        "type": "NetworkUnavailable", "status": "False", "reason": "Other", "lastTransitionTime": LONG_AGO,
    }]);
    api.put(NODES, object);
    let writer = api.cluster().node(None);
    writer.publish(readiness(true));
    api.until("the patch", |state| state.requests.iter().any(Recorded::is_patch)).await;
    assert_eq!(unavailable(&api.at(HOST001)).unwrap()["lastTransitionTime"], LONG_AGO);
    writer.publish(readiness(false));
    has_condition(&api, "True").await;
    assert_ne!(unavailable(&api.at(HOST001)).unwrap()["lastTransitionTime"], LONG_AGO);
}

#[tokio::test(start_paused = true)]
async fn what_stands_there_is_looked_at_and_not_written_again() {
    let api = api();
    let writer = api.cluster().node(Some(TAINT.to_owned()));
    writer.publish(readiness(true));
    has_no_startup_taint(&api).await;
    let patches = api.count(Recorded::is_patch);
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!((patches, api.count(Recorded::is_patch)), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_registered_anew_gets_it_again() {
    let api = api();
    let writer = api.cluster().node(Some(TAINT.to_owned()));
    writer.publish(readiness(true));
    has_no_startup_taint(&api).await;
    api.delete(NODES, "", "host001");
    api.put(NODES, node());
    has_condition(&api, "False").await;
    has_no_startup_taint(&api).await;
}

#[tokio::test(start_paused = true)]
async fn the_startup_taint_stays_until_the_node_is_ready() {
    let api = api();
    let writer = api.cluster().node(Some(TAINT.to_owned()));
    writer.publish(readiness(false));
    has_condition(&api, "True").await;
    assert_eq!(keys(&api.at(HOST001)), ["example.com/special", TAINT]);
    writer.publish(readiness(true));
    has_no_startup_taint(&api).await;
    assert_eq!(keys(&api.at(HOST001)), ["example.com/special"]);
    let object = api.at(HOST001);
    assert_eq!(object["spec"]["taints"][0], node()["spec"]["taints"][0]);
}

#[tokio::test(start_paused = true)]
async fn taints_that_others_add_at_the_same_moment_are_not_lost() {
    let api = api();
    let is_of_taints = |request: &Recorded| request.is_patch() && request.path == HOST001;
    api.before_next(is_of_taints, |store: &mut Store| {
        let mut object = store.at(HOST001).unwrap().clone();
        object["spec"]["taints"]
            .as_array_mut()
            .unwrap()
            .insert(0, json!({"key": "example.com/new", "effect": "NoExecute"}));
        store.put(NODES, object);
    });
    let writer = api.cluster().node(Some(TAINT.to_owned()));
    writer.publish(readiness(true));
    has_no_startup_taint(&api).await;
    assert_eq!(keys(&api.at(HOST001)), ["example.com/new", "example.com/special"]);
    assert_eq!(api.count(is_of_taints), 2);
}

#[tokio::test(start_paused = true)]
async fn a_node_without_taints_is_as_it_should_be() {
    let api = FakeApi::new();
    let mut object = node();
    object["spec"] = json!({});
    api.put(NODES, object);
    let writer = api.cluster().node(Some(TAINT.to_owned()));
    writer.publish(readiness(true));
    has_condition(&api, "False").await;
    assert_eq!(api.at(HOST001)["spec"], json!({}));
}

#[tokio::test(start_paused = true)]
async fn it_is_written_when_the_api_server_is_back_and_the_last_wins() {
    let api = api();
    api.set_mode(Mode::Away);
    let writer = api.cluster().node(None);
    writer.publish(readiness(true));
    tokio::time::sleep(Duration::from_secs(300)).await;
    writer.publish(readiness(false));
    api.set_mode(Mode::Up);
    has_condition(&api, "True").await;
    assert_eq!(api.count(Recorded::is_patch), 1);
}

/// The node with this in the places that say whether it is about to leave.
fn leaving(annotation: Option<&str>, cordoned: bool, ready: &str, message: &str) -> Value {
    let mut object = node();
    object["metadata"]["annotations"] = json!({"example.com/other": "x"});
    if let Some(value) = annotation {
        object["metadata"]["annotations"][DRAIN_ON_CORDON] = json!(value);
    }
    if cordoned {
        object["spec"]["unschedulable"] = json!(true);
    }
    object["status"]["conditions"] = json!([
        {"type": "MemoryPressure", "status": "False", "message": "node is shutting down"},
        {"type": "Ready", "status": ready, "reason": "KubeletNotReady", "message": message},
    ]);
    object
}

#[tokio::test(start_paused = true)]
async fn why_a_node_is_about_to_leave_is_told_at_each_change() {
    let api = FakeApi::new();
    let mut watch = api.cluster().leaving();
    let (stays, cordoned) = (Leaving::default(), Leaving { cordoned: true, ..Leaving::default() });
    let shutting_down = Leaving { shutting_down: true, ..Leaving::default() };
    for (object, expected) in [
        (leaving(None, false, "True", ""), Some(stays)),
        // Who cordons a node for something else does not take its pods from the network.
        (leaving(None, true, "True", ""), None),
        (leaving(Some("true"), true, "True", ""), Some(cordoned)),
        (leaving(Some("false"), true, "True", ""), Some(stays)),
        (leaving(Some("true"), false, "True", ""), None),
        (leaving(None, false, "False", "container runtime is down"), None),
        (leaving(None, false, "False", "node is shutting down"), Some(shutting_down)),
        (leaving(None, false, "True", "node is shutting down"), Some(stays)),
        (
            leaving(Some("true"), true, "False", "[container runtime is down, node is shutting down]"),
            Some(Leaving { cordoned: true, shutting_down: true }),
        ),
    ] {
        api.put(NODES, object);
        // The time is paused: it goes on when nothing else does.
        let told = tokio::time::timeout(Duration::from_secs(30), watch.changed()).await;
        assert_eq!(told.ok(), expected);
    }
    // Its agent still runs.
    api.delete(NODES, "", "host001");
    api.put(NODES, leaving(None, false, "True", ""));
    assert_eq!(watch.changed().await, stays);
}
