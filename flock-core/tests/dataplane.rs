//! The in-memory dataplane keeps the contract of the trait.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use flock_core::attachment::Attachment;
use flock_core::dataplane::conformance::{DataplaneHarness, wanted};
use flock_core::dataplane::{AnycastServer, AnycastState, Dataplane, MemoryDataplane};
use flock_core::name::InterfaceName;
use ipnet::IpNet;

flock_core::dataplane_conformance!(Node::new());

struct Node {
    dataplane: MemoryDataplane,
    made: AtomicU32,
    foreign: std::sync::Mutex<BTreeSet<InterfaceName>>,
}

impl Node {
    fn new() -> Self {
        Self {
            dataplane: MemoryDataplane::new(),
            made: AtomicU32::new(0),
            foreign: std::sync::Mutex::default(),
        }
    }
}

#[async_trait]
impl DataplaneHarness for Node {
    fn dataplane(&self) -> &dyn Dataplane {
        &self.dataplane
    }

    async fn make_namespace(&self) -> PathBuf {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        self.dataplane.add_namespace(format!("/run/netns/pod{number}")).path
    }

    async fn replace_namespace(&self, path: &Path) {
        self.dataplane.add_namespace(path);
    }

    async fn remove_namespace(&self, path: &Path) {
        self.dataplane.remove_namespace(path);
    }

    async fn make_foreign_pod_interface(&self, path: &Path, name: &InterfaceName) {
        self.dataplane.add_foreign_pod_interface(path, name.clone());
    }

    async fn make_foreign_host_interface(&self, name: &InterfaceName) {
        self.dataplane.add_foreign_host_interface(name.clone());
        self.foreign.lock().unwrap().insert(name.clone());
    }

    async fn has_host_interface(&self, name: &InterfaceName) -> bool {
        self.foreign.lock().unwrap().contains(name)
            || self.dataplane.links().iter().any(|link| link.interface == *name)
    }

    async fn summaries(&self) -> BTreeSet<IpNet> {
        self.dataplane.summaries()
    }

    async fn lose_route(&self, attachment: &Attachment) {
        self.dataplane.lose_routes(&attachment.host_interface);
    }

    async fn lose_summary(&self, _prefix: IpNet) {
        self.dataplane.lose_node_routes();
    }

    async fn anycast(&self, state: AnycastState) -> BTreeMap<IpAddr, BTreeSet<InterfaceName>> {
        links(self.dataplane.anycast(state))
    }
}

fn links(routes: BTreeMap<IpAddr, BTreeSet<AnycastServer>>) -> BTreeMap<IpAddr, BTreeSet<InterfaceName>> {
    let over = |servers: BTreeSet<AnycastServer>| servers.into_iter().map(|server| server.host_interface);
    routes.into_iter().map(|(address, servers)| (address, over(servers).collect())).collect()
}

#[tokio::test]
async fn a_call_fails_when_it_is_told_to() {
    let node = Node::new();
    let attachment = wanted(&node, 1).await;
    let before = node.dataplane.calls();
    node.dataplane.fail_call(2);
    node.dataplane.list().await.unwrap();
    let error = node.dataplane.attach(&attachment).await.unwrap_err();
    assert!(error.to_string().contains("was told to fail"), "{error}");
    assert_eq!(node.dataplane.calls(), before + 2);
    assert_eq!(node.dataplane.links().len(), 1, "it failed halfway");
    assert!(node.dataplane.routes().is_empty());
    assert!(!node.dataplane.is_attached(&attachment.key));

    node.dataplane.attach(&attachment).await.unwrap();
    assert!(node.dataplane.is_attached(&attachment.key));
}
