//! Attachments whose containers are gone, and those that only look like it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use flock_core::attachment::Netns;
use flock_core::cni::Verb;
use flock_core::dataplane::{Dataplane, Link};
use flock_core::store::Store;
use futures_util::FutureExt;
use proptest::prelude::*;
use tokio::sync::oneshot;

use crate::faults::Faults;
use crate::node::{Node, World, call, key, namespace};

const GRACE: Duration = Duration::from_secs(60);

async fn with_a_pod(world: &World) -> Node {
    let node = world.node(Faults::failing([]));
    node.recover().await.unwrap();
    node.add(1, &[("anycast", "2001:db8:a::1")]).await.unwrap();
    node
}

fn remove(world: &World, pod: u8) {
    world.dataplane.remove_namespace(Path::new(&namespace(pod)));
}

/// Looks, lets the grace period pass, and looks again.
async fn collected_after_grace(world: &World, node: &Node) -> usize {
    assert_eq!(node.handler.collect().await.unwrap(), 0);
    world.clock.advance(GRACE);
    node.handler.collect().await.unwrap()
}

#[tokio::test]
async fn an_attachment_whose_namespace_is_gone_is_collected_after_the_grace_period() {
    let world = World::new();
    let node = with_a_pod(&world).await;
    remove(&world, 1);
    assert_eq!(node.handler.collect().await.unwrap(), 0);
    world.clock.advance(GRACE.checked_sub(Duration::from_millis(1)).unwrap());
    assert_eq!(node.handler.collect().await.unwrap(), 0);
    world.clock.advance(Duration::from_millis(1));
    assert_eq!(node.handler.collect().await.unwrap(), 1);
    assert_eq!(node.handler.collected(), 1);
    assert_eq!(node.handler.reap().await, 0);
    world.assert_empty(&node).await;
    // The runtime comes after all.
    node.del(1).await.unwrap();
}

#[tokio::test]
async fn an_attachment_whose_path_leads_to_another_namespace_is_collected() {
    let world = World::new();
    let node = with_a_pod(&world).await;
    world.dataplane.add_namespace(namespace(1));
    assert_eq!(collected_after_grace(&world, &node).await, 1);
}

#[tokio::test]
async fn a_namespace_that_lives_on_without_its_path_is_left_alone_until_it_ends() {
    let world = World::new();
    let node = with_a_pod(&world).await;
    let alive = world.dataplane.unmount_namespace(Path::new(&namespace(1))).unwrap();
    assert_eq!(collected_after_grace(&world, &node).await, 0);
    // Also where the path is used again.
    world.dataplane.add_namespace(namespace(1));
    assert_eq!(collected_after_grace(&world, &node).await, 0);
    assert!(world.dataplane.is_attached(&key(1)));
    world.dataplane.end_namespace(&alive);
    assert_eq!(collected_after_grace(&world, &node).await, 1);
}

/// It can be mended, so it is not collected.
#[tokio::test]
async fn a_link_that_is_missing_in_a_namespace_that_is_there_is_no_sign() {
    let world = World::new();
    let node = with_a_pod(&world).await;
    let record = world.store.get(&key(1)).await.unwrap().unwrap();
    world.dataplane.reap(&[Link::of(&record)]).await.unwrap();
    assert_eq!(collected_after_grace(&world, &node).await, 0);
    assert_eq!(world.store.get(&key(1)).await.unwrap(), Some(record));
}

/// The grace period of an attachment is its own.
#[tokio::test]
async fn an_attachment_that_was_made_again_is_looked_at_anew() {
    let world = World::new();
    let node = with_a_pod(&world).await;
    remove(&world, 1);
    assert_eq!(node.handler.collect().await.unwrap(), 0);
    world.clock.advance(GRACE);
    world.dataplane.add_namespace(namespace(1));
    node.add(1, &[]).await.unwrap();
    remove(&world, 1);
    assert_eq!(node.handler.collect().await.unwrap(), 0);
    world.clock.advance(GRACE);
    assert_eq!(node.handler.collect().await.unwrap(), 1);
}

