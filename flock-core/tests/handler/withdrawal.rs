//! Packets of routers that have not heard of a withdrawal yet still find the pods.

use std::collections::BTreeSet;
use std::future::Future;
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::task::{Context, Waker};
use std::time::Duration;

use flock_core::attachment::AttachmentKey;
use flock_core::cni::Verb;
use flock_core::dataplane::AnycastState;
use flock_core::handler::Settings;
use flock_core::pods::PodState;

use crate::faults::Faults;
use crate::node::{NODE_CONFIG, Node, World, call, key, pod_key, settings};
use crate::readiness::{SERVED, followed, serving};
use crate::view::differences;

const DELAY: Duration = Duration::from_secs(3);
const ALMOST: Duration = Duration::from_millis(2998);
/// The end of it may be so much later, to end together with others.
const SLACK: Duration = Duration::from_millis(60);

async fn node(world: &World) -> Node {
    let settings = Settings { convergence_delay: DELAY, ..settings() };
    let node = world.node_with(Faults::failing([]), NODE_CONFIG, settings);
    node.recover().await.unwrap();
    node
}

/// The kernel's route, and over whom it leads.
fn route(world: &World) -> Option<(AnycastState, BTreeSet<AttachmentKey>)> {
    let address: IpAddr = SERVED.parse().unwrap();
    let mut found = AnycastState::ALL.into_iter().filter_map(|state| {
        let servers = world.dataplane.anycast(state).remove(&address)?;
        Some((state, servers.into_iter().map(|server| server.key).collect()))
    });
    let only = found.next();
    assert_eq!(found.next(), None);
    only
}

/// Lets everything happen that can happen without time going by.
async fn settle() {
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
}

async fn after(time: Duration) {
    tokio::time::advance(time).await;
    settle().await;
}

async fn assert_route(world: &World, state: AnycastState, pods: &[u8]) {
    settle().await;
    let expected = Some((state, pods.iter().map(|pod| key(*pod)).collect()));
    assert_eq!(route(world), expected);
    let address = SERVED.parse().unwrap();
    let told = world.announcer.announced().unwrap();
    let is_announced = state == AnycastState::Announced;
    assert_eq!(
        (told.anycast.contains(&address), told.standby.contains(&address)),
        (is_announced, !is_announced)
    );
}

#[tokio::test(start_paused = true)]
async fn a_withdrawn_address_keeps_its_route_for_a_while() {
    let world = World::new();
    let node = node(&world).await;
    node.add(1, &[("anycast", SERVED)]).await.unwrap();
    followed(&node, async {
        assert_route(&world, AnycastState::Announced, &[1]).await;
        world.pods.set_state(&pod_key(1), PodState::NotReady);
        assert_route(&world, AnycastState::Withdrawing, &[1]).await;
        after(ALMOST).await;
        assert_route(&world, AnycastState::Withdrawing, &[1]).await;
        after(SLACK).await;
        assert_route(&world, AnycastState::Standby, &[1]).await;

        // One that comes back meanwhile is announced, and stays so.
        world.pods.set_state(&pod_key(1), PodState::Ready);
        assert_route(&world, AnycastState::Announced, &[1]).await;
        world.pods.set_state(&pod_key(1), PodState::Terminating);
        assert_route(&world, AnycastState::Withdrawing, &[1]).await;
        after(DELAY / 2).await;
        world.pods.set_state(&pod_key(1), PodState::Ready);
        assert_route(&world, AnycastState::Announced, &[1]).await;
        after(DELAY / 2).await;
        assert_route(&world, AnycastState::Announced, &[1]).await;

        // The delay begins anew, and changes of others do not prolong it.
        world.pods.set_state(&pod_key(1), PodState::NotReady);
        assert_route(&world, AnycastState::Withdrawing, &[1]).await;
        after(ALMOST).await;
        node.add(2, &[("anycast", "2001:db8:a::2")]).await.unwrap();
        assert_route(&world, AnycastState::Withdrawing, &[1]).await;
        after(SLACK).await;
        assert_route(&world, AnycastState::Standby, &[1]).await;
        node.del(1).await.unwrap();
        settle().await;
        assert_eq!(route(&world), None);
    })
    .await;
}

/// What others answer that never were, or have not been for a while, is no answer.
#[tokio::test(start_paused = true)]
async fn only_those_that_served_it_keep_it() {
    let world = World::new();
    world.pods.set_state(&pod_key(3), PodState::NotReady);
    let node = node(&world).await;
    for pod in [1, 2, 3] {
        node.add(pod, &[("anycast", SERVED)]).await.unwrap();
    }
    followed(&node, async {
        assert_route(&world, AnycastState::Announced, &[1, 2]).await;
        world.pods.set_state(&pod_key(2), PodState::NotReady);
        assert_route(&world, AnycastState::Announced, &[1]).await;
        world.pods.set_state(&pod_key(1), PodState::NotReady);
        assert_route(&world, AnycastState::Withdrawing, &[1]).await;
        after(DELAY + SLACK).await;
        assert_route(&world, AnycastState::Standby, &[1, 2, 3]).await;

        for pod in [1, 2] {
            world.pods.set_state(&pod_key(pod), PodState::Ready);
            settle().await;
        }
        assert_route(&world, AnycastState::Announced, &[1, 2]).await;
        for pod in [1, 2] {
            world.pods.set_state(&pod_key(pod), PodState::Terminating);
        }
        // Both are told of at once.
        assert_route(&world, AnycastState::Withdrawing, &[1, 2]).await;
        node.del(1).await.unwrap();
        assert_route(&world, AnycastState::Withdrawing, &[2]).await;
        node.del(2).await.unwrap();
        assert_route(&world, AnycastState::Standby, &[3]).await;
    })
    .await;
}

