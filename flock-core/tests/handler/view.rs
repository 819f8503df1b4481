//! What is told of work that does not end.

use std::time::Duration;

use flock_core::client::Deadline;
use flock_core::deletions::{Deletion, DeletionQueue};
use flock_core::drain::DrainReason;
use flock_core::inspection::{Difference, Kernel, Look, PATIENCE, lasting};
use flock_core::node_config::NodeConfig;
use flock_core::store::{Contents, Store};

use crate::faults::Faults;
use crate::node::{NODE_CONFIG, Node, World, key, link};

async fn with_pods(world: &World, pods: u8) -> Node {
    let node = world.node(Faults::failing([]));
    node.recover().await.unwrap();
    for pod in 0..pods {
        node.add(pod, &[]).await.unwrap();
    }
    node
}

async fn look(world: &World, node: &Node, queue: Option<&DeletionQueue>, online: bool) -> Look {
    let records = world.store.list().await.unwrap();
    let records = records.into_iter().map(|record| (record.key.clone(), record)).collect();
    let contents = Contents { records, ..Contents::default() };
    let config = NodeConfig::from_yaml(NODE_CONFIG, "test").unwrap();
    let view = node.handler.view().await.unwrap();
    Look {
        kernel: Kernel::look(&*world.dataplane, &contents, &config, "boot-1", Some(&view)).await.unwrap(),
        config,
        boot_id: "boot-1".to_owned(),
        records: [contents.clone(), contents],
        views: online.then(|| [view.clone(), view]),
        deletions: queue.map(|queue| queue.inspect().unwrap()).unwrap_or_default(),
        spoken: None,
    }
}

pub(crate) async fn differences(world: &World, node: &Node) -> Vec<Difference> {
    look(world, node, None, true).await.differences()
}

#[tokio::test]
async fn a_deletion_that_always_fails_is_told_after_a_while() {
    let world = World::new();
    let node = with_pods(&world, 2).await;
    node.faults.refuse_to_remove(link(1));
    node.del(1).await.unwrap();
    assert_eq!(differences(&world, &node).await, []);
    assert_eq!(node.handler.reap().await, 1);
    assert_eq!(differences(&world, &node).await, [], "it may have failed only once");

    world.clock.advance(PATIENCE);
    let before = differences(&world, &node).await;
    let [only] = &before[..] else { panic!("{before:?}") };
    let told = only.to_string();
    assert!(told.contains("container1") && told.contains("it is being deleted for 3 s: "), "{told}");
    assert!(told.contains("injected"), "no reason: {told}");

    // A repeated DEL and a repair begin nothing anew, and another look sees the same.
    node.del(1).await.unwrap();
    node.handler.repair().await.unwrap();
    world.clock.advance(PATIENCE);
    let later = differences(&world, &node).await;
    assert!(later[0].to_string().contains("for 6 s: "), "{}", later[0]);
    assert_eq!(lasting(&before, later.clone()), later);

    node.faults.stop();
    assert_eq!(node.handler.reap().await, 0);
    assert_eq!(differences(&world, &node).await, []);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_does_not_end_is_told() {
    let world = World::new();
    let node = with_pods(&world, 2).await;
    let held_up = node.faults.detaching.lock().await;
    let mut del = std::pin::pin!(node.del(1));
    assert!(futures_util::FutureExt::now_or_never(del.as_mut()).is_none());
    assert_eq!(differences(&world, &node).await, []);
    tokio::time::advance(Duration::from_secs(600)).await;
    let found = differences(&world, &node).await;
    let [only] = &found[..] else { panic!("{found:?}") };
    assert!(only.to_string().contains("a request is at work on it for 600 s; "), "{only}");
    drop(held_up);
    del.await.unwrap();
    assert_eq!(node.handler.reap().await, 0);
    assert_eq!(differences(&world, &node).await, []);
}

#[tokio::test]
async fn queued_deletions_are_told() {
    let world = World::new();
    let node = with_pods(&world, 3).await;
    let run = tempfile::tempdir().unwrap();
    let queue = DeletionQueue::of_run_dir(run.path());
    let push = |pod: u8| {
        let deletion = Deletion { key: key(pod), pod: None, boot_id: "boot-1".to_owned(), queued_ms: 0 };
        let locked = queue.lock(Deadline::after(Duration::from_secs(5))).unwrap();
        locked.push(&deletion).unwrap();
    };
    push(1);
    let offline = look(&world, &node, Some(&queue), false).await;
    assert_eq!(offline.differences(), []);
    assert_eq!(offline.notes(), ["1 deletion waits for the agent, which carries it out when it starts"]);

    // The replay and the reaper after it fail to look for the record.
    node.faults.fail_later(0);
    node.faults.fail_later(1);
    assert_eq!(node.handler.replay(&queue).await.unwrap().failed, 1);
    assert_eq!(look(&world, &node, Some(&queue), true).await.differences(), []);
    world.clock.advance(PATIENCE);
    let found = look(&world, &node, Some(&queue), true).await.differences();
    let [only] = &found[..] else { panic!("{found:?}") };
    assert!(only.to_string().contains("it is being deleted for 3 s: "), "{only}");

    // What nobody carries out.
    assert_eq!(node.handler.reap().await, 0);
    push(2);
    let found = look(&world, &node, Some(&queue), true).await.differences();
    let [only] = &found[..] else { panic!("{found:?}") };
    assert!(
        only.to_string().contains("container2") && only.found.contains("its deletion waits in "),
        "{only}"
    );
    assert!(look(&world, &node, Some(&queue), true).await.notes().is_empty());
}

/// Who looks why the network does not reach the node finds it here.
#[tokio::test(start_paused = true)]
async fn a_drain_is_a_note() {
    let world = World::new();
    let node = with_pods(&world, 1).await;
    let seen = async || {
        let look = look(&world, &node, None, true).await;
        assert_eq!(look.differences(), []);
        look.notes()
    };
    assert!(seen().await.is_empty());
    node.handler.set_drain(DrainReason::Cordon, true);
    let marked = "the node is drained (Cordon): what it announces carries GRACEFUL_SHUTDOWN";
    assert_eq!(seen().await, [marked]);
    node.handler.set_drain(DrainReason::NodeConfig, true);
    world.clock.advance(Duration::from_secs(3600));
    let drained =
        tokio::time::timeout(Duration::from_millis(50), node.handler.run_drain(std::future::pending()));
    assert!(drained.await.is_err(), "it never ends");
    assert_eq!(seen().await, ["the node is drained (NodeConfig, Cordon): nothing is announced"]);
    for reason in [DrainReason::NodeConfig, DrainReason::Cordon] {
        node.handler.set_drain(reason, false);
    }
    assert!(seen().await.is_empty());
}