#[tokio::test]
async fn an_attachment_that_a_request_is_at_work_on_is_left_alone() {
    let world = World::new();
    let node = with_a_pod(&world).await;
    remove(&world, 1);
    assert_eq!(node.handler.collect().await.unwrap(), 0);
    world.clock.advance(GRACE);
    let held = node.faults.detaching.lock().await;
    let deletion = call(Verb::Del, 1, &[]);
    let mut del = pin!(node.handler.del(&deletion));
    assert!(del.as_mut().now_or_never().is_none(), "not held up");
    assert_eq!(node.handler.collect().await.unwrap(), 0);
    drop(held);
    del.await.unwrap();
    assert_eq!(node.handler.collected(), 0);
}

/// Nothing of it is in the kernel, and nobody can mend it: its namespace is not known.
#[tokio::test]
async fn a_salvaged_attachment_is_collected_once_its_link_is_gone() {
    let world = World::new();
    with_a_pod(&world).await;
    world.store.delete(&key(1)).await.unwrap();
    let node = world.node(Faults::failing([]));
    assert_eq!(node.handler.recover(&[key(1)]).await.unwrap().salvaged, 1);
    assert_eq!(collected_after_grace(&world, &node).await, 0);
    assert!(world.dataplane.is_attached(&key(1)));
    remove(&world, 1);
    assert_eq!(collected_after_grace(&world, &node).await, 1);
}

/// What can't be deleted stays under suspicion.
#[tokio::test]
async fn each_call_may_fail_and_the_next_look_tries_again() {
    let counting = Faults::failing([]);
    let counted = World::new();
    let counted_node = counted.node(counting.clone());
    counted_node.recover().await.unwrap();
    counted_node.add(1, &[]).await.unwrap();
    remove(&counted, 1);
    counted_node.handler.collect().await.unwrap();
    counted.clock.advance(GRACE);
    let before = counting.calls();
    assert_eq!(counted_node.handler.collect().await.unwrap(), 1);
    let calls = counting.log().split_off(before);
    assert!(calls.len() >= 7, "{calls:?}");

    for (failing, call) in calls.iter().enumerate() {
        let world = World::new();
        let node = world.node(Faults::failing([]));
        node.recover().await.unwrap();
        node.add(1, &[]).await.unwrap();
        remove(&world, 1);
        node.handler.collect().await.unwrap();
        world.clock.advance(GRACE);
        node.faults.fail_later(failing);
        let first = node.handler.collect().await.unwrap_or(0);
        assert_eq!(node.handler.collect().await.unwrap(), 1 - first, "{call}");
        assert_eq!(node.handler.reap().await, 0);
        world.assert_empty(&node).await;
    }
}

/// Time is tokio's here: it goes on by itself when everybody waits.
#[tokio::test(start_paused = true)]
async fn the_collector_looks_at_once_and_then_in_each_interval() {
    let world = World::new();
    let node = with_a_pod(&world).await;
    remove(&world, 1);
    let (stop, stopped) = oneshot::channel::<()>();
    let started = tokio::time::Instant::now();
    let collector = node.handler.run_collector(Duration::from_secs(10), async {
        let _ = stopped.await;
    });
    let watching = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        // Seen at once: from then on the grace period counts.
        world.clock.advance(GRACE);
        while node.handler.collected() == 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        stop.send(()).unwrap();
    };
    let both = async { tokio::join!(collector, watching) };
    tokio::time::timeout(Duration::from_secs(60), both).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(11), "{:?}", started.elapsed());
}

#[derive(Debug, Clone)]
enum Step {
    Add(u8),
    Del(u8),
    Reap,
    /// The namespace ends, with or without another one in its place.
    Die(u8, bool),
    /// The path goes, the namespace does not.
    Unmount(u8, bool),
    /// Namespaces without a path end.
    EndHidden,
    /// Something else removes a link.
    LoseLink(u8),
    Advance(u8),
    Collect,
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let pod = || 0..6_u8;
    let step = prop_oneof![
        6 => pod().prop_map(Step::Add),
        2 => pod().prop_map(Step::Del),
        1 => Just(Step::Reap),
        2 => (pod(), any::<bool>()).prop_map(|(pod, again)| Step::Die(pod, again)),
        2 => (pod(), any::<bool>()).prop_map(|(pod, again)| Step::Unmount(pod, again)),
        1 => Just(Step::EndHidden),
        1 => pod().prop_map(Step::LoseLink),
        3 => (0..90_u8).prop_map(Step::Advance),
        5 => Just(Step::Collect),
        1 => Just(Step::Restart),
    ];
    proptest::collection::vec(step, 1..80)
}

