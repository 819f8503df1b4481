//! What STATUS says.

use flock_core::cni::{Code, RawCall, Verb};
use flock_core::frame::{Request, Response};
use flock_core::handler::{HandlerError, Status};
use flock_core::ipam::IpamError;
use flock_core::node_config::NodeConfig;
use flock_core::server::Service;

use crate::faults::Faults;
use crate::node::{NODE_CONFIG, Node, World, settings};

async fn recovered(world: &World) -> Node {
    let node = world.node(Faults::failing([]));
    node.recover().await.unwrap();
    node
}

fn request(version: &str) -> Request {
    let config = format!(r#"{{"cniVersion": "{version}", "name": "flock", "type": "flock"}}"#);
    Request::new(&RawCall { verb: Verb::Status, config: config.as_bytes(), ..RawCall::default() }).unwrap()
}

async fn asked(node: &Node) -> Result<(), (Code, String)> {
    match node.handler.call(request("1.1.0")).await {
        Response::Error(error) => Err((error.code, error.msg)),
        Response::Result(_) => Ok(()),
    }
}

#[tokio::test]
async fn a_node_with_free_addresses_and_announcements_is_ready() {
    let node = recovered(&World::new()).await;
    assert_eq!(node.handler.status().await.unwrap(), Status::default());
    assert_eq!(asked(&node).await, Ok(()));
}

#[tokio::test]
async fn a_version_without_status_is_refused() {
    let node = recovered(&World::new()).await;
    let Response::Error(error) = node.handler.call(request("1.0.0")).await else { panic!("success") };
    assert_eq!(error.code, Code::INCOMPATIBLE_VERSION);
}

/// One of the two families is enough: a pod asks for both.
#[tokio::test]
async fn an_exhausted_prefix_is_named_with_its_numbers() {
    let world = World::new();
    let config = NODE_CONFIG.replace("10.0.1.0/28", "10.0.1.0/30");
    let node = world.node_with(Faults::failing([]), &config, settings());
    node.recover().await.unwrap();
    node.add(1, &[]).await.unwrap();
    assert_eq!(asked(&node).await, Ok(()));
    node.add(2, &[]).await.unwrap();
    let in_use: Vec<_> = node
        .handler
        .usage()
        .await
        .unwrap()
        .iter()
        .map(|usage| (usage.prefix.to_string(), usage.in_use))
        .collect();
    assert_eq!(in_use, [("2001:db8:1::/124".to_owned(), 2), ("10.0.1.0/30".to_owned(), 2)]);
    let full = "10.0.1.0/30 is exhausted: 2 addresses in all, 2 in use, 0 resting after release; \
                delete pods on this node, wait for resting addresses, or give the node a larger prefix";
    assert_eq!(asked(&node).await, Err((Code::NOT_AVAILABLE, full.to_owned())));

    // What waits for the reaper is of no use to an ADD before it has rested.
    node.del(2).await.unwrap();
    assert_eq!(asked(&node).await, Err((Code::NOT_AVAILABLE, full.to_owned())));
    let refused = node.add(3, &[]).await.unwrap_err();
    assert!(matches!(refused, HandlerError::Ipam(IpamError::Exhausted(_))), "{refused}");
    let (code, msg) = asked(&node).await.unwrap_err();
    assert_eq!(code, Code::NOT_AVAILABLE);
    assert!(msg.starts_with("10.0.1.0/30 is exhausted: 2 addresses in all, 1 in use, 1 resting"), "{msg}");
    world.clock.advance(std::time::Duration::from_secs(30));
    assert_eq!(asked(&node).await, Ok(()));
    node.add(3, &[]).await.unwrap();
}

#[tokio::test]
async fn announcements_that_are_not_up_to_date_limit_pods() {
    let world = World::new();
    let faults = Faults::failing([]);
    let node = world.node(faults.clone());
    node.recover().await.unwrap();
    // The next announcement fails, and the reaper's as well.
    let config = NodeConfig::from_yaml(NODE_CONFIG, "test").unwrap();
    let counting = Faults::failing([]);
    let counted = World::new().node(counting.clone());
    counted.recover().await.unwrap();
    let before = counting.calls();
    counted.handler.reconfigure(config.clone()).await.unwrap();
    let sync = counting.log()[before..].iter().position(|call| *call == "announcer.sync").unwrap();
    faults.fail_later(sync);
    node.handler.reconfigure(config).await.unwrap();
    let (code, msg) = asked(&node).await.unwrap_err();
    assert_eq!(
        (code, msg.as_str()),
        (Code::LIMITED, "announcements are not up to date: announcer: injected")
    );
    node.handler.reap().await;
    assert_eq!(asked(&node).await, Ok(()));
}

/// Whatever went wrong: a runtime takes this code, and no other, for a node without a network.
#[tokio::test]
async fn a_node_of_which_nothing_can_be_told_is_not_ready() {
    let faults = Faults::failing([]);
    let node = World::new().node(faults.clone());
    node.recover().await.unwrap();
    faults.fail_later(0);
    assert_eq!(asked(&node).await.unwrap_err().0, Code::NOT_AVAILABLE);
}

/// Both are said, and the graver code wins.
#[test]
fn a_limit_is_graver_than_exhaustion() {
    let usage =
        flock_core::ipam::Usage { prefix: "10.0.1.0/30".parse().unwrap(), size: 2, in_use: 2, resting: 0 };
    let status = Status { exhausted: vec![usage], limits: vec!["BIRD is away".to_owned()] };
    let error = status.answer().unwrap_err();
    assert_eq!(error.code, Code::LIMITED);
    assert!(error.msg.starts_with("BIRD is away; 10.0.1.0/30 is exhausted"), "{}", error.msg);
}
