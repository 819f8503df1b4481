//! A failure at any call of any backend leaks nothing.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use flock_core::attachment::AttachmentState;
use flock_core::dataplane::Dataplane;
use flock_core::node_config::NodeConfig;
use flock_core::store::Store;
use proptest::prelude::*;

use crate::faults::Faults;
use crate::node::{NODE_CONFIG, Node, World, key, moved_config};

/// A pod's whole life, with everything that calls a backend.
async fn life(node: &Node) {
    let anycast = [("anycast", "2001:db8:a::1, 198.51.100.1")];
    let _ = node.recover().await;
    let _ = node.add(1, &anycast).await;
    let _ = node.add(2, &anycast).await;
    let _ = node.add(1, &anycast).await;
    let _ = node.check(1).await;
    let _ = node.del(1).await;
    let _ = node.add(1, &[("ipv4", "false")]).await;
    // Its annotations come from the pod source.
    let _ = node.add(3, &[]).await;
    node.handler.reap().await;
    let _ = node.gc(&[1, 2]).await;
    let _ = node.handler.collect().await;
    let _ = node.del(2).await;
    node.handler.reap().await;
}

/// Every single call of a life fails once; afterwards everything can be deleted and
/// nothing is left, both in the same agent and after a restart.
#[tokio::test]
async fn each_call_may_fail_once() {
    let unharmed = Faults::failing([]);
    life(&World::new().node(unharmed.clone())).await;
    let calls = unharmed.calls();
    assert!(calls > 40, "the life calls backends only {calls} times: {:?}", unharmed.log());
    for backend in ["ipam", "store", "dataplane", "announcer", "pods"] {
        assert!(unharmed.log().iter().any(|call| call.starts_with(backend)), "{backend} is not called");
    }
    for failing in 0..calls {
        for restart in [false, true] {
            let world = World::new();
            let faults = Faults::failing([failing]);
            let mut node = world.node(faults.clone());
            life(&node).await;
            world.assert_sound().await;
            let failed = faults.log()[failing];
            if restart {
                node = world.node(Faults::failing([]));
            }
            node.faults.stop();
            node.recover().await.unwrap_or_else(|error| panic!("{failed}: {error}"));
            node.delete_all().await;
            world.assert_empty(&node).await;
        }
    }
}

/// A failed ADD answers with the error and leaves nothing, without any further call:
/// what could not be undone at once the reaper undoes.
#[tokio::test]
async fn a_failed_add_leaves_nothing() {
    let unharmed = Faults::failing([]);
    let node = World::new().node(unharmed.clone());
    node.recover().await.unwrap();
    let (before, log) = (unharmed.calls(), unharmed.log());
    node.add(1, &[("anycast", "2001:db8:a::1")]).await.unwrap();
    let after = unharmed.calls();
    assert!(after - before >= 7, "{log:?}");
    for failing in before..after {
        let world = World::new();
        let faults = Faults::failing([failing]);
        let node = world.node(faults.clone());
        node.recover().await.unwrap();
        let outcome = node.add(1, &[("anycast", "2001:db8:a::1")]).await;
        let failed = faults.log()[failing];
        if outcome.is_ok() {
            // What an ADD survives is only what is tried again by itself, or told later.
            let survived = ["announcer.sync", "dataplane.set_anycast", "store.list", "pods.pod"];
            assert!(survived.contains(&failed), "{failed}");
            node.delete_all().await;
        }
        assert_eq!(node.handler.reap().await, 0, "{failed}");
        world.assert_empty(&node).await;
    }
}

/// What the reaper still has to take away of a deletion that failed is not taken from
/// the attachment that was made in its place.
#[tokio::test]
async fn a_failed_del_does_not_take_the_next_attachment_away() {
    let unharmed = Faults::failing([]);
    let node = World::new().node(unharmed.clone());
    node.recover().await.unwrap();
    node.add(1, &[]).await.unwrap();
    let before = unharmed.calls();
    node.del(1).await.unwrap();
    let of_del = unharmed.log().split_off(before);
    assert_eq!(of_del, ["store.get", "store.put", "dataplane.detach"]);

    let world = World::new();
    // The record can't be marked, nor the routes be removed.
    let node = world.node(Faults::failing([before + 1, before + 2]));
    node.recover().await.unwrap();
    node.add(1, &[]).await.unwrap();
    node.del(1).await.unwrap_err();
    node.add(1, &[]).await.unwrap();
    assert_eq!(node.handler.reap().await, 0);
    assert!(world.dataplane.is_attached(&key(1)));
    node.delete_all().await;
    world.assert_empty(&node).await;
}

