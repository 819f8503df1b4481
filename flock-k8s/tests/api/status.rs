//! The status of the NodeConfig, as people read it.

use std::time::Duration;

use flock_core::drain::{DrainPhase, DrainReason};
use flock_core::ipam::Usage;
use flock_k8s::Readiness;
use flock_k8s::node_config::{BgpStatus, DrainStatus, PeerStatus, RoutesStatus, Status};
use serde_json::{Value, json};

use crate::fake::{FakeApi, Mode, Recorded};
use crate::node_config::{NODE_CONFIGS, node_config};

const HOST001: &str = "/apis/flock.fritzlab.net/v1alpha1/nodeconfigs/host001";
const LONG_AGO: &str = "2001-02-03T04:05:06Z";

fn api() -> FakeApi {
    let api = FakeApi::new();
    api.put(NODE_CONFIGS, node_config("host001", "a", 3, &json!({"cidr6": "2001:db8:1::/64"})));
    api
}

fn status(ready: bool, in_use: u128) -> Status {
    let reason = if ready { "InForce" } else { "Invalid" };
    Status {
        uid: "a".to_owned(),
        generation: 3,
        readiness: Readiness { ready, reason: reason.to_owned(), message: "In words.".to_owned() },
        usage: vec![
            Usage { prefix: "2001:db8:1::/64".parse().unwrap(), size: (1 << 64) - 2, in_use, resting: 1 },
            Usage { prefix: "10.0.1.0/24".parse().unwrap(), size: 254, in_use, resting: 0 },
        ],
        bgp: None,
    }
}

fn is_ready(api: &FakeApi) -> Value {
    api.at(HOST001)["status"]["conditions"][0]["status"].clone()
}

async fn written(api: &FakeApi, in_use: u64) {
    let is_written = |object: &Value| object["status"]["addresses"]["ipv4"]["inUse"] == in_use;
    api.until("it is written", |state| state.store.at(HOST001).is_some_and(is_written)).await;
}

#[tokio::test(start_paused = true)]
async fn it_says_what_people_want_to_know() {
    let api = api();
    let writer = api.cluster().node_config_status();
    writer.publish(status(true, 2));
    written(&api, 2).await;
    let mut object = api.at(HOST001);
    let since = object["status"]["conditions"][0]["lastTransitionTime"].take();
    assert!(since.as_str().unwrap().starts_with("20"), "{since}");
    assert_eq!(
        object["status"],
        json!({
            "observedGeneration": 3,
            "conditions": [{
                "type": "Ready", "status": "True", "reason": "InForce", "message": "In words.",
                "observedGeneration": 3, "lastTransitionTime": null,
            }],
            "addresses": {
                "ipv6": {"prefix": "2001:db8:1::/64", "inUse": 2, "resting": 1, "free": "18446744073709551611"},
                "ipv4": {"prefix": "10.0.1.0/24", "inUse": 2, "resting": 0, "free": "252"},
            },
        })
    );
    assert_eq!(object["spec"], json!({"cidr6": "2001:db8:1::/64"}));
}

#[tokio::test(start_paused = true)]
async fn it_says_how_the_sessions_are() {
    let api = api();
    let writer = api.cluster().node_config_status();
    let up = PeerStatus {
        name: "tor1".to_owned(),
        address: Some("fe80::1%eth0".to_owned()),
        asn: Some(4_200_000_000),
        state: "Established".to_owned(),
        ipv6: Some(RoutesStatus::new(u64::MAX, 2)),
        ..PeerStatus::default()
    };
    let at = std::time::SystemTime::UNIX_EPOCH + Duration::from_millis(981_173_106_900);
    let refused = PeerStatus {
        name: "tor2".to_owned(),
        state: "Refused".to_owned(),
        last_error: Some("In words.".to_owned()),
        ..PeerStatus::default()
    };
    let bgp = BgpStatus {
        established: "1/2".to_owned(),
        message: Some("In other words.".to_owned()),
        drain: Some(DrainStatus::new(
            &DrainPhase::Marked,
            Some(at),
            &[DrainReason::Cordon, DrainReason::NodeConfig].into(),
        )),
        peers: vec![up.since(Some(at)), refused],
    };
    let bgp = Status { bgp: Some(bgp), ..status(true, 1) };
    writer.publish(bgp.clone());
    written(&api, 1).await;
    assert_eq!(
        api.at(HOST001)["status"]["bgp"],
        json!({
            "established": "1/2",
            "message": "In other words.",
            "drain": {"state": "Marked", "since": LONG_AGO, "reasons": ["NodeConfig", "Cordon"]},
            "peers": [
                {
                    "name": "tor1", "address": "fe80::1%eth0", "asn": 4_200_000_000_u32, "state": "Established",
                    "since": LONG_AGO, "ipv6": {"received": i64::MAX, "advertised": 2},
                },
                {"name": "tor2", "state": "Refused", "lastError": "In words."},
            ],
        })
    );
    // A new agent finds it as it stands there.
    api.cluster().node_config_status().publish(bgp);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(api.count(Recorded::is_patch), 1);
    writer.publish(status(true, 2));
    written(&api, 2).await;
    assert_eq!(api.at(HOST001)["status"]["bgp"], Value::Null);
}

