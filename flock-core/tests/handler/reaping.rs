//! The reaper, and an ADD that comes while it removes what is in the way.

use std::time::{Duration, Instant};

use flock_core::cni::{Call, Verb};

use crate::faults::Faults;
use crate::node::{World, call, namespace};

/// Adds and deletes with `first`, then adds with `second` while the reaper is at it.
async fn add_while_reaping(first: &Call, second: &Call) {
    let world = World::new();
    let node = world.node(Faults::failing([]));
    node.recover().await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    node.handler.add(first, deadline).await.unwrap();
    node.handler.del(first).await.unwrap();
    let (left, added) = tokio::join!(node.handler.reap(), node.handler.add(second, deadline));
    assert_eq!(left, 0);
    added.unwrap();
}

#[tokio::test]
async fn a_namespace_whose_interface_is_being_removed_is_waited_for() {
    let mut second = call(Verb::Add, 2, &[]);
    second.netns = Some(namespace(1).into());
    add_while_reaping(&call(Verb::Add, 1, &[]), &second).await;
}

#[tokio::test]
async fn an_address_whose_link_is_being_removed_is_waited_for() {
    let wanted = [("ipv6", "2001:db8:1::7")];
    add_while_reaping(&call(Verb::Add, 1, &wanted), &call(Verb::Add, 2, &wanted)).await;
}

/// The reaper gathers for a moment, and ends when it is told to.
#[tokio::test(start_paused = true)]
async fn the_reaper_removes_links_together() {
    let world = World::new();
    let node = world.node(Faults::failing([]));
    node.recover().await.unwrap();
    for pod in 0..5 {
        node.add(pod, &[]).await.unwrap();
    }
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let work = async {
        for pod in 0..5 {
            node.del(pod).await.unwrap();
        }
        assert_eq!(world.dataplane.links().len(), 5, "links are removed before they are gathered");
        while !world.dataplane.links().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        stop.send(()).unwrap();
    };
    let until = async { stopped.await.unwrap() };
    tokio::join!(work, node.handler.run_reaper(until));
    let reaps = node.faults.log().into_iter().filter(|call| *call == "dataplane.reap").count();
    assert_eq!(reaps, 1);
    world.assert_empty(&node).await;
}

/// One link costs an ADD about 45 ms: it waits for no more than what is in its way, also where the
/// pod of that name asks for nothing that only it can have back.
#[tokio::test]
async fn what_is_not_in_the_way_of_an_add_is_left_to_the_reaper() {
    let world = World::new();
    let node = world.node(Faults::failing([]));
    node.recover().await.unwrap();
    node.add(1, &[]).await.unwrap();
    node.del(1).await.unwrap();
    let mut other_namespace = call(Verb::Add, 2, &[]);
    // The same pod and interface in a sandbox of its own, as after a restart of the pod.
    other_namespace.args.pod = call(Verb::Add, 1, &[]).args.pod;
    let mut other_interface = call(Verb::Add, 3, &[]);
    other_interface.netns = Some(namespace(1).into());
    other_interface.key.interface = "net1".parse().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    for call in [&other_namespace, &other_interface] {
        node.handler.add(call, deadline).await.unwrap();
    }
    assert!(!node.faults.log().contains(&"dataplane.reap"), "{:?}", node.faults.log());
    assert_eq!(node.handler.reap().await, 0);
    assert_eq!(world.dataplane.links().len(), 2);
}