/// A deletion leaves nobody who answers what is sent to the deleted pod.
#[tokio::test(start_paused = true)]
async fn what_a_deleted_pod_served_is_not_held() {
    let world = World::new();
    world.pods.set_state(&pod_key(2), PodState::NotReady);
    let node = node(&world).await;
    for pod in [1, 2] {
        node.add(pod, &[("anycast", SERVED)]).await.unwrap();
    }
    followed(&node, async {
        assert_route(&world, AnycastState::Announced, &[1]).await;
        node.del(1).await.unwrap();
        assert_route(&world, AnycastState::Standby, &[2]).await;
    })
    .await;
}

/// What an agent announced that ran before is withdrawn as what this one has.
#[tokio::test(start_paused = true)]
async fn an_agent_that_starts_withdraws_what_the_kernel_announces() {
    let world = World::new();
    drop(serving(&world, &[1]).await);
    world.pods.set_state(&pod_key(1), PodState::NotReady);
    for over in [true, false] {
        let node = node(&world).await;
        followed(&node, async {
            if over {
                assert_route(&world, AnycastState::Withdrawing, &[1]).await;
            } else {
                // The one before has ended before the delay was over.
                assert_route(&world, AnycastState::Standby, &[1]).await;
            }
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_withdrawal_is_no_difference() {
    let world = World::new();
    let node = node(&world).await;
    node.add(1, &[("anycast", SERVED)]).await.unwrap();
    followed(&node, async {
        world.pods.set_state(&pod_key(1), PodState::NotReady);
        assert_route(&world, AnycastState::Withdrawing, &[1]).await;
        assert_eq!(differences(&world, &node).await, []);
        node.check(1).await.unwrap();
        after(DELAY + SLACK).await;
        assert_route(&world, AnycastState::Standby, &[1]).await;
        assert_eq!(differences(&world, &node).await, []);
        node.check(1).await.unwrap();
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_withdrawal_begins_and_ends_where_the_kernel_fails_at_first() {
    let world = World::new();
    let node = node(&world).await;
    node.add(1, &[("anycast", SERVED)]).await.unwrap();
    let test = async {
        // Of what follows, this makes the routes.
        node.faults.fail_later(2);
        world.pods.set_state(&pod_key(1), PodState::NotReady);
        assert_route(&world, AnycastState::Announced, &[1]).await;
        node.handler.reap().await;
        assert_route(&world, AnycastState::Withdrawing, &[1]).await;
        // And its end fails.
        node.faults.fail_later(1);
        after(DELAY + SLACK).await;
        assert_route(&world, AnycastState::Withdrawing, &[1]).await;
        node.handler.reap().await;
        assert_route(&world, AnycastState::Standby, &[1]).await;
    };
    followed(&node, test).await;
}

/// The kernel has its routes, and nobody has written it down.
#[tokio::test(start_paused = true)]
async fn what_an_abandoned_call_has_announced_is_withdrawn_as_well() {
    let world = World::new();
    let node = node(&world).await;
    node.faults.yield_at_each_call();
    let asked = call(Verb::Add, 1, &[("anycast", SERVED)]);
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    let mut adding = Box::pin(node.handler.add(&asked, deadline));
    let mut context = Context::from_waker(Waker::noop());
    while route(&world).is_none() {
        assert!(adding.as_mut().poll(&mut context).is_pending());
    }
    drop(adding);
    node.faults.yield_at_no_call();
    followed(&node, async {
        world.pods.set_state(&pod_key(1), PodState::NotReady);
        assert_route(&world, AnycastState::Withdrawing, &[1]).await;
    })
    .await;
}

/// What it told of stays, and what was begun is ended all the same.
#[tokio::test(start_paused = true)]
async fn a_withdrawal_ends_also_where_the_pod_source_tells_nothing_any_more() {
    let world = World::new();
    drop(serving(&world, &[1]).await);
    world.pods.set_state(&pod_key(1), PodState::NotReady);
    let node = node(&world).await;
    node.faults.silent.store(true, Ordering::Relaxed);
    followed(&node, async {
        assert_route(&world, AnycastState::Withdrawing, &[1]).await;
        after(DELAY + SLACK).await;
        assert_route(&world, AnycastState::Standby, &[1]).await;
    })
    .await;
}
