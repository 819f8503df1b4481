//! An ADD that comes while the reaper is removing what is in its way.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use flock_core::announcer::MemoryAnnouncer;
use flock_core::attachment::{Attachment, Netns};
use flock_core::clock::ManualClock;
use flock_core::cni::{Call, Operation, RawCall, Verb};
use flock_core::dataplane::{
    AnycastRoute, Dataplane, DataplaneError, Drift, Link, MemoryDataplane, NodeFacts,
};
use flock_core::handler::{Backends, Handler, Settings};
use flock_core::ipam::MemoryIpam;
use flock_core::node_config::NodeConfig;
use flock_core::pods::FixedPods;
use flock_core::store::MemoryStore;
use ipnet::IpNet;

/// Lets others go on before it removes links, as the kernel does for tens of milliseconds.
#[derive(Debug)]
struct SlowReap(MemoryDataplane);

#[async_trait]
impl Dataplane for SlowReap {
    async fn prepare(&self) -> Result<NodeFacts, DataplaneError> {
        self.0.prepare().await
    }

    async fn identify(&self, path: &Path) -> Result<Netns, DataplaneError> {
        self.0.identify(path).await
    }

    async fn attach(&self, attachment: &Attachment) -> Result<(), DataplaneError> {
        self.0.attach(attachment).await
    }

    async fn detach(&self, attachment: &Attachment) -> Result<(), DataplaneError> {
        self.0.detach(attachment).await
    }

    async fn reap(&self, links: &[Link]) -> Result<(), DataplaneError> {
        // More often than anything else in here waits.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        self.0.reap(links).await
    }

    async fn check(&self, attachments: &[Attachment]) -> Result<Vec<Vec<Drift>>, DataplaneError> {
        self.0.check(attachments).await
    }

    async fn list(&self) -> Result<Vec<Link>, DataplaneError> {
        self.0.list().await
    }

    async fn set_summaries(&self, prefixes: &BTreeSet<IpNet>) -> Result<(), DataplaneError> {
        self.0.set_summaries(prefixes).await
    }

    async fn set_anycast(&self, routes: &[AnycastRoute]) -> Result<(), DataplaneError> {
        self.0.set_anycast(routes).await
    }
}

async fn handler() -> Handler {
    let dataplane = MemoryDataplane::new();
    for pod in ["pod1", "pod2"] {
        dataplane.add_namespace(format!("/run/netns/{pod}"));
    }
    let config = "{apiVersion: flock.fritzlab.net/v1alpha1, kind: NodeConfig, metadata: {name: host001}, \
                  spec: {cidr6: '2001:db8:1::/64'}}";
    let clock = Arc::new(ManualClock::new());
    let backends = Backends {
        ipam: Arc::new(MemoryIpam::new(clock.clone(), Duration::from_secs(30), 1)),
        store: Arc::new(MemoryStore::new()),
        dataplane: Arc::new(SlowReap(dataplane)),
        announcer: Arc::new(MemoryAnnouncer::new()),
        pods: Arc::new(FixedPods::default()),
        clock,
    };
    let config = NodeConfig::from_yaml(config, "test").unwrap();
    let handler = Handler::new(backends, config, Settings::new("boot-1"));
    handler.recover().await.unwrap();
    handler
}

fn call(verb: Verb, container: &str, netns: &str, annotations: &str) -> Call {
    let config = format!(
        r#"{{"cniVersion":"1.1.0","name":"flock","type":"flock",
            "runtimeConfig":{{"io.kubernetes.cri.pod-annotations":{{{annotations}}}}}}}"#
    );
    let netns = format!("/run/netns/{netns}");
    let raw = RawCall {
        verb,
        container_id: container,
        ifname: "eth0",
        netns: &netns,
        config: config.as_bytes(),
        ..RawCall::default()
    };
    match Operation::parse(&raw).unwrap() {
        Operation::Attachment(call) => call,
        other => panic!("{other:?}"),
    }
}

/// Deletes what `first` added and adds `second` while the reaper is at it.
async fn add_while_reaping(first: [&str; 3], second: [&str; 3]) {
    let handler = handler().await;
    let deadline = Instant::now() + Duration::from_secs(60);
    let of = |verb, [container, netns, annotations]: [&str; 3]| call(verb, container, netns, annotations);
    handler.add(&of(Verb::Add, first), deadline).await.unwrap();
    handler.del(&of(Verb::Del, first)).await.unwrap();
    let again = of(Verb::Add, second);
    let (left, added) = tokio::join!(handler.reap(), handler.add(&again, deadline));
    assert_eq!(left, 0);
    added.unwrap();
}

#[tokio::test]
async fn a_namespace_whose_interface_is_being_removed_is_waited_for() {
    add_while_reaping(["a", "pod1", ""], ["b", "pod1", ""]).await;
}

#[tokio::test]
async fn an_address_whose_link_is_being_removed_is_waited_for() {
    let address = r#""flock.fritzlab.net/ipv6":"2001:db8:1::80""#;
    add_while_reaping(["a", "pod1", address], ["b", "pod2", address]).await;
}
