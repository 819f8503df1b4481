//! What the verbs promise beyond the order of calls.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flock_core::attachment::AttachmentKey;
use flock_core::cni::{Call, CniResult, Verb};
use flock_core::dataplane::{AnycastRoute, AnycastState, Dataplane, NodeFacts};
use flock_core::handler::{Backends, Handler, HandlerError, Settings};
use flock_core::ipam::MemoryIpam;
use flock_core::name::ContainerId;
use flock_core::node_config::NodeConfig;
use flock_core::pods::{FixedPods, PodInfo};
use flock_core::store::Store;
use futures_util::FutureExt;
use tokio::sync::oneshot;

use crate::faults::Faults;
use crate::node::{NODE_CONFIG, Node, World, call, key, namespace, pod_key};

async fn recovered(world: &World) -> Node {
    let node = world.node(Faults::failing([]));
    node.recover().await.unwrap();
    node
}

async fn add(node: &Node, call: &Call) -> Result<CniResult, HandlerError> {
    node.handler.add(call, Instant::now() + Duration::from_secs(60)).await
}

/// An ADD that waits for its pod holds up a DEL of the same attachment and nobody else.
#[tokio::test]
async fn requests_for_one_attachment_are_serialised_and_others_do_not_wait() {
    let (world, pods) = (World::new(), FixedPods::new());
    let backends = Backends {
        ipam: Arc::new(MemoryIpam::new(world.clock.clone(), Duration::ZERO, 1)),
        store: world.store.clone(),
        dataplane: world.dataplane.clone(),
        announcer: world.announcer.clone(),
        pods: Arc::new(pods.clone()),
        clock: world.clock.clone(),
    };
    let config = NodeConfig::from_yaml(NODE_CONFIG, "test").unwrap();
    let handler = Handler::new(backends, config, Settings::new("boot-1"));
    handler.recover(&[]).await.unwrap();
    handler.publish().await.unwrap();
    pods.insert(pod_key(2), PodInfo::default());
    let waits_for_its_pod = call(Verb::Add, 1, &[]);
    let (del, other) = (call(Verb::Del, 1, &[]), call(Verb::Add, 2, &[]));

    let deadline = Instant::now() + Duration::from_secs(60);
    let mut first = pin!(handler.add(&waits_for_its_pod, deadline));
    assert!(first.as_mut().now_or_never().is_none());
    let mut second = pin!(handler.del(&del));
    assert!(second.as_mut().now_or_never().is_none(), "DEL did not wait for the ADD before it");
    handler.add(&other, deadline).await.unwrap();
    pods.insert(pod_key(1), PodInfo::default());
    first.await.unwrap();
    second.await.unwrap();
    assert_eq!(handler.reap().await, 0);
    assert_eq!(world.dataplane.links().len(), 1);
    assert!(world.dataplane.is_attached(&key(2)));
}

#[tokio::test]
async fn a_container_that_moved_to_another_namespace_is_attached_there() {
    let world = World::new();
    let node = recovered(&world).await;
    node.add(1, &[]).await.unwrap();
    let moved = world.dataplane.add_namespace(namespace(1));
    node.add(1, &[]).await.unwrap();
    let record = world.store.get(&key(1)).await.unwrap().unwrap();
    assert!(record.netns.is_same(&moved), "{record:?}");
    assert!(world.dataplane.is_attached(&key(1)));
}

#[tokio::test]
async fn a_namespace_is_free_for_another_container_as_soon_as_del_has_answered() {
    let world = World::new();
    let node = recovered(&world).await;
    node.add(1, &[]).await.unwrap();
    node.del(1).await.unwrap();
    assert_eq!(world.dataplane.links().len(), 1, "the link is left to the reaper");
    let mut other = call(Verb::Add, 2, &[]);
    other.netns = Some(namespace(1).into());
    add(&node, &other).await.unwrap();
    assert_eq!(node.handler.reap().await, 0);
    assert!(world.dataplane.is_attached(&key(2)));
}

#[tokio::test]
async fn a_static_address_is_free_for_another_pod_as_soon_as_del_has_answered() {
    let world = World::new();
    let node = recovered(&world).await;
    let annotations = [("ipv6", "2001:db8:1::7")];
    node.add(1, &annotations).await.unwrap();
    node.del(1).await.unwrap();
    node.add(2, &annotations).await.unwrap();
    assert_eq!(world.dataplane.links().len(), 1);
}

#[tokio::test]
async fn a_host_side_whose_name_is_taken_gets_the_other_name() {
    let world = World::new();
    let node = recovered(&world).await;
    let [first, second] = key(1).host_interface_candidates();
    world.dataplane.add_foreign_host_interface(first.clone());
    node.add(1, &[]).await.unwrap();
    assert_eq!(world.store.get(&key(1)).await.unwrap().unwrap().host_interface, second);
    node.check(1).await.unwrap();

    let [taken, also_taken] = key(2).host_interface_candidates();
    world.dataplane.add_foreign_host_interface(taken.clone());
    world.dataplane.add_foreign_host_interface(also_taken.clone());
    let error = node.add(2, &[]).await.unwrap_err().to_string();
    let expected = format!(
        "both {taken} and {also_taken}, the names for the host side of {}, belong to other attachments",
        key(2)
    );
    assert_eq!(error, expected);
    node.delete_all().await;
    world.assert_empty(&node).await;
}

