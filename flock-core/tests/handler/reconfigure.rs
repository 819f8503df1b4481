//! A configuration that changes while pods run.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::pin::pin;
use std::time::{Duration, Instant};

use flock_core::announcer::Announcements;
use flock_core::cni::Verb;
use flock_core::handler::Settings;
use flock_core::node_config::NodeConfig;
use flock_core::pods::PodInfo;
use futures_util::FutureExt;
use ipnet::IpNet;

use crate::faults::Faults;
use crate::node::{NODE_CONFIG, Node, World, call, key, moved_config, pod_key, settings};

fn without_bgp() -> String {
    NODE_CONFIG.lines().filter(|line| !line.contains("bgp")).collect::<Vec<_>>().join("\n")
}

async fn started() -> (World, Node) {
    let world = World::new();
    let node = world.node(Faults::failing([]));
    node.recover().await.unwrap();
    (world, node)
}

impl Node {
    async fn reconfigure(&self, text: &str) {
        self.handler.reconfigure(NodeConfig::from_yaml(text, "test").unwrap()).await.unwrap();
    }

    async fn address_of(&self, pod: u8) -> Vec<IpAddr> {
        let result = self.add(pod, &[]).await.unwrap();
        result.ips.iter().map(|ip| ip.address.addr()).collect()
    }
}

fn announced(world: &World) -> Announcements {
    world.announcer.announced().unwrap()
}

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[tokio::test]
async fn new_pods_get_addresses_from_the_new_prefixes_and_old_ones_keep_theirs() {
    let (world, node) = started().await;
    let old = node.address_of(1).await;
    node.reconfigure(&moved_config()).await;
    assert_eq!(node.address_of(2).await, addresses(&["2001:db8:2::1", "10.0.2.1"]));
    assert_eq!(node.address_of(1).await, old, "a repeated ADD");
    node.check(1).await.unwrap();
    world.assert_sound().await;
    node.delete_all().await;
    world.assert_empty(&node).await;
}

#[tokio::test]
async fn what_the_network_hears_follows() {
    let (world, node) = started().await;
    let before = announced(&world);
    node.reconfigure(&moved_config().replace("name: tor1", "name: tor2").replace("64512", "64513")).await;
    let after = announced(&world);
    assert_ne!(before.summaries, after.summaries);
    let summaries: BTreeSet<_> = ["2001:db8:2::/124", "10.0.2.0/28"].map(|net| net.parse().unwrap()).into();
    assert_eq!(after.summaries, summaries);
    assert_eq!(world.dataplane.summaries(), summaries);
    assert_eq!((after.peers[0].name.as_str(), after.asn), ("tor2", 64513));
    assert_eq!(after.exceptions, BTreeSet::new());
}

/// The old prefix may be announced by another node by now.
#[tokio::test]
async fn a_pod_outside_the_new_prefixes_is_announced_by_itself_until_it_goes() {
    let (world, node) = started().await;
    let old: BTreeSet<IpAddr> = node.address_of(1).await.into_iter().collect();
    node.reconfigure(&moved_config()).await;
    node.add(2, &[]).await.unwrap();
    assert_eq!(announced(&world).exceptions, old);
    node.del(1).await.unwrap();
    assert_eq!(announced(&world).exceptions, BTreeSet::new());
}

#[tokio::test]
async fn so_it_is_after_a_restart() {
    let (world, node) = started().await;
    let old: BTreeSet<IpAddr> = node.address_of(1).await.into_iter().collect();
    drop(node);
    let node = world.node(Faults::failing([]));
    node.handler.reconfigure(NodeConfig::from_yaml(&moved_config(), "test").unwrap()).await.unwrap();
    node.recover().await.unwrap();
    assert_eq!(announced(&world).exceptions, old);
    assert!(world.dataplane.is_attached(&key(1)));
}

#[tokio::test]
async fn prefixes_that_come_back_need_no_exception() {
    let (world, node) = started().await;
    let old = node.address_of(1).await;
    node.reconfigure(&moved_config()).await;
    node.reconfigure(NODE_CONFIG).await;
    assert_eq!(announced(&world).exceptions, BTreeSet::new());
    assert_ne!(node.address_of(2).await, old, "the address of a pod that runs was given again");
    world.assert_sound().await;
}

#[tokio::test]
async fn a_node_that_loses_its_bgp_part_falls_silent() {
    let (world, node) = started().await;
    node.reconfigure(&without_bgp()).await;
    assert_eq!(announced(&world).peers, []);
}

