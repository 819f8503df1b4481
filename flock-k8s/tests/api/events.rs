//! Events, as `kubectl describe` reads them.

use std::time::Duration;

use flock_core::name::{NodeName, PodKey};
use flock_k8s::events::{Event, Events, Severity};
use http::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::fake::{FakeApi, Mode, Recorded};
use crate::log::Log;
use crate::pods::key;

const EVENTS: &str = "/api/v1/events";

fn failed(message: &str) -> Event {
    Event { severity: Severity::Warning, reason: "FailedAttach", message: message.to_owned() }
}

fn say(events: &Events, pod: &str, message: &str) {
    events.pod(&key(pod), Some("1"), failed(message));
}

fn is_post(request: &Recorded) -> bool {
    request.method == Method::POST
}

/// Waits for an event that holds, and answers it.
async fn written(api: &FakeApi, holds: impl Fn(&Value) -> bool) -> Value {
    let mut found = None;
    api.until("the event is written", |state| {
        found = state.store.all(EVENTS).into_iter().find(&holds);
        found.is_some()
    })
    .await;
    found.unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_event_of_a_pod_names_it_so_that_describe_finds_it() {
    let api = FakeApi::new();
    let events = api.cluster().events();
    say(&events, "web", "10.0.1.0/24 is exhausted");
    let event = written(&api, |_| true).await;
    assert_eq!(event["metadata"]["namespace"], "default");
    assert_eq!(
        event["involvedObject"],
        json!({
            "apiVersion": "v1", "kind": "Pod", "namespace": "default", "name": "web", "uid": "1",
        })
    );
    assert_eq!((&event["type"], &event["reason"]), (&json!("Warning"), &json!("FailedAttach")));
    assert_eq!((&event["message"], &event["count"]), (&json!("10.0.1.0/24 is exhausted"), &json!(1)));
    assert_eq!(event["source"], json!({"component": "flock-agent", "host": "host001"}));
    assert_eq!(event["firstTimestamp"], event["lastTimestamp"]);
    assert!(event["firstTimestamp"].as_str().unwrap().ends_with('Z'));
    let path = api.see(|state| state.requests[0].path.clone());
    assert_eq!(path, "/api/v1/namespaces/default/events");
}

#[tokio::test(start_paused = true)]
async fn an_event_of_a_node_config_is_in_the_namespace_default() {
    let api = FakeApi::new();
    let event = Event { severity: Severity::Normal, reason: "InForce", message: String::new() };
    api.cluster().events().node_config(&NodeName::new("host001").unwrap(), "a", event);
    // Nothing is written for somebody who is gone already.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(api.count(|_| true), 0);

    let events = api.cluster().events();
    let event = Event { severity: Severity::Normal, reason: "InForce", message: String::new() };
    events.node_config(&NodeName::new("host001").unwrap(), "a", event);
    let event = written(&api, |_| true).await;
    assert_eq!(event["metadata"]["namespace"], "default");
    assert_eq!(
        event["involvedObject"],
        json!({
            "apiVersion": "flock.fritzlab.net/v1alpha1", "kind": "NodeConfig", "namespace": null,
            "name": "host001", "uid": "a",
        })
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_said_again_is_counted_in_one_event() {
    let api = FakeApi::new();
    let events = api.cluster().events();
    for number in 1..=50 {
        say(&events, "web", &format!("attempt {number}"));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let event = written(&api, |event| event["count"] == 50).await;
    assert_eq!(event["message"], "attempt 50");
    assert_eq!(api.see(|state| state.store.all(EVENTS).len()), 1);
    assert_eq!(api.count(Recorded::is_patch), 1);
    assert_eq!(events.dropped(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_event_that_the_api_server_has_forgotten_is_made_anew() {
    let api = FakeApi::new();
    let events = api.cluster().events();
    say(&events, "web", "one");
    let event = written(&api, |_| true).await;
    api.delete(EVENTS, "default", event["metadata"]["name"].as_str().unwrap());
    say(&events, "web", "two");
    let event = written(&api, |_| true).await;
    assert_eq!((&event["count"], &event["message"]), (&json!(2), &json!("two")));
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_written_is_written_when_the_api_server_is_back() {
    let api = FakeApi::new();
    let events = api.cluster().events();
    api.set_mode(Mode::Away);
    for pod in ["a", "b", "c"] {
        say(&events, pod, "one");
        say(&events, pod, "two");
    }
    tokio::time::sleep(Duration::from_secs(300)).await;
    let requests = api.count(|_| true);
    assert!((60..=130).contains(&requests), "{requests} requests in five minutes");
    api.set_mode(Mode::Up);
    for pod in ["a", "b", "c"] {
        let event = written(&api, |event| event["involvedObject"]["name"] == pod).await;
        assert_eq!(event["count"], 2);
    }
    assert_eq!(events.dropped(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_written_for_long_is_written_no_more() {
    let api = FakeApi::new();
    let events = api.cluster().events();
    api.set_mode(Mode::Away);
    say(&events, "web", "one");
    tokio::time::sleep(Duration::from_secs(900)).await;
    assert_eq!(events.dropped(), 1);
    api.set_mode(Mode::Up);
    say(&events, "other", "one");
    written(&api, |event| event["involvedObject"]["name"] == "other").await;
    assert_eq!(api.see(|state| state.store.all(EVENTS).len()), 1, "news of a quarter of an hour ago");
}

#[tokio::test(start_paused = true)]
async fn a_namespace_whose_events_are_not_answered_does_not_hold_up_the_others() {
    let api = FakeApi::new();
    // As where a webhook of that namespace takes long.
    api.ignore_all(is_of_default);
    let events = api.cluster().events();
    for number in 0..3 {
        say(&events, &format!("web-{number}"), "one");
    }
    let started = Instant::now();
    say_elsewhere(&events, "web");
    written(&api, |event| is_about(event, "other", "web")).await;
    assert!(started.elapsed() <= Duration::from_secs(60), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_goes_does_not_hold_up_the_others() {
    let api = FakeApi::new();
    api.refuse_next(is_post, 403, "events is forbidden: namespace default is being terminated");
    let events = api.cluster().events();
    say(&events, "a", "one");
    say(&events, "b", "one");
    let event = written(&api, |_| true).await;
    assert_eq!(event["involvedObject"]["name"], "b");
    assert_eq!(events.dropped(), 1);
}

fn is_of_default(request: &Recorded) -> bool {
    request.path.starts_with("/api/v1/namespaces/default/events")
}

fn is_about(event: &Value, namespace: &str, pod: &str) -> bool {
    event["involvedObject"]["namespace"] == namespace && event["involvedObject"]["name"] == pod
}

/// In a namespace of which nothing is refused.
fn say_elsewhere(events: &Events, pod: &str) {
    events.pod(&PodKey::new("other", pod).unwrap(), Some("1"), failed("one"));
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_takes_no_events_does_not_hold_up_the_others() {
    let log = Log::default();
    let _guard = log.install();
    let api = FakeApi::new();
    api.refuse_all(is_of_default, 403, "exceeded quota: count/events=100");
    let events = api.cluster().events();
    for number in 0..5 {
        say(&events, &format!("web-{number}"), "one");
    }
    say_elsewhere(&events, "web");
    let started = Instant::now();
    written(&api, |event| is_about(event, "other", "web")).await;
    assert!(started.elapsed() <= Duration::from_secs(1), "{:?}", started.elapsed());
    // In the end it is given up.
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!((api.count(is_of_default), events.dropped()), (25, 5));
    assert_eq!(log.count("refused"), 1, "{}", log.text());
}

#[tokio::test(start_paused = true)]
async fn what_was_refused_is_written_where_it_is_taken_later() {
    let api = FakeApi::new();
    api.refuse_all(is_of_default, 403, "events is forbidden");
    let events = api.cluster().events();
    say(&events, "web", "one");
    tokio::time::sleep(Duration::from_secs(60)).await;
    say(&events, "web", "two");
    api.refuse_none();
    let event = written(&api, |_| true).await;
    assert_eq!((&event["count"], &event["message"]), (&json!(2), &json!("two")));
    assert_eq!(events.dropped(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_namespace_where_writing_fails_does_not_hold_up_the_others() {
    let api = FakeApi::new();
    // As where a webhook of that namespace does not work.
    api.refuse_all(is_of_default, 500, "failed calling webhook");
    let events = api.cluster().events();
    for number in 0..20 {
        say(&events, &format!("web-{number}"), "one");
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    for number in 0..5 {
        say_elsewhere(&events, &format!("web-{number}"));
    }
    let started = Instant::now();
    for number in 0..5 {
        written(&api, |event| is_about(event, "other", &format!("web-{number}"))).await;
    }
    assert!(started.elapsed() <= Duration::from_secs(6), "{:?}", started.elapsed());
    assert_eq!(events.dropped(), 0, "it may work later");
    api.refuse_none();
    for number in 0..20 {
        written(&api, |event| is_about(event, "default", &format!("web-{number}"))).await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_says_too_much_at_once_does_not_wait_and_it_is_counted() {
    let api = FakeApi::new();
    let events = api.cluster().events();
    for number in 0..1000 {
        say(&events, &format!("web-{number}"), "one");
    }
    assert_eq!(events.dropped(), 1000 - 256);
    tokio::time::sleep(Duration::from_secs(10)).await;
    let written = api.count(is_post);
    assert!((25..=31).contains(&written), "{written} in ten seconds");
}

#[tokio::test(start_paused = true)]
async fn a_long_message_is_cut_between_letters() {
    let api = FakeApi::new();
    let events = api.cluster().events();
    say(&events, "web", &"ä".repeat(1000));
    let event = written(&api, |_| true).await;
    assert_eq!(event["message"], "ä".repeat(512));
}