#[tokio::test]
async fn check_compares_with_what_the_runtime_was_given() {
    let world = World::new();
    let node = recovered(&world).await;
    let given = node.add(1, &[]).await.unwrap();
    let mut check = call(Verb::Check, 1, &[]);
    check.config.prev_result = Some(given.clone());
    node.handler.check(&check).await.unwrap();

    let mut other = given;
    let lost = other.ips.remove(0).address;
    check.config.prev_result = Some(other);
    let error = node.handler.check(&check).await.unwrap_err();
    assert!(matches!(error, HandlerError::PrevResult { .. }), "{error}");
    assert!(error.to_string().contains(&lost.to_string()), "{error}");
}

#[tokio::test]
async fn check_of_what_is_not_there_or_elsewhere_says_so() {
    let world = World::new();
    let node = recovered(&world).await;
    let error = node.check(1).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "there is no attachment container1/eth0 on this node; it was never added, or has been deleted"
    );
    node.add(1, &[]).await.unwrap();
    let mut elsewhere = call(Verb::Check, 1, &[]);
    elsewhere.netns = Some(namespace(2).into());
    let error = node.handler.check(&elsewhere).await.unwrap_err();
    assert!(matches!(error, HandlerError::OtherNamespace { .. }), "{error}");
}

#[tokio::test]
async fn a_namespace_that_another_container_uses_is_left_alone_by_del() {
    let world = World::new();
    let node = recovered(&world).await;
    node.add(1, &[]).await.unwrap();
    let mut unknown = call(Verb::Del, 1, &[]);
    unknown.key = AttachmentKey::new(ContainerId::new("unknown").unwrap(), key(1).interface);
    node.handler.del(&unknown).await.unwrap();
    assert_eq!(node.handler.reap().await, 0);
    assert!(world.dataplane.is_attached(&key(1)));
}

/// Time is tokio's here: it goes on by itself when everybody waits.
#[tokio::test(start_paused = true)]
async fn the_reaper_goes_on_after_a_failure_until_nothing_is_left() {
    let world = World::new();
    // Calls of recover, ADD and DEL, then the first three removals.
    let counting = Faults::failing([]);
    let node = World::new().node(counting.clone());
    node.recover().await.unwrap();
    node.add(1, &[]).await.unwrap();
    node.del(1).await.unwrap();
    let before = counting.calls();

    let node = world.node(Faults::failing(before..before + 3));
    node.recover().await.unwrap();
    node.add(1, &[]).await.unwrap();
    node.del(1).await.unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let reaper = node.handler.run_reaper(async {
        let _ = stopped.await;
    });
    let emptied = async {
        while !world.dataplane.links().is_empty() || !world.store.list().await.unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        stop.send(()).unwrap();
    };
    let both = async { tokio::join!(reaper, emptied) };
    tokio::time::timeout(Duration::from_secs(60), both).await.unwrap();
    world.assert_empty(&node).await;
}

/// The routes to anycast addresses are the node's, but a pod that lost its own is not as it was.
#[tokio::test]
async fn check_names_the_anycast_routes_that_are_gone_and_a_repeated_add_brings_them_back() {
    let world = World::new();
    let node = recovered(&world).await;
    let served = [("anycast", "2001:db8:a::1, 198.51.100.1")];
    for (pod, annotations) in [(0, &[][..]), (1, &served), (2, &served[..])] {
        node.add(pod, annotations).await.unwrap();
    }
    let routes = world.dataplane.anycast(AnycastState::Announced);
    world.dataplane.lose_node_routes();
    node.check(0).await.unwrap();
    for pod in [1, 2] {
        let said = node.check(pod).await.unwrap_err().to_string();
        for lost in ["2001:db8:a::1/128", "198.51.100.1/32"] {
            assert!(said.contains(&format!("host side: the route to {lost} is missing")), "{said}");
        }
    }
    node.add(1, &served).await.unwrap();
    assert_eq!(world.dataplane.anycast(AnycastState::Announced), routes);
    for pod in [1, 2] {
        node.check(pod).await.unwrap();
    }
}

/// A route that has lost another of its servers still leads to this one.
#[tokio::test]
async fn check_says_nothing_of_an_anycast_route_that_has_lost_another_server() {
    let world = World::new();
    let node = recovered(&world).await;
    let served = [("anycast", "2001:db8:a::1")];
    for pod in [1, 2] {
        node.add(pod, &served).await.unwrap();
    }
    let (address, mut servers) = world.dataplane.anycast(AnycastState::Announced).pop_first().unwrap();
    servers.retain(|server| server.key == key(1));
    let route = AnycastRoute::announced(address, servers.into_iter().collect());
    world.dataplane.set_anycast(&[route]).await.unwrap();
    node.check(1).await.unwrap();
    let said = node.check(2).await.unwrap_err().to_string();
    assert!(said.contains("the route to 2001:db8:a::1/128 is missing"), "{said}");
}

/// Nobody takes an address of the node or of a router away by serving it.
#[tokio::test]
async fn an_anycast_address_of_the_node_or_of_a_peer_is_refused() {
    let world = World::new();
    let own = "2001:db8:ffff::2".parse().unwrap();
    world.dataplane.set_facts(NodeFacts { addresses: vec![own], ..NodeFacts::default() });
    let node = recovered(&world).await;
    for (address, reason) in [("2001:db8:ffff::2", "own addresses"), ("2001:db8:ffff::1", "BGP peers")] {
        let error = node.add(1, &[("anycast", address)]).await.unwrap_err().to_string();
        assert!(error.contains(address) && error.contains(reason), "{error}");
    }
    world.assert_empty(&node).await;
}