#[tokio::test]
async fn a_node_that_never_had_one_needs_no_speaker() {
    let world = World::new();
    let node = world.node(Faults::failing([]));
    node.reconfigure(&without_bgp()).await;
    assert_eq!(world.announcer.announced(), None);
}

/// The pod waits for its annotations while the configuration changes.
#[tokio::test]
async fn an_add_that_waited_goes_by_the_configuration_after_it() {
    let (world, node) = started().await;
    world.pods.remove(&pod_key(1));
    let add = call(Verb::Add, 1, &[]);
    let mut adding = pin!(node.handler.add(&add, Instant::now() + Duration::from_secs(60)));
    assert!(adding.as_mut().now_or_never().is_none());
    let without_ipv4: String =
        moved_config().lines().filter(|line| !line.contains("cidr4")).collect::<Vec<_>>().join("\n");
    node.reconfigure(&without_ipv4).await;
    world.pods.insert(pod_key(1), PodInfo::default());
    let given: Vec<IpAddr> = adding.await.unwrap().ips.iter().map(|ip| ip.address.addr()).collect();
    assert_eq!(given, addresses(&["2001:db8:2::1"]));
}

/// The pod has its address when the configuration changes, and is not complete yet.
#[tokio::test]
async fn an_add_that_is_overtaken_is_announced_by_itself() {
    let (world, node) = started().await;
    let gate = node.faults.attaching.try_lock().unwrap();
    let add = call(Verb::Add, 1, &[]);
    let mut adding = pin!(node.handler.add(&add, Instant::now() + Duration::from_secs(60)));
    assert!(adding.as_mut().now_or_never().is_none(), "it was not held");
    node.reconfigure(&moved_config()).await;
    assert_eq!(announced(&world).exceptions, BTreeSet::new(), "it is not complete");
    drop(gate);
    let given: BTreeSet<IpAddr> = adding.await.unwrap().ips.iter().map(|ip| ip.address.addr()).collect();
    assert_eq!(announced(&world).exceptions, given);
}

/// The last agent may have announced something.
#[tokio::test]
async fn a_node_that_lost_its_bgp_part_between_two_agents_falls_silent() {
    let (world, node) = started().await;
    drop(node);
    let node = world.node_with(
        Faults::failing([]),
        &without_bgp(),
        Settings { announced_before: true, ..settings() },
    );
    node.recover().await.unwrap();
    assert_eq!(announced(&world).peers, []);
}

/// Routers must not lose a pod's address between its summary and itself.
#[tokio::test(start_paused = true)]
async fn the_kernel_keeps_an_old_summary_until_the_announcer_has_the_exceptions() {
    let world = World::new();
    let grace = Duration::from_secs(2);
    let node =
        world.node_with(Faults::failing([]), NODE_CONFIG, Settings { summary_grace: grace, ..settings() });
    node.recover().await.unwrap();
    let (old, config) =
        (world.dataplane.summaries(), NodeConfig::from_yaml(&moved_config(), "test").unwrap());
    let new: BTreeSet<IpNet> = config.cidrs.iter().collect();
    let mut changing = pin!(node.handler.reconfigure(config));
    assert!(changing.as_mut().now_or_never().is_none(), "the old summaries were not kept");
    assert_eq!(announced(&world).summaries, new);
    assert_eq!(world.dataplane.summaries(), old.union(&new).copied().collect());
    changing.await.unwrap();
    assert_eq!(world.dataplane.summaries(), new);
}

/// What fails halfway is done by the next call.
#[tokio::test]
async fn every_call_may_fail_once() {
    for failing in 0..64 {
        let (world, node) = started().await;
        node.add(1, &[]).await.unwrap();
        let before = node.faults.calls();
        node.faults.fail_later(failing);
        let config = NodeConfig::from_yaml(&moved_config(), "test").unwrap();
        let first = node.handler.reconfigure(config.clone()).await;
        let reached = node.faults.calls() - before > failing;
        node.faults.stop();
        if first.is_err() {
            node.handler.reconfigure(config).await.unwrap();
        }
        // What could not be announced is said again by the reaper.
        assert_eq!(node.handler.reap().await, 0);
        assert_eq!(announced(&world).summaries, world.dataplane.summaries());
        assert!(announced(&world).summaries.iter().all(|net| moved_config().contains(&net.to_string())));
        if !reached {
            assert!(failing > 3, "only {failing} calls could fail");
            return;
        }
    }
    panic!("a change of the configuration never came to its end");
}