/// What a test knows of the namespaces, without looking at the handler.
#[derive(Default)]
struct Truth {
    /// Pods that were added and not deleted, with the namespace that they are in.
    pods: BTreeMap<u8, Netns>,
    /// Namespaces that have no path.
    hidden: Vec<Netns>,
    /// Pods whose link was removed by somebody: they are not attached, but alive.
    cut_off: BTreeSet<u8>,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever becomes of namespaces and paths, and whichever calls fail: a pod whose
    /// namespace lives keeps everything, and in the end all others are gone.
    #[test]
    fn no_living_pod_is_touched_and_every_dead_one_goes(
        steps in steps(),
        failing in proptest::collection::btree_set(0..400_usize, 0..20),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let world = World::new();
            let faults = Faults::failing(failing);
            let mut node = world.node(faults.clone());
            while node.recover().await.is_err() {}
            let mut truth = Truth::default();
            for step in steps {
                match step {
                    Step::Add(pod) => {
                        let there = world.dataplane.identify(Path::new(&namespace(pod))).await;
                        let added = node.add(pod, &[]).await;
                        if let Ok(netns) = there {
                            // A failed one may have taken away what was there.
                            truth.pods.remove(&pod);
                            truth.cut_off.remove(&pod);
                            if added.is_ok() {
                                truth.pods.insert(pod, netns);
                            }
                        }
                    }
                    Step::Del(pod) => {
                        truth.pods.remove(&pod);
                        truth.cut_off.remove(&pod);
                        let _ = node.del(pod).await;
                    }
                    Step::Reap => { node.handler.reap().await; }
                    Step::Die(pod, again) => {
                        let path = namespace(pod);
                        if let Ok(netns) = world.dataplane.identify(Path::new(&path)).await {
                            truth.pods.retain(|_, of| !of.is_same(&netns));
                        }
                        world.dataplane.remove_namespace(Path::new(&path));
                        if again { world.dataplane.add_namespace(&path); }
                    }
                    Step::Unmount(pod, again) => {
                        let path = namespace(pod);
                        truth.hidden.extend(world.dataplane.unmount_namespace(Path::new(&path)));
                        if again { world.dataplane.add_namespace(&path); }
                    }
                    Step::EndHidden => {
                        for netns in truth.hidden.drain(..) {
                            truth.pods.retain(|_, of| !of.is_same(&netns));
                            world.dataplane.end_namespace(&netns);
                        }
                    }
                    Step::LoseLink(pod) => {
                        // Of a namespace with a path: what is in another one nobody can tell.
                        let there = world.dataplane.identify(Path::new(&namespace(pod))).await;
                        let record = world.store.get(&key(pod)).await.unwrap();
                        if let (Some(record), Ok(netns)) = (record, there)
                            && record.netns.is_same(&netns)
                        {
                            world.dataplane.reap(&[Link::of(&record)]).await.unwrap();
                            truth.cut_off.insert(pod);
                        }
                    }
                    Step::Advance(seconds) => world.clock.advance(Duration::from_secs(seconds.into())),
                    Step::Collect => { let _ = node.handler.collect().await; }
                    Step::Restart => {
                        node = world.node(faults.clone());
                        while node.recover().await.is_err() {}
                    }
                }
                truth.cut_off.retain(|pod| truth.pods.contains_key(pod));
                for (pod, netns) in &truth.pods {
                    let hidden = truth.hidden.iter().any(|hidden| hidden.is_same(netns));
                    if truth.cut_off.contains(pod) {
                        // Its path may have gone later, and then nothing tells it from a dead one.
                        let record = world.store.get(&key(*pod)).await.unwrap();
                        prop_assert!(hidden || record.is_some(), "pod {} lost its record", pod);
                    } else {
                        prop_assert!(world.dataplane.is_attached(&key(*pod)), "pod {} lost its link", pod);
                    }
                }
            }
            node.faults.stop();
            node.handler.collect().await.unwrap();
            world.clock.advance(GRACE);
            node.handler.collect().await.unwrap();
            node.handler.reap().await;
            let left = world.store.list().await.unwrap();
            for record in &left {
                let has_path = world.dataplane.identify(&record.netns.path).await;
                let lives = has_path.is_ok_and(|there| there.is_same(&record.netns))
                    || truth.hidden.iter().any(|hidden| hidden.is_same(&record.netns));
                prop_assert!(lives, "{record:?} is left of a dead pod");
            }
            Ok(())
        })?;
    }
}
