//! What others do to the node is undone, soon and without haste.

use std::future::Future;
use std::sync::Mutex;
use std::time::Duration;

use flock_core::dataplane::{AnycastState, Disturbance, MemoryDataplane};
use flock_core::handler::Repaired;
use flock_core::name::InterfaceName;
use tokio::time::{Instant, sleep, timeout};

use crate::faults::Faults;
use crate::node::{Node, World, key, namespace};

/// What is disturbed once is as it should be within this.
const SECOND: Duration = Duration::from_secs(1);

/// Runs the keeper beside `work`, and gives what it has repaired.
async fn kept(node: &Node, work: impl Future<Output = ()>) -> Vec<Repaired> {
    let repaired = Mutex::new(Vec::new());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let work = async {
        work.await;
        stop.send(()).unwrap();
    };
    let count = |what| repaired.lock().unwrap().push(what);
    let until = async { stopped.await.unwrap() };
    tokio::join!(work, node.handler.run_keeper(count, until));
    repaired.into_inner().unwrap()
}

async fn within_a_second(what: &str, is_so: impl Fn() -> bool) {
    let wait = async {
        while !is_so() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(timeout(SECOND, wait).await.is_ok(), "{what} is not back within a second");
}

fn link(dataplane: &MemoryDataplane, pod: u8) -> InterfaceName {
    let links = dataplane.links();
    links.into_iter().find(|link| link.owner == Some(key(pod))).unwrap().interface
}

fn calls(node: &Node, name: &str) -> usize {
    node.faults.log().into_iter().filter(|call| *call == name).count()
}

fn looks(node: &Node) -> usize {
    calls(node, "dataplane.check") + calls(node, "dataplane.check_node")
}

async fn node_with_pods(world: &World, pods: u8) -> Node {
    let node = world.node(Faults::failing([]));
    node.recover().await.unwrap();
    for pod in 0..pods {
        node.add(pod, &[]).await.unwrap();
    }
    node
}

#[tokio::test(start_paused = true)]
async fn routes_and_links_come_back() {
    let world = World::new();
    let node = node_with_pods(&world, 2).await;
    let kernel = &world.dataplane;
    let work = async {
        kernel.lose_routes(&link(kernel, 0));
        within_a_second("a route", || kernel.is_attached(&key(0))).await;
        kernel.lose_link(&link(kernel, 1));
        within_a_second("a link", || kernel.is_attached(&key(1))).await;
    };
    assert_eq!(kept(&node, work).await, [Repaired::Attachment; 2]);
    node.check(0).await.unwrap();
    node.check(1).await.unwrap();
}

/// Its process lives on without the path; nothing in there can be looked at.
#[tokio::test(start_paused = true)]
async fn the_nodes_side_of_a_pod_out_of_reach_comes_back_and_is_no_further_work() {
    let world = World::new();
    let node = node_with_pods(&world, 1).await;
    let kernel = &world.dataplane;
    kernel.unmount_namespace(namespace(0).as_ref()).unwrap();
    let work = async {
        kernel.lose_routes(&link(kernel, 0));
        within_a_second("a route", || kernel.is_attached(&key(0))).await;
        sleep(600 * SECOND).await;
        let before = looks(&node);
        sleep(600 * SECOND).await;
        assert_eq!(looks(&node), before);
    };
    assert_eq!(kept(&node, work).await, [Repaired::Attachment]);
}

#[tokio::test(start_paused = true)]
async fn what_is_the_nodes_own_comes_back() {
    let world = World::new();
    let node = node_with_pods(&world, 0).await;
    node.add(0, &[("anycast", "198.51.100.53")]).await.unwrap();
    let kernel = &world.dataplane;
    let (summaries, anycast) = (kernel.summaries(), kernel.anycast(AnycastState::Announced));
    assert!(!summaries.is_empty() && !anycast.is_empty());
    let work = async {
        kernel.lose_node_routes();
        within_a_second("a route of the node", || {
            kernel.summaries() == summaries && kernel.anycast(AnycastState::Announced) == anycast
        })
        .await;
        kernel.remove_gateway();
        kernel.change_setting("net.ipv4.ip_forward", "0");
        kernel.disturb(Disturbance::of_node());
        sleep(SECOND).await;
        // The anycast routes go with their link, whether that is told or not.
        kernel.lose_link(&link(kernel, 0));
        within_a_second("an anycast route", || kernel.anycast(AnycastState::Announced) == anycast).await;
    };
    let expected = [Repaired::Node, Repaired::Node, Repaired::Attachment, Repaired::Node];
    assert_eq!(kept(&node, work).await, expected);
    let left = node.faults.log();
    assert!(left.contains(&"dataplane.prepare"), "{left:?}");
}

#[tokio::test(start_paused = true)]
async fn after_too_much_everything_is_looked_at() {
    let world = World::new();
    let node = node_with_pods(&world, 5).await;
    let kernel = &world.dataplane;
    let work = async {
        for pod in [1, 3] {
            for prefix in kernel.routes_over(&link(kernel, pod)) {
                kernel.remove_route(prefix);
            }
        }
        kernel.disturb(Disturbance::of_everything());
        within_a_second("a route", || (0..5).all(|pod| kernel.is_attached(&key(pod)))).await;
    };
    assert_eq!(kept(&node, work).await, [Repaired::Attachment; 2]);
}

/// Adding and deleting is no disturbance, and a disturbance of what is being deleted no work.
#[tokio::test(start_paused = true)]
async fn nothing_that_is_deleted_is_repaired() {
    let world = World::new();
    let node = node_with_pods(&world, 3).await;
    let kernel = &world.dataplane;
    let links = [0, 1, 2].map(|pod| link(kernel, pod));
    let before = looks(&node);
    let work = async {
        for pod in 0..3 {
            node.del(pod).await.unwrap();
        }
        sleep(2 * SECOND).await;
        for interface in &links {
            kernel.disturb(Disturbance::of_interface(interface.clone()));
        }
        sleep(2 * SECOND).await;
        assert_eq!(node.handler.reap().await, 0);
        sleep(2 * SECOND).await;
    };
    assert_eq!(kept(&node, work).await, []);
    assert_eq!(looks(&node), before);
    world.assert_empty(&node).await;
}

/// A link that went with its namespace is not made anew, and nobody complains.
#[tokio::test(start_paused = true)]
async fn a_pod_that_ended_is_left_alone() {
    let world = World::new();
    let node = node_with_pods(&world, 1).await;
    let kernel = &world.dataplane;
    let interface = link(kernel, 0);
    let attaches = || calls(&node, "dataplane.attach");
    let before = attaches();
    let work = async {
        kernel.remove_namespace(crate::node::namespace(0).as_ref());
        kernel.disturb(Disturbance::of_interface(interface));
        sleep(10 * SECOND).await;
    };
    assert_eq!(kept(&node, work).await, []);
    assert_eq!(attaches(), before);
}

/// The namespace lives on, its path is gone: nothing is wrong that could be mended, so nothing
/// is tried, not even now and then.
#[tokio::test(start_paused = true)]
async fn a_pod_that_is_out_of_reach_is_left_alone() {
    let world = World::new();
    let node = node_with_pods(&world, 1).await;
    let kernel = &world.dataplane;
    let attaches = || calls(&node, "dataplane.attach");
    let before = attaches();
    let work = async {
        kernel.unmount_namespace(crate::node::namespace(0).as_ref()).unwrap();
        kernel.disturb(Disturbance::of_everything());
        sleep(300 * SECOND).await;
    };
    assert_eq!(kept(&node, work).await, []);
    assert_eq!(attaches(), before);
    assert!(kernel.is_attached(&key(0)));
}

/// What an ADD has made already is taken away before it has said that it is done.
#[tokio::test(start_paused = true)]
async fn what_is_taken_from_an_add_at_work_is_put_back_afterwards() {
    let world = World::new();
    let node = node_with_pods(&world, 0).await;
    let kernel = &world.dataplane;
    let work = async {
        let held = node.faults.attaching.lock().await;
        let [interface, _] = key(0).host_interface_candidates();
        let add = node.add(0, &[]);
        let disturb = async {
            sleep(SECOND).await;
            kernel.disturb(Disturbance::of_interface(interface.clone()));
            sleep(5 * SECOND).await;
            drop(held);
        };
        tokio::join!(add, disturb).0.unwrap();
        for prefix in kernel.routes_over(&interface) {
            kernel.remove_route(prefix);
        }
        assert!(!kernel.is_attached(&key(0)));
        // It was looked at seldom while the ADD took so long.
        sleep(2 * SECOND).await;
        assert!(kernel.is_attached(&key(0)));
    };
    assert_eq!(kept(&node, work).await, [Repaired::Attachment]);
}

#[tokio::test(start_paused = true)]
async fn what_fails_is_tried_again_less_and_less_often() {
    let world = World::new();
    let node = node_with_pods(&world, 1).await;
    let kernel = &world.dataplane;
    let attaches = || calls(&node, "dataplane.attach");
    let work = async {
        let before = attaches();
        // Its name is taken by somebody else.
        let interface = link(kernel, 0);
        kernel.lose_link(&interface);
        kernel.add_foreign_host_interface(interface.clone());
        sleep(600 * SECOND).await;
        let tried = attaches() - before;
        assert!((10..20).contains(&tried), "{tried} attempts in ten minutes");
        kernel.remove_foreign_host_interface(&interface);
        kernel.disturb(Disturbance::of_interface(interface));
        within_a_second("a link", || kernel.is_attached(&key(0))).await;
    };
    assert_eq!(kept(&node, work).await, [Repaired::Attachment]);
}

/// A disturbance each millisecond for a minute.
#[tokio::test(start_paused = true)]
async fn a_flood_is_looked_at_at_most_three_times_in_a_second() {
    let world = World::new();
    let node = node_with_pods(&world, 3).await;
    let kernel = &world.dataplane;
    let interfaces = [0, 1, 2].map(|pod| link(kernel, pod));
    let before = node.faults.calls();
    let work = async {
        let start = Instant::now();
        while start.elapsed() < 60 * SECOND {
            kernel.disturb(Disturbance::of_interface(interfaces[0].clone()));
            kernel.disturb(Disturbance::of_node());
            sleep(Duration::from_millis(1)).await;
        }
        // Another one in the midst of it waits for no longer than that.
        kernel.lose_routes(&interfaces[1]);
        within_a_second("a route", || kernel.is_attached(&key(1))).await;
        // And after some quiet it is as if nothing had been.
        sleep(20 * SECOND).await;
        kernel.lose_routes(&interfaces[2]);
        let start = Instant::now();
        within_a_second("a route", || kernel.is_attached(&key(2))).await;
        assert!(start.elapsed() < Duration::from_millis(50), "{:?}", start.elapsed());
    };
    assert_eq!(kept(&node, work).await, [Repaired::Attachment; 2]);
    // Four for each look: the records twice, the attachment, the node.
    let calls = node.faults.calls() - before;
    assert!((500..950).contains(&calls), "{calls} calls of backends in a minute of it");
}

/// Something that removes what is put back, for ever.
#[tokio::test(start_paused = true)]
async fn a_fight_is_no_busy_loop() {
    let world = World::new();
    let node = node_with_pods(&world, 1).await;
    let kernel = &world.dataplane;
    let interface = link(kernel, 0);
    let work = async {
        let start = Instant::now();
        while start.elapsed() < 60 * SECOND {
            if kernel.is_attached(&key(0)) {
                kernel.lose_routes(&interface);
            }
            sleep(Duration::from_millis(1)).await;
        }
        within_a_second("a route", || kernel.is_attached(&key(0))).await;
    };
    let repaired = kept(&node, work).await.len();
    assert!((150..230).contains(&repaired), "{repaired} repairs in a minute");
}

#[tokio::test(start_paused = true)]
async fn a_failing_look_is_repeated() {
    let world = World::new();
    let node = node_with_pods(&world, 1).await;
    let kernel = &world.dataplane;
    let work = async {
        // The first call of the look: the records.
        node.faults.fail_later(0);
        kernel.lose_routes(&link(kernel, 0));
        sleep(5 * SECOND).await;
        assert!(kernel.is_attached(&key(0)));
    };
    assert_eq!(kept(&node, work).await, [Repaired::Attachment]);
}

/// A look that failed is repeated after a while. What it was about is not forgotten when
/// others, at other things, are made or fail as well before that.
#[tokio::test(start_paused = true)]
async fn what_a_failed_look_was_about_is_not_forgotten() {
    for second in [Disturbance::of_node(), Disturbance::of_interface(InterfaceName::new("other").unwrap())] {
        for second_fails in [false, true] {
            let world = World::new();
            let node = node_with_pods(&world, 2).await;
            let kernel = &world.dataplane;
            let work = async {
                node.faults.fail_later(0);
                kernel.lose_routes(&link(kernel, 0));
                // Within the time after which it would be repeated.
                sleep(SECOND / 2).await;
                assert!(!kernel.is_attached(&key(0)));
                if second_fails {
                    node.faults.fail_later(0);
                }
                kernel.disturb(second.clone());
                sleep(5 * SECOND).await;
                assert!(kernel.is_attached(&key(0)), "{second:?}, which failed: {second_fails}");
            };
            assert_eq!(kept(&node, work).await, [Repaired::Attachment]);
        }
    }
}

/// Where all of a node's pods are disturbed at once, the kernel is asked for what there is once.
#[tokio::test(start_paused = true)]
async fn many_are_compared_with_the_kernel_together() {
    let world = World::new();
    let node = node_with_pods(&world, 12).await;
    let kernel = &world.dataplane;
    let before = calls(&node, "dataplane.check");
    let work = async {
        for pod in 0..12 {
            kernel.lose_routes(&link(kernel, pod));
        }
        within_a_second("a route", || (0..12).all(|pod| kernel.is_attached(&key(pod)))).await;
        sleep(5 * SECOND).await;
    };
    assert_eq!(kept(&node, work).await, [Repaired::Attachment; 12]);
    assert_eq!(calls(&node, "dataplane.check") - before, 1);
}

/// A link without a carrier is waited for, some seconds long. Others need not wait for that, be
/// they disturbed at the same time, meanwhile, or afterwards.
#[tokio::test(start_paused = true)]
async fn one_that_takes_long_delays_no_other() {
    let world = World::new();
    let node = node_with_pods(&world, 4).await;
    let kernel = &world.dataplane;
    let work = async {
        *node.faults.slow.lock().unwrap() = Some((key(0), 2 * SECOND));
        kernel.lose_routes(&link(kernel, 0));
        kernel.lose_routes(&link(kernel, 1));
        within_a_second("a route", || kernel.is_attached(&key(1))).await;
        kernel.lose_routes(&link(kernel, 2));
        within_a_second("a route", || kernel.is_attached(&key(2))).await;
        assert!(!kernel.is_attached(&key(0)));
        // Once more, while it is still being worked on: that makes it no second repair.
        kernel.disturb(Disturbance::of_interface(link(kernel, 0)));
        timeout(3 * SECOND, async {
            while !kernel.is_attached(&key(0)) {
                sleep(Duration::from_millis(1)).await;
            }
        })
        .await
        .unwrap();
        kernel.lose_routes(&link(kernel, 3));
        within_a_second("a route", || kernel.is_attached(&key(3))).await;
        sleep(5 * SECOND).await;
    };
    assert_eq!(kept(&node, work).await, [Repaired::Attachment; 4]);
}

/// What was lost a second time, while it was being put back, is put back a second time.
#[tokio::test(start_paused = true)]
async fn what_is_disturbed_while_it_is_mended_is_looked_at_again() {
    let world = World::new();
    let node = node_with_pods(&world, 1).await;
    let kernel = &world.dataplane;
    let interface = link(kernel, 0);
    let work = async {
        let held = node.faults.attaching.lock().await;
        kernel.lose_routes(&interface);
        sleep(SECOND).await;
        kernel.disturb(Disturbance::of_interface(interface.clone()));
        // It has been heard by now.
        sleep(SECOND).await;
        drop(held);
        within_a_second("a route", || kernel.is_attached(&key(0))).await;
        for prefix in kernel.routes_over(&interface) {
            kernel.remove_route(prefix);
        }
        within_a_second("a route", || kernel.is_attached(&key(0))).await;
    };
    assert_eq!(kept(&node, work).await, [Repaired::Attachment; 2]);
}

/// Also where looks are seldom, since there were many.
#[tokio::test(start_paused = true)]
async fn anycast_routes_are_back_with_their_link() {
    let world = World::new();
    let node = node_with_pods(&world, 0).await;
    node.add(0, &[("anycast", "198.51.100.53")]).await.unwrap();
    let kernel = &world.dataplane;
    let anycast = kernel.anycast(AnycastState::Announced);
    let work = async {
        let start = Instant::now();
        while start.elapsed() < 30 * SECOND {
            kernel.lose_link(&link(kernel, 0));
            let back = || kernel.is_attached(&key(0)) && kernel.anycast(AnycastState::Announced) == anycast;
            within_a_second("an anycast route", back).await;
        }
    };
    kept(&node, work).await;
}
