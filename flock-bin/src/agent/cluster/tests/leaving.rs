//! A node that is cordoned or shut down.

use flock_core::drain::{DrainPhase, DrainRecord};

use super::*;

fn node_object(cordoned: bool, message: &str) -> Value {
    json!({
        "metadata": {
            "name": "host001", "resourceVersion": "1",
            "annotations": {"flock.fritzlab.net/drain-on-cordon": "true"},
        },
        "spec": {"unschedulable": cordoned},
        "status": {"conditions": [{"type": "Ready", "status": "False", "message": message}]},
    })
}

fn with_bgp() -> Has {
    Has::NodeConfig(object(&json!({"cidr4": "10.0.1.0/24", "bgp": {"asn": 64512}})))
}

/// An agent that is about to announce the node, in a boot in which another one has done so or not.
async fn starting(config: NodeConfig, fresh: bool) -> Arc<Handler> {
    let backends = in_memory::backends(Arc::new(SystemClock));
    let drain = (!fresh).then(|| DrainRecord { boot_id: "boot-1".to_owned(), draining: None });
    let handler = Handler::new(backends, config, Settings { drain, ..Settings::new("boot-1") });
    handler.recover(&[]).await.unwrap();
    Arc::new(handler)
}

#[tokio::test(start_paused = true)]
async fn a_cordon_and_a_shutdown_drain_the_node_and_are_undone() {
    let directory = tempfile::tempdir().unwrap();
    let api = Api::with(with_bgp());
    let mut member = api.member(&directory);
    let (handler, _) = handler(member.node_config(&unready()).await).await;
    let (_bird, bird) = watch::channel(BirdStatus::Idle);
    let (_peers, peers) = watch::channel(Peers::Unknown);
    let sessions = Sessions::new(bird, peers);
    let status = |expected: Value| {
        let api = api.clone();
        async move {
            api.wrote("/nodeconfigs/host001/status", |status| {
                let bgp = &status[1]["value"]["bgp"];
                let drain = bgp["drain"].as_object().map(|drain| json!([drain["state"], drain["reasons"]]));
                bgp.is_object() && drain.unwrap_or_default() == expected
            })
            .await;
        }
    };
    following(member, &handler, Some(sessions), async {
        status(Value::Null).await;
        api.now_has_node(node_object(true, ""));
        status(json!(["Marked", ["Cordon"]])).await;
        api.now_has_node(node_object(true, "node is shutting down"));
        status(json!(["Marked", ["Cordon", "Shutdown"]])).await;
        api.now_has_node(node_object(false, ""));
        status(Value::Null).await;
    })
    .await;
    assert_eq!(handler.drain_phase(), None);
}

/// Before it announces anything, where the API server says so in time.
#[tokio::test(start_paused = true)]
async fn a_node_that_is_cordoned_when_it_starts_is_drained_from_the_start() {
    for (fresh, expected) in [(true, DrainPhase::Withdrawn), (false, DrainPhase::Marked)] {
        let directory = tempfile::tempdir().unwrap();
        let api = Api::with(with_bgp());
        api.now_has_node(node_object(true, ""));
        let mut member = api.member(&directory);
        let handler = starting(member.node_config(&unready()).await, fresh).await;
        member.take_up_leaving(&handler).await;
        assert_eq!(handler.drain_phase(), Some(expected));
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_of_which_nothing_is_told_starts_nevertheless() {
    let directory = tempfile::tempdir().unwrap();
    let mut member = Api::with(with_bgp()).member(&directory);
    let handler = starting(member.node_config(&unready()).await, true).await;
    let began = Instant::now();
    member.take_up_leaving(&handler).await;
    assert_eq!((handler.drain_phase(), began.elapsed()), (None, LEAVING_WAIT));
}
