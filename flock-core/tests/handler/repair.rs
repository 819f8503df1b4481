//! Mending what is not as it should be, with calls that fail.

use std::collections::BTreeSet;

use flock_core::attachment::{Attachment, AttachmentKey};
use flock_core::dataplane::{Dataplane, Link};
use flock_core::ipam::{AddressRequest, FamilyRequest, Ipam, LeaseOwner};
use flock_core::name::InterfaceName;
use flock_core::node_config::NodeConfig;
use flock_core::store::Store;

use crate::faults::Faults;
use crate::node::{NODE_CONFIG, Node, World, key};

/// Looks, without which there is nothing to be mended. Their failure is told.
const LOOKS: [&str; 4] = ["dataplane.list", "dataplane.check_node", "ipam.leases", "store.list"];

/// A node of which everything is damaged that a repair mends.
struct Damaged {
    world: World,
    node: Node,
    pods: Vec<Attachment>,
    /// Links that no record knows.
    unowned: Vec<Link>,
    /// A lease of the same sort.
    unheld: AttachmentKey,
}

impl Damaged {
    async fn new() -> Self {
        let world = World::new();
        let node = world.node(Faults::failing([]));
        node.recover().await.unwrap();
        for pod in 0..4 {
            node.add(pod, &[]).await.unwrap();
        }
        let mut pods = world.store.list().await.unwrap();
        let mut unowned = Vec::new();
        for lost in pods.split_off(2) {
            world.store.delete(&lost.key).await.unwrap();
            node.ipam.release(&lost.key).await.unwrap();
            unowned.push(Link::of(&lost));
        }
        for pod in &pods {
            world.dataplane.lose_routes(&pod.host_interface);
        }
        let unheld = AttachmentKey { interface: InterfaceName::new("net1").unwrap(), ..key(1) };
        let any = AddressRequest { ipv4: FamilyRequest::Any, ..AddressRequest::default() };
        node.ipam.allocate(&LeaseOwner { key: unheld.clone(), pod: None }, &any).await.unwrap();
        world.dataplane.set_summaries(&BTreeSet::new()).await.unwrap();
        world.dataplane.add_route("10.9.9.9/32".parse().unwrap(), InterfaceName::new("uplink").unwrap());
        Self { world, node, pods, unowned, unheld }
    }

    /// What is still not as it should be.
    async fn left(&self) -> Vec<String> {
        let Self { world, node, .. } = self;
        let mut left = Vec::new();
        for pod in &self.pods {
            if world.dataplane.routes_over(&pod.host_interface).is_empty() {
                left.push(format!("routes of {}", pod.key));
            }
        }
        let links = world.dataplane.links();
        left.extend(self.unowned.iter().filter(|link| links.contains(link)).map(|link| format!("{link:?}")));
        if node.ipam.leases().await.unwrap().iter().any(|lease| lease.owner.key == self.unheld) {
            left.push("a lease".to_owned());
        }
        let cidrs = NodeConfig::from_yaml(NODE_CONFIG, "test").unwrap().cidrs;
        if world.dataplane.summaries() != cidrs.iter().collect() {
            left.push("summaries".to_owned());
        }
        if world.dataplane.routes().contains(&"10.9.9.9/32".parse().unwrap()) {
            left.push("a route that is nobody's".to_owned());
        }
        left
    }
}

#[tokio::test]
async fn what_can_not_be_mended_keeps_nothing_else_from_it() {
    let unharmed = Damaged::new().await;
    assert_eq!(unharmed.left().await.len(), 7);
    let before = unharmed.node.faults.calls();
    unharmed.node.handler.repair().await.unwrap();
    assert_eq!(unharmed.left().await, Vec::<String>::new());
    let calls = unharmed.node.faults.log().split_off(before);
    for call in ["store.put", "dataplane.reap", "dataplane.attach", "ipam.release", "dataplane.remove_strays"]
    {
        assert!(calls.contains(&call), "{calls:?}");
    }
    for failing in 0..calls.len() {
        let damaged = Damaged::new().await;
        damaged.node.faults.fail_later(failing);
        let outcome = damaged.node.handler.repair().await;
        let failed = damaged.node.faults.log()[before + failing];
        let is_look = LOOKS.contains(&failed);
        assert!(outcome.is_ok() || is_look, "call {failing}, {failed}: {outcome:?}");
        let left = damaged.left().await;
        // A look may be about several things.
        assert!(left.len() <= if is_look { 2 } else { 1 }, "call {failing}, {failed}: {left:?}");
        damaged.node.handler.repair().await.unwrap();
        assert_eq!(damaged.left().await, Vec::<String>::new(), "call {failing}, {failed}");
    }
}
