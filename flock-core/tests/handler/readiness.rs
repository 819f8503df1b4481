//! Anycast addresses follow the readiness of the pods that serve them.

use std::collections::BTreeSet;
use std::future::Future;
use std::net::IpAddr;
use std::task::{Context, Poll};
use std::time::Duration;

use flock_core::announcer::Announcements;
use flock_core::attachment::AttachmentKey;
use flock_core::cni::Verb;
use flock_core::dataplane::{AnycastState, Dataplane};
use flock_core::handler::Settings;
use flock_core::node_config::NodeConfig;
use flock_core::pods::{PodInfo, PodState};
use flock_core::store::Store;
use futures_util::task::noop_waker;

use crate::faults::Faults;
use crate::node::{NODE_CONFIG, Node, World, call, key, pod_key, settings};

pub(crate) const SERVED: &str = "2001:db8:a::1";

pub(crate) async fn serving(world: &World, pods: &[u8]) -> Node {
    let node = world.node(Faults::failing([]));
    node.recover().await.unwrap();
    for pod in pods {
        node.add(*pod, &[("anycast", SERVED)]).await.unwrap();
    }
    node
}

/// Runs `test` while readiness is followed.
pub(crate) async fn followed(node: &Node, test: impl Future<Output = ()>) {
    tokio::select! {
        () = node.handler.run_readiness(std::future::pending()) => unreachable!("it never ends"),
        () = test => {}
    }
}

/// An agent that starts again beside a pod source that may be away, which it asks often.
async fn restarted(world: &World, away: bool) -> Node {
    let settings = Settings { retry_delay: Duration::from_millis(10), ..settings() };
    let node = world.node_with(Faults::failing([]), NODE_CONFIG, settings);
    node.faults.have_no_pods(away);
    node.recover().await.unwrap();
    node
}

fn announced(world: &World) -> Announcements {
    world.announcer.announced().unwrap()
}

/// Who serves the address by the kernel's announced routes, and who by those that are not announced.
fn reached(world: &World) -> [BTreeSet<AttachmentKey>; 2] {
    let [announced, withdrawing, standby] = AnycastState::ALL.map(|state| {
        let mut routes = world.dataplane.anycast(state);
        let servers = routes.remove(&SERVED.parse::<IpAddr>().unwrap()).unwrap_or_default();
        servers.into_iter().map(|server| server.key).collect::<BTreeSet<_>>()
    });
    [announced, &withdrawing | &standby]
}