#[tokio::test(start_paused = true)]
async fn the_time_of_the_transition_is_that_of_the_last_flip() {
    let api = api();
    let mut object = api.at(HOST001);
    object["status"] = json!({"conditions": [{
        "type": "Ready", "status": "True", "reason": "Old", "message": "", "lastTransitionTime": LONG_AGO,
    }]});
    api.put(NODE_CONFIGS, object);
    let writer = api.cluster().node_config_status();
    let since = || api.at(HOST001)["status"]["conditions"][0]["lastTransitionTime"].clone();
    // Also after a restart of the agent, which knows nothing of it.
    for in_use in [1, 2] {
        writer.publish(status(true, in_use.into()));
        written(&api, in_use).await;
        assert_eq!(since(), LONG_AGO);
    }
    writer.publish(status(false, 3));
    written(&api, 3).await;
    assert_ne!(since(), LONG_AGO);
    assert_eq!(is_ready(&api), "False");
}

#[tokio::test(start_paused = true)]
async fn what_stands_there_is_not_written_again() {
    let api = api();
    let writer = api.cluster().node_config_status();
    writer.publish(status(true, 1));
    written(&api, 1).await;
    writer.publish(status(true, 1));
    // A new agent says the same.
    let again = api.cluster().node_config_status();
    again.publish(status(true, 1));
    again.publish(status(true, 1));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(api.count(Recorded::is_patch), 1);
}

#[tokio::test(start_paused = true)]
async fn many_changes_are_written_together_and_the_last_wins() {
    let api = api();
    let writer = api.cluster().node_config_status();
    let started = tokio::time::Instant::now();
    for in_use in 1..=100 {
        writer.publish(status(true, in_use));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    written(&api, 100).await;
    let (seconds, patches) = (started.elapsed().as_secs(), api.count(Recorded::is_patch));
    assert!((5..=12).contains(&patches), "{patches} patches in {seconds} s");
}

#[tokio::test(start_paused = true)]
async fn it_is_written_when_the_api_server_is_back() {
    let api = api();
    let writer = api.cluster().node_config_status();
    api.set_mode(Mode::Away);
    writer.publish(status(true, 1));
    tokio::time::sleep(Duration::from_secs(300)).await;
    writer.publish(status(true, 2));
    api.set_mode(Mode::Up);
    written(&api, 2).await;
    assert_eq!(api.count(Recorded::is_patch), 1);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_answers_nothing_is_tried_again() {
    let api = api();
    let writer = api.cluster().node_config_status();
    api.set_mode(Mode::Silent);
    writer.publish(status(true, 1));
    api.until("it was tried twice", |state| state.requests.len() == 2).await;
    api.set_mode(Mode::Up);
    written(&api, 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_patch_that_is_refused_is_tried_again_from_what_stands_there() {
    let api = api();
    api.refuse_next(Recorded::is_patch, 500, "etcdserver: request timed out");
    let writer = api.cluster().node_config_status();
    writer.publish(status(true, 1));
    written(&api, 1).await;
    assert_eq!((api.count(Recorded::is_list), api.count(Recorded::is_patch)), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn it_is_not_written_to_another_one_of_the_same_name() {
    let api = api();
    let writer = api.cluster().node_config_status();
    writer.publish(status(true, 1));
    written(&api, 1).await;
    let anew = node_config("host001", "b", 1, &json!({"cidr6": "2001:db8:2::/64"}));
    api.before_next(Recorded::is_patch, move |store| {
        store.delete(NODE_CONFIGS, "", "host001");
        store.put(NODE_CONFIGS, anew);
    });
    writer.publish(status(true, 2));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(api.at(HOST001)["status"], Value::Null);
    writer.publish(Status { uid: "b".to_owned(), ..status(true, 3) });
    written(&api, 3).await;
}

#[tokio::test(start_paused = true)]
async fn one_made_anew_is_read_anew() {
    let api = api();
    let writer = api.cluster().node_config_status();
    writer.publish(status(true, 1));
    written(&api, 1).await;
    api.delete(NODE_CONFIGS, "", "host001");
    let mut anew = node_config("host001", "b", 1, &json!({"cidr6": "2001:db8:2::/64"}));
    anew["status"] = json!({"conditions": "of somebody who knows better"});
    api.put(NODE_CONFIGS, anew);
    writer.publish(Status { uid: "b".to_owned(), ..status(true, 2) });
    written(&api, 2).await;
    assert_eq!(api.count(Recorded::is_patch), 2, "none was refused");
}

#[tokio::test(start_paused = true)]
async fn one_that_is_gone_is_left_alone() {
    let api = api();
    let writer = api.cluster().node_config_status();
    writer.publish(status(true, 1));
    written(&api, 1).await;
    api.delete(NODE_CONFIGS, "", "host001");
    writer.publish(status(true, 2));
    tokio::time::sleep(Duration::from_secs(60)).await;
    let patches = api.count(Recorded::is_patch);
    assert_eq!(patches, 2, "it was tried once");
}
