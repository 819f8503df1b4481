//! Deletions that were queued while no agent ran.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use flock_core::attachment::AttachmentKey;
use flock_core::client::Deadline;
use flock_core::cni;
use flock_core::deletions::{Deletion, DeletionQueue};
use flock_core::handler::{QueuedDeletions, Replay};
use proptest::prelude::*;
use tempfile::TempDir;

use crate::faults::Faults;
use crate::node::{Node, World, key, pod_key};

struct Queue {
    _directory: TempDir,
    queue: DeletionQueue,
}

impl Queue {
    fn new() -> Self {
        // In memory, as it should be on a node.
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        let queue = DeletionQueue::of_run_dir(directory.path());
        Self { _directory: directory, queue }
    }

    fn push(&self, pod: u8) {
        self.push_in(pod, "boot-1");
    }

    fn push_in(&self, pod: u8, boot_id: &str) {
        let deletion =
            Deletion { key: key(pod), pod: Some(pod_key(pod)), boot_id: boot_id.into(), queued_ms: 1 };
        self.queue.lock(Deadline::after(Duration::from_secs(5))).unwrap().push(&deletion).unwrap();
    }

    /// What waits, in order.
    fn keys(&self) -> Vec<AttachmentKey> {
        let waiting = self.queue.lock(Deadline::after(Duration::from_secs(5))).unwrap().waiting().unwrap();
        waiting.entries.into_iter().map(|entry| entry.deletion.key).collect()
    }

    fn waiting(&self) -> usize {
        self.keys().len()
    }
}

impl Node {
    async fn start(&self, queue: &Queue) -> Replay {
        self.handler.recover(&[]).await.unwrap();
        let replay = self.handler.replay(&queue.queue).await.unwrap();
        self.handler.publish().await.unwrap();
        replay
    }
}

/// Not even by a deletion that changes what is to be announced.
#[tokio::test]
async fn nothing_is_announced_before_the_queue_is_replayed() {
    let (world, queue) = (World::new(), Queue::new());
    let node = world.node(Faults::failing([]));
    node.start(&queue).await;
    let serving = ("anycast", "2001:db8:a::1");
    node.add(1, &[serving, ("ipv4", "203.0.113.7")]).await.unwrap();
    for pod in [2, 3] {
        node.add(pod, &[serving]).await.unwrap();
    }
    drop(node);
    queue.push(1);

    let world = World { announcer: Arc::default(), ..world };
    let node = world.node(Faults::failing([]));
    node.handler.recover(&[]).await.unwrap();
    assert_eq!(node.handler.replay(&queue.queue).await.unwrap().done, 1);
    assert_eq!(node.handler.reap().await, 0);
    node.del(2).await.unwrap();
    assert_eq!(world.announcer.announced(), None);
    node.handler.publish().await.unwrap();
    let announced = world.announcer.announced().unwrap();
    assert_eq!((announced.summaries.len(), announced.anycast.len()), (2, 1));
    assert_eq!(announced.exceptions, BTreeSet::new());
}

#[tokio::test]
async fn what_is_queued_is_gone_when_it_was_replayed() {
    let (world, queue) = (World::new(), Queue::new());
    let node = world.node(Faults::failing([]));
    assert_eq!(node.start(&queue).await, Replay::default());
    for pod in 1..=3 {
        node.add(pod, &[("anycast", "2001:db8:a::1")]).await.unwrap();
    }
    drop(node);

    for pod in [3, 1, 9, 1] {
        queue.push(pod);
    }
    let node = world.node(Faults::failing([]));
    assert_eq!(node.start(&queue).await, Replay { done: 3, ..Replay::default() });
    assert_eq!(queue.waiting(), 0);
    assert_eq!(node.handler.queued_deletions(), QueuedDeletions { replayed: 3, waiting: 0 });
    // Not even the links are left for the reaper.
    assert_eq!(world.dataplane.links().len(), 1);
    assert!(world.dataplane.is_attached(&key(2)));
    node.del(2).await.unwrap();
    assert_eq!(node.handler.reap().await, 0);
    world.assert_empty(&node).await;
}

/// A runtime does not wait for the replay, and may delete what is queued once more.
#[tokio::test]
async fn deletions_beside_a_replay_come_to_the_same() {
    let (world, queue) = (World::new(), Queue::new());
    let node = world.node(Faults::failing([]));
    node.start(&queue).await;
    for pod in 1..=4 {
        node.add(pod, &[("anycast", "2001:db8:a::1")]).await.unwrap();
    }
    for pod in [2, 1, 3] {
        queue.push(pod);
    }
    let node = world.node(Faults::failing([]));
    node.recover().await.unwrap();
    let (replay, ..) =
        tokio::join!(node.handler.replay(&queue.queue), node.del(1), node.del(4), node.del(3), node.del(9));
    assert_eq!(replay.unwrap(), Replay { done: 3, ..Replay::default() });
    assert_eq!(queue.waiting(), 0);
    assert_eq!(node.handler.reap().await, 0);
    world.assert_empty(&node).await;
}

