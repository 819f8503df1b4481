//! The NodeConfig of the node, and no other one.

use std::time::Duration;

use flock_k8s::node_config::{NodeConfigState, NodeConfigWatch};
use futures_util::FutureExt;
use serde_json::{Value, json};

use crate::fake::{FakeApi, Mode, Recorded};

pub const NODE_CONFIGS: &str = "/apis/flock.fritzlab.net/v1alpha1/nodeconfigs";

pub fn node_config(name: &str, uid: &str, generation: i64, spec: &Value) -> Value {
    json!({
        "apiVersion": "flock.fritzlab.net/v1alpha1", "kind": "NodeConfig",
        "metadata": {"name": name, "uid": uid, "generation": generation}, "spec": spec,
    })
}

async fn changed(watch: &mut NodeConfigWatch) -> NodeConfigState {
    tokio::time::timeout(Duration::from_secs(600), watch.changed()).await.expect("changed in time")
}

#[tokio::test(start_paused = true)]
async fn it_is_followed_from_missing_to_missing() {
    let api = FakeApi::new();
    let mut watch = api.cluster().node_config();
    assert_eq!(watch.current(), NodeConfigState::Unknown);
    assert_eq!(changed(&mut watch).await, NodeConfigState::Missing);

    api.put(NODE_CONFIGS, node_config("host002", "other", 1, &json!({"cidr4": "10.0.2.0/24"})));
    api.put(NODE_CONFIGS, node_config("host001", "a", 1, &json!({"cidr4": "10.0.1.0/24"})));
    let NodeConfigState::Valid { uid, generation, config } = changed(&mut watch).await else { panic!() };
    assert_eq!((uid.as_str(), generation), ("a", 1));
    assert_eq!(config.cidrs.ipv4.unwrap().to_string(), "10.0.1.0/24");

    api.put(NODE_CONFIGS, node_config("host001", "a", 2, &json!({"cidr4": "10.0.1.1/24"})));
    let NodeConfigState::Invalid { uid, generation, error } = changed(&mut watch).await else { panic!() };
    assert_eq!((uid.as_str(), generation), ("a", 2));
    assert_eq!(
        error.to_string(),
        "NodeConfig host001: spec.cidr4 is 10.0.1.1/24, which has bits set beyond its length; expected 10.0.1.0/24"
    );

    api.delete(NODE_CONFIGS, "", "host001");
    assert_eq!(changed(&mut watch).await, NodeConfigState::Missing);
}

#[tokio::test(start_paused = true)]
async fn what_can_not_be_read_is_invalid_and_does_not_break_the_watch() {
    let api = FakeApi::new();
    let mut watch = api.cluster().node_config();
    changed(&mut watch).await;
    for (spec, expected) in [
        (json!({"cidr4": "10.0.1.0/24", "bgp": {"asn": "AS64512"}}), "spec: invalid type: string"),
        (json!(null), "spec: invalid type: null"),
        (json!({}), "sets neither cidr6 nor cidr4"),
    ] {
        api.put(NODE_CONFIGS, node_config("host001", "a", 1, &spec));
        let NodeConfigState::Invalid { error, .. } = changed(&mut watch).await else { panic!("{spec}") };
        assert!(error.to_string().contains(expected), "{error}");
    }
    assert_eq!(watch.health().restarts, 0);
}

#[tokio::test(start_paused = true)]
async fn fields_of_a_later_release_are_ignored() {
    let api = FakeApi::new();
    let spec = json!({
        "cidr4": "10.0.1.0/24", "colour": "red",
        "bgp": {
            "asn": 64512, "holdTime": 9,
            "peers": [{"name": "tor1", "address": "192.0.2.1", "asn": 64500, "password": {"secret": "x"}}],
        },
    });
    api.put(NODE_CONFIGS, node_config("host001", "a", 1, &spec));
    let mut watch = api.cluster().node_config();
    let state = changed(&mut watch).await;
    let NodeConfigState::Valid { config, .. } = state else { panic!("{state:?}") };
    assert_eq!(config.cidrs.ipv4.unwrap().to_string(), "10.0.1.0/24");
    assert_eq!(config.bgp.unwrap().peers.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_change_of_the_status_is_no_change() {
    let api = FakeApi::new();
    let mut object = node_config("host001", "a", 1, &json!({"cidr4": "10.0.1.0/24"}));
    api.put(NODE_CONFIGS, object.clone());
    let mut watch = api.cluster().node_config();
    changed(&mut watch).await;
    api.until("the watch stands", |state| state.watches.count(NODE_CONFIGS) == 1).await;
    object["status"] = json!({"observedGeneration": 1});
    api.put(NODE_CONFIGS, object);
    // Long enough for it to arrive.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(watch.changed().now_or_never().is_none());
    api.put(NODE_CONFIGS, node_config("host001", "a", 2, &json!({"cidr4": "10.0.2.0/24"})));
    let NodeConfigState::Valid { generation, .. } = changed(&mut watch).await else { panic!() };
    assert_eq!(generation, 2);
}

#[tokio::test(start_paused = true)]
async fn one_made_anew_with_the_same_spec_is_a_change() {
    let api = FakeApi::new();
    let spec = json!({"cidr4": "10.0.1.0/24"});
    api.put(NODE_CONFIGS, node_config("host001", "a", 1, &spec));
    let mut watch = api.cluster().node_config();
    changed(&mut watch).await;
    // All that the client sees of it is the second one.
    api.set_mode(Mode::Away);
    api.delete(NODE_CONFIGS, "", "host001");
    api.put(NODE_CONFIGS, node_config("host001", "b", 1, &spec));
    api.compact();
    api.set_mode(Mode::Up);
    let NodeConfigState::Valid { uid, .. } = changed(&mut watch).await else { panic!() };
    assert_eq!(uid, "b");
}

#[tokio::test(start_paused = true)]
async fn it_stays_known_while_the_api_server_is_away() {
    let api = FakeApi::new();
    api.put(NODE_CONFIGS, node_config("host001", "a", 1, &json!({"cidr4": "10.0.1.0/24"})));
    let mut watch = api.cluster().node_config();
    let before = changed(&mut watch).await;
    api.set_mode(Mode::Away);
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert!(watch.changed().now_or_never().is_none());
    assert_eq!(watch.current(), before);
}

#[tokio::test(start_paused = true)]
async fn a_definition_that_is_not_there_is_said() {
    let api = FakeApi::new();
    api.refuse_next(Recorded::is_list, 404, "the server could not find the requested resource");
    let mut watch = api.cluster().node_config();
    api.until("it was asked", |state| state.requests.len() == 1).await;
    tokio::task::yield_now().await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(watch.current(), NodeConfigState::Unknown);
    assert_eq!(
        watch.health().error.unwrap(),
        r#"the API server answers 404 "the server could not find the requested resource""#
    );
    assert_eq!(changed(&mut watch).await, NodeConfigState::Missing);
}

#[tokio::test(start_paused = true)]
async fn a_clone_is_a_reader_of_its_own() {
    let api = FakeApi::new();
    let mut watch = api.cluster().node_config();
    let mut other = watch.clone();
    drop(api.cluster());
    assert_eq!(changed(&mut watch).await, NodeConfigState::Missing);
    drop(watch);
    assert_eq!(changed(&mut other).await, NodeConfigState::Missing);
    assert_eq!(api.count(Recorded::is_list), 1);
}