/// Waits until the network and the kernel both say who serves the address, and whether anybody does.
async fn until_served_by(world: &World, ready: &[u8], others: &[u8]) {
    let keys = |pods: &[u8]| -> BTreeSet<AttachmentKey> { pods.iter().map(|pod| key(*pod)).collect() };
    let address: IpAddr = SERVED.parse().unwrap();
    let expected = (!ready.is_empty(), ready.is_empty() && !others.is_empty());
    let reached_then = async {
        loop {
            let told = announced(world);
            let told = (told.anycast.contains(&address), told.standby.contains(&address));
            if reached(world) == [keys(ready), keys(others)] && told == expected {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(30), reached_then).await;
    assert!(
        in_time.is_ok(),
        "{:?}, {:?}; expected {ready:?} and {others:?}",
        reached(world),
        announced(world)
    );
}

#[tokio::test]
async fn an_address_is_announced_while_a_pod_that_serves_it_is_ready() {
    let world = World::new();
    for pod in [1, 2] {
        world.pods.set_state(&pod_key(pod), PodState::NotReady);
    }
    let node = serving(&world, &[1, 2]).await;
    until_served_by(&world, &[], &[1, 2]).await;
    followed(&node, async {
        world.pods.set_state(&pod_key(1), PodState::Ready);
        until_served_by(&world, &[1], &[]).await;
        world.pods.set_state(&pod_key(2), PodState::Ready);
        until_served_by(&world, &[1, 2], &[]).await;
        world.pods.set_state(&pod_key(1), PodState::NotReady);
        until_served_by(&world, &[2], &[]).await;
        // It goes on running for its grace period, and nobody new is sent to it.
        world.pods.set_state(&pod_key(2), PodState::Terminating);
        until_served_by(&world, &[], &[1, 2]).await;
        node.del(2).await.unwrap();
        until_served_by(&world, &[], &[1]).await;
        world.pods.set_state(&pod_key(1), PodState::Ready);
        until_served_by(&world, &[1], &[]).await;
        world.pods.remove(&pod_key(1));
        until_served_by(&world, &[], &[1]).await;
    })
    .await;
}

/// The route is in the kernel before the network is told of it, and what is announced by it is
/// withdrawn by the kernel first: that is what BIRD hears of at once.
#[tokio::test]
async fn the_kernel_comes_first_both_ways() {
    let world = World::new();
    let node = serving(&world, &[1]).await;
    for (state, ready, others) in
        [(PodState::NotReady, &[][..], &[1][..]), (PodState::Ready, &[1][..], &[][..])]
    {
        let before = node.faults.log().len();
        followed(&node, async {
            world.pods.set_state(&pod_key(1), state);
            until_served_by(&world, ready, others).await;
        })
        .await;
        let calls = node.faults.log();
        let told = calls[before..]
            .iter()
            .filter(|call| call.starts_with("dataplane.set") || **call == "announcer.sync");
        assert_eq!(told.copied().collect::<Vec<_>>(), ["dataplane.set_anycast", "announcer.sync"]);
    }
}

/// The pod source may be away when an agent starts: nobody's address is withdrawn, or announced,
/// for that.
#[tokio::test]
async fn what_the_kernel_announces_stays_until_somebody_says_otherwise() {
    let world = World::new();
    world.pods.set_state(&pod_key(2), PodState::NotReady);
    drop(serving(&world, &[1, 2]).await);
    until_served_by(&world, &[1], &[]).await;
    world.pods.set_state(&pod_key(1), PodState::NotReady);
    world.pods.set_state(&pod_key(2), PodState::Ready);
    let node = restarted(&world, true).await;
    until_served_by(&world, &[1], &[]).await;
    followed(&node, async {
        node.faults.have_no_pods(false);
        // It tells of nothing, since nothing changes, and is asked.
        until_served_by(&world, &[2], &[]).await;
    })
    .await;
}

/// Nobody tells of what went while nobody listened.
#[tokio::test]
async fn a_pod_that_has_gone_while_no_agent_ran_serves_no_longer() {
    for away in [false, true] {
        let world = World::new();
        drop(serving(&world, &[1, 2]).await);
        world.pods.remove(&pod_key(1));
        let node = restarted(&world, away).await;
        if away {
            until_served_by(&world, &[1, 2], &[]).await;
        }
        followed(&node, async {
            node.faults.have_no_pods(false);
            until_served_by(&world, &[2], &[]).await;
        })
        .await;
    }
}

/// The kernel's routes say nothing where somebody has removed them.
#[tokio::test]
async fn pods_that_are_ready_serve_again_after_their_routes_were_flushed() {
    let world = World::new();
    drop(serving(&world, &[1]).await);
    world.dataplane.set_anycast(&[]).await.unwrap();
    let _node = restarted(&world, false).await;
    until_served_by(&world, &[1], &[]).await;
}

/// A manifest is written, and its pod added, while the readiness of others is being followed: what
/// that looks at is older than the pod.
#[tokio::test]
async fn a_pod_that_is_added_while_readiness_is_followed_is_not_overlooked() {
    let world = World::new();
    for pod in [1, 2] {
        world.pods.remove(&pod_key(pod));
    }
    let node = serving(&world, &[]).await;
    node.faults.yield_at_each_call();
    let waker = noop_waker();
    let mut context = Context::from_waker(&waker);
    let mut following = Box::pin(node.handler.run_readiness(std::future::pending()));
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    let asked = call(Verb::Add, 1, &[("anycast", SERVED)]);
    let mut adding = Box::pin(node.handler.add(&asked, deadline));
    let mut follow_until_listed = || {
        let lists = || node.faults.log().iter().filter(|call| **call == "store.list").count();
        let before = lists();
        while lists() == before {
            assert!(following.as_mut().poll(&mut context).is_pending());
        }
        // Pending behind the effect.
    };
    world.pods.insert(pod_key(2), PodInfo::default());
    follow_until_listed();
    world.pods.insert(pod_key(1), PodInfo::default());
    let mut context = Context::from_waker(&waker);
    let found = || node.faults.log().iter().filter(|call| **call == "dataplane.attach").count() > 0;
    while !found() {
        assert!(adding.as_mut().poll(&mut context).is_pending());
    }
    follow_until_listed();
    let added = loop {
        if let Poll::Ready(added) = adding.as_mut().poll(&mut context) {
            break added;
        }
    };
    added.unwrap();
    for _ in 0..100 {
        assert!(following.as_mut().poll(&mut context).is_pending());
    }
    assert_eq!(reached(&world), [BTreeSet::from([key(1)]), BTreeSet::new()]);
}

/// A StatefulSet's pod is made again under its name, while the old one still has its attachment.
#[tokio::test]
async fn a_pod_of_the_same_name_does_not_make_the_old_one_serve() {
    let world = World::new();
    let info = |uid: &str| PodInfo { uid: Some(uid.to_owned()), ..PodInfo::default() };
    world.pods.insert(pod_key(1), info("old"));
    let node = world.node(Faults::failing([]));
    node.recover().await.unwrap();
    let mut old = call(Verb::Add, 1, &[("anycast", SERVED)]);
    old.args.pod_uid = Some("old".to_owned());
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    node.handler.add(&old, deadline).await.unwrap();
    until_served_by(&world, &[1], &[]).await;
    followed(&node, async {
        world.pods.insert(pod_key(1), info("new"));
        until_served_by(&world, &[], &[1]).await;
    })
    .await;
}

/// Also of pods that have it already.
#[tokio::test]
async fn an_address_that_is_no_longer_allowed_is_withdrawn() {
    let world = World::new();
    let node = serving(&world, &[1]).await;
    until_served_by(&world, &[1], &[]).await;
    let without = NODE_CONFIG.replace("'2001:db8:a::/48', ", "");
    let config = |text: &str| NodeConfig::from_yaml(text, "test").unwrap();
    node.handler.reconfigure(config(&without)).await.unwrap();
    until_served_by(&world, &[], &[]).await;
    let refused = node.add(2, &[("anycast", SERVED)]).await.unwrap_err().to_string();
    assert!(refused.contains("spec.anycastPrefixes"), "{refused}");
    node.handler.reconfigure(config(NODE_CONFIG)).await.unwrap();
    until_served_by(&world, &[1], &[]).await;
}

/// So that it can move with its pod from node to node.
#[tokio::test]
async fn a_static_address_of_an_allowed_prefix_is_announced_by_itself() {
    let world = World::new();
    let node = serving(&world, &[]).await;
    let asked = [("ipv6", "2001:db8:f::7"), ("ipv4", "203.0.113.7")];
    let given = node.add(1, &asked).await.unwrap();
    let given: Vec<String> = given.ips.iter().map(|ip| ip.address.addr().to_string()).collect();
    assert_eq!(given, ["2001:db8:f::7", "203.0.113.7"]);
    let exceptions: Vec<String> = announced(&world).exceptions.iter().map(ToString::to_string).collect();
    assert_eq!(exceptions, ["203.0.113.7", "2001:db8:f::7"]);
    let refused = node.add(2, &asked[..1]).await.unwrap_err().to_string();
    assert!(refused.contains("2001:db8:f::7 is already in use by "), "{refused}");
    let elsewhere = node.add(2, &[("ipv4", "203.0.112.7")]).await.unwrap_err().to_string();
    assert!(elsewhere.contains("203.0.112.7 is outside this node's prefix 10.0.1.0/28"), "{elsewhere}");
    node.del(1).await.unwrap();
    assert!(announced(&world).exceptions.is_empty());
    node.handler.reap().await;
    assert_eq!(world.store.list().await.unwrap(), []);
}