#[tokio::test]
async fn deletions_of_another_boot_delete_nothing() {
    let (world, queue) = (World::new(), Queue::new());
    let node = world.node(Faults::failing([]));
    node.start(&queue).await;
    node.add(1, &[]).await.unwrap();
    queue.push_in(1, "boot-0");
    queue.push_in(2, "boot-0");
    let node = world.node(Faults::failing([]));
    assert_eq!(node.start(&queue).await, Replay { other_boot: 2, ..Replay::default() });
    assert_eq!(queue.waiting(), 0);
    assert!(world.dataplane.is_attached(&key(1)));
}

#[tokio::test]
async fn a_broken_file_holds_nothing_up() {
    let (world, queue) = (World::new(), Queue::new());
    queue.push(1);
    fs::write(queue.queue.path().join("00000000000000000000-0000000000000000.json"), "{").unwrap();
    let replay = world.node(Faults::failing([])).start(&queue).await;
    assert_eq!(replay, Replay { done: 1, set_aside: 1, ..Replay::default() });
    assert_eq!(queue.waiting(), 0);
}

#[tokio::test]
async fn what_fails_is_done_before_an_add_or_by_the_reaper() {
    for by_add in [true, false] {
        let (world, queue) = (World::new(), Queue::new());
        let faults = Faults::failing([]);
        let node = world.node(faults.clone());
        node.start(&queue).await;
        let first = node.add(1, &[]).await.unwrap();
        queue.push(1);

        let node = world.node(faults.clone());
        node.recover().await.unwrap();
        // The record can't be read: at the replay, and when the reaper is through at its end.
        faults.fail_later(0);
        faults.fail_later(1);
        let replay = node.handler.replay(&queue.queue).await.unwrap();
        assert_eq!(replay, Replay { failed: 1, ..Replay::default() }, "{:?}", faults.log());
        assert_eq!(node.handler.queued_deletions(), QueuedDeletions { replayed: 0, waiting: 1 });
        assert_eq!(queue.waiting(), 1);
        if by_add {
            // Still failing: the ADD comes to nothing, and comes again.
            faults.fail_later(0);
            let error = cni::Error::from(node.add(1, &[]).await.unwrap_err());
            assert_eq!(queue.waiting(), 1, "{error}");
            let second = node.add(1, &[]).await.unwrap();
            assert_ne!(second.ips, first.ips, "the old attachment was answered");
            assert!(world.dataplane.is_attached(&key(1)));
        } else {
            assert_eq!(node.handler.reap().await, 0);
            world.assert_empty(&node).await;
        }
        assert_eq!(node.handler.queued_deletions(), QueuedDeletions { replayed: 1, waiting: 0 });
        assert_eq!(queue.waiting(), 0);
    }
}

/// A file that stays would delete with the next agent what an ADD makes now.
#[tokio::test]
async fn an_add_does_not_go_before_a_file_that_can_not_be_removed() {
    let (world, queue) = (World::new(), Queue::new());
    queue.push(1);
    let faults = Faults::failing([]);
    let node = world.node(faults.clone());
    node.recover().await.unwrap();
    faults.fail_later(0);
    faults.fail_later(1);
    node.handler.replay(&queue.queue).await.unwrap();
    // A directory can't be removed like a file.
    let path = fs::read_dir(queue.queue.path()).unwrap().next().unwrap().unwrap().path();
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    for _ in 0..2 {
        let error = cni::Error::from(node.add(1, &[]).await.unwrap_err());
        assert_eq!(error.code, cni::Code::TRY_AGAIN_LATER);
        assert!(error.msg.starts_with(&format!("can't remove {}: ", path.display())), "{error}");
        assert!(!world.dataplane.is_attached(&key(1)));
        assert_eq!(node.handler.reap().await, 1, "the reaper has given up");
    }
    fs::remove_dir(&path).unwrap();
    node.add(1, &[]).await.unwrap();
    assert_eq!(node.handler.queued_deletions(), QueuedDeletions { replayed: 1, waiting: 0 });
    assert!(world.dataplane.is_attached(&key(1)));
}