#[derive(Debug, Clone)]
enum Step {
    Add(u8, Asking),
    Del(u8),
    Check(u8),
    Reap,
    Gc(BTreeSet<u8>),
    Collect,
    Reconfigure(bool),
    Restart,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Asking {
    Nothing,
    OneFamily,
    Static,
    Anycast,
    Stable,
}

impl Asking {
    pub(crate) fn annotations(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Nothing => &[],
            Self::OneFamily => &[("ipv4", "false")],
            Self::Static => &[("ipv6", "2001:db8:1::7")],
            Self::Anycast => &[("anycast", "2001:db8:a::1")],
            Self::Stable => &[("ip-algo", "stable")],
        }
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let asking = prop_oneof![
        Just(Asking::Nothing),
        Just(Asking::OneFamily),
        Just(Asking::Static),
        Just(Asking::Anycast),
        Just(Asking::Stable),
    ];
    let step = prop_oneof![
        5 => (0..16_u8, asking).prop_map(|(pod, asking)| Step::Add(pod, asking)),
        4 => (0..16_u8).prop_map(Step::Del),
        1 => (0..16_u8).prop_map(Step::Check),
        2 => Just(Step::Reap),
        1 => proptest::collection::btree_set(0..16_u8, 8..16).prop_map(Step::Gc),
        1 => Just(Step::Collect),
        1 => Just(Step::Restart),
        1 => any::<bool>().prop_map(Step::Reconfigure),
    ];
    proptest::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Any sequence with any set of failing calls keeps addresses unique, keeps what
    /// was answered true, and ends with nothing leaked.
    #[test]
    fn any_sequence_with_any_failures_leaks_nothing(
        steps in steps(),
        failing in proptest::collection::btree_set(0..600_usize, 0..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let world = World::new();
            let faults = Faults::failing(failing);
            let mut node = world.node(faults.clone());
            while node.recover().await.is_err() {}
            let mut given = HashMap::new();
            for step in steps {
                match step {
                    Step::Add(pod, asking) => {
                        if let Ok(result) = node.add(pod, asking.annotations()).await {
                            prop_assert!(world.dataplane.is_attached(&key(pod)), "answered but not attached");
                            given.insert(pod, result.ips);
                        }
                    }
                    Step::Del(pod) => {
                        let deleted = given.remove(&pod);
                        if node.del(pod).await.is_ok() {
                            let routed: Vec<_> = deleted
                                .into_iter()
                                .flatten()
                                .filter(|ip| world.dataplane.routes().contains(&ip.address))
                                .collect();
                            // What still has a route has been given to another pod since.
                            for ip in routed {
                                let owner = world.owner(ip.address.addr()).await;
                                prop_assert!(owner.is_some_and(|owner| owner != key(pod)), "deleted but reachable");
                            }
                        }
                    }
                    Step::Check(pod) => { let _ = node.check(pod).await; }
                    Step::Reap => { node.handler.reap().await; }
                    Step::Gc(valid) => {
                        let listed: Vec<u8> = valid.iter().copied().collect();
                        let outcome = node.gc(&listed).await;
                        given.retain(|pod, _| valid.contains(pod));
                        if outcome.is_ok() {
                            let left = world.store.list().await.unwrap();
                            let left = left.iter().filter(|left| left.state != AttachmentState::Deleting);
                            for record in left {
                                prop_assert!(valid.iter().any(|pod| key(*pod) == record.key), "{record:?}");
                            }
                        }
                    }
                    Step::Collect => {
                        world.clock.advance(Duration::from_secs(60));
                        prop_assert!(matches!(node.handler.collect().await, Ok(0) | Err(_)), "collected");
                    }
                    Step::Reconfigure(moved) => {
                        let text = if moved { moved_config() } else { NODE_CONFIG.to_owned() };
                        let config = NodeConfig::from_yaml(&text, "test").unwrap();
                        while node.handler.reconfigure(config.clone()).await.is_err() {}
                    }
                    Step::Restart => {
                        node = world.node(faults.clone());
                        while node.recover().await.is_err() {}
                    }
                }
                world.assert_sound().await;
                for pod in given.keys() {
                    prop_assert!(world.dataplane.is_attached(&key(*pod)), "pod {} lost its link", pod);
                }
            }
            node.delete_all().await;
            world.assert_empty(&node).await;
            prop_assert!(world.dataplane.list().await.unwrap().is_empty());
            Ok(())
        })?;
    }
}