/// The agent dies at any call of a replay, which the next one takes up.
#[tokio::test]
async fn a_replay_that_is_cut_off_at_any_call_is_finished_by_the_next_one() {
    let add_all = async |world: &World| {
        let node = world.node(Faults::failing([]));
        node.recover().await.unwrap();
        for pod in 1..=3 {
            node.add(pod, &[("anycast", "2001:db8:a::1")]).await.unwrap();
        }
    };
    let (world, queue) = (World::new(), Queue::new());
    add_all(&world).await;
    for pod in [2, 1] {
        queue.push(pod);
    }
    let unharmed = Faults::failing([]);
    world.node(unharmed.clone()).start(&queue).await;
    let calls = unharmed.calls();
    for failing in 0..calls {
        let (world, queue) = (World::new(), Queue::new());
        add_all(&world).await;
        for pod in [2, 1] {
            queue.push(pod);
        }
        // From this call on everything fails, as if there was no agent any more.
        let node = world.node(Faults::failing(failing..failing + 1000));
        if node.recover().await.is_ok() {
            let _ = node.handler.replay(&queue.queue).await;
        }
        drop(node);
        // In their order: what is left is the end.
        assert!([key(2), key(1)].ends_with(&queue.keys()), "from call {failing} on: {:?}", queue.keys());
        let node = world.node(Faults::failing([]));
        node.start(&queue).await;
        assert_eq!(queue.waiting(), 0, "from call {failing} on");
        assert_eq!(world.dataplane.links().len(), 1, "from call {failing} on");
        assert!(world.dataplane.is_attached(&key(3)), "from call {failing} on");
        node.delete_all().await;
        world.assert_empty(&node).await;
    }
}

#[derive(Debug, Clone)]
enum Step {
    Add(u8),
    Del(u8),
    Reap,
    /// The agent ends, however far it is.
    Kill,
    /// A new one takes over, with these of its calls failing.
    Start(BTreeSet<usize>),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        5 => (0..6_u8).prop_map(Step::Add),
        5 => (0..6_u8).prop_map(Step::Del),
        1 => Just(Step::Reap),
        2 => Just(Step::Kill),
        2 => proptest::collection::btree_set(10..60_usize, 0..8).prop_map(Step::Start),
    ];
    proptest::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// An agent that comes and goes: whatever a runtime was told stays true. Deleted is
    /// who was deleted after the last ADD that succeeded, with an agent or without.
    #[test]
    fn an_agent_that_comes_and_goes_forgets_no_deletion(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (world, queue) = (World::new(), Queue::new());
            let mut agent: Option<Node> = None;
            // What the runtime knows: added and not deleted, with the addresses; and deleted.
            let (mut living, mut deleted) = (BTreeMap::new(), BTreeSet::new());
            for step in steps {
                match (step, agent.as_ref()) {
                    (Step::Add(pod), Some(node)) => {
                        if let Ok(result) = node.add(pod, &[]).await {
                            // A repeated one is answered with the same, one after a DEL is made anew.
                            if let Some(before) = living.insert(pod, result.ips.clone()) {
                                prop_assert_eq!(before, result.ips);
                            }
                            deleted.remove(&pod);
                        }
                    }
                    (Step::Del(pod), Some(node)) => {
                        let answer = node.del(pod).await;
                        living.remove(&pod);
                        if answer.is_ok() {
                            deleted.insert(pod);
                        } else {
                            deleted.remove(&pod);
                        }
                    }
                    (Step::Del(pod), None) => {
                        queue.push(pod);
                        living.remove(&pod);
                        deleted.insert(pod);
                    }
                    (Step::Reap, Some(node)) => { node.handler.reap().await; }
                    (Step::Kill, _) => agent = None,
                    (Step::Start(failing), None) => {
                        let node = world.node(Faults::failing(failing));
                        while node.recover().await.is_err() {}
                        node.handler.replay(&queue.queue).await.unwrap();
                        agent = Some(node);
                    }
                    // Without an agent there is no ADD; with one, none is started.
                    (Step::Add(_) | Step::Reap, None) | (Step::Start(_), Some(_)) => {}
                }
                world.assert_sound().await;
                for pod in living.keys() {
                    prop_assert!(world.dataplane.is_attached(&key(*pod)), "pod {} lost its link", pod);
                }
            }
            let node = world.node(Faults::failing([]));
            node.start(&queue).await;
            prop_assert_eq!(queue.waiting(), 0);
            for pod in &deleted {
                prop_assert!(!world.dataplane.is_attached(&key(*pod)), "pod {} came back", pod);
            }
            for pod in living.keys() {
                prop_assert!(world.dataplane.is_attached(&key(*pod)), "pod {} is gone", pod);
            }
            node.delete_all().await;
            world.assert_empty(&node).await;
            Ok(())
        })?;
    }
}
