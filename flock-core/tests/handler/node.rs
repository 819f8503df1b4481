//! A node in memory: a handler on reference backends whose calls can fail, and what
//! must hold of it at any time and at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flock_core::announcer::MemoryAnnouncer;
use flock_core::attachment::{AttachmentKey, AttachmentState};
use flock_core::clock::ManualClock;
use flock_core::cni::{Args, Call, CniResult, GcCall, NetworkConfig, Verb};
use flock_core::dataplane::{AnycastState, Link, MemoryDataplane};
use flock_core::handler::{Backends, Handler, HandlerError, Recovery, Settings};
use flock_core::ipam::{Ipam, MemoryIpam};
use flock_core::name::{ContainerId, InterfaceName, PodKey};
use flock_core::node_config::NodeConfig;
use flock_core::pods::{FixedPods, PodInfo};
use flock_core::store::{MemoryStore, Store};

use crate::faults::{Faults, Faulty};

/// 14 addresses of each family but one are for pods: small enough to run out.
pub(crate) const NODE_CONFIG: &str = "
apiVersion: flock.fritzlab.net/v1alpha1
kind: NodeConfig
metadata: {name: host001}
spec:
  cidr6: 2001:db8:1::/124
  cidr4: 10.0.1.0/28
  anycastPrefixes: ['2001:db8:a::/48', 198.51.100.0/24, '2001:db8:ffff::/64', 192.0.2.0/24]
  staticPrefixes: ['2001:db8:f::/64', 203.0.113.0/24]
  bgp: {asn: 64512, peers: [{name: tor1, address: 2001:db8:ffff::1, asn: 64500}]}
";

/// The same with other prefixes: nothing of the old ones is in them.
pub(crate) fn moved_config() -> String {
    NODE_CONFIG.replace("2001:db8:1::/124", "2001:db8:2::/124").replace("10.0.1.0/28", "10.0.2.0/28")
}

/// What survives a restart of the agent.
pub(crate) struct World {
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) dataplane: Arc<MemoryDataplane>,
    pub(crate) announcer: Arc<MemoryAnnouncer>,
    pub(crate) pods: Arc<FixedPods>,
    pub(crate) clock: Arc<ManualClock>,
}

/// One life of the agent.
pub(crate) struct Node {
    pub(crate) handler: Handler,
    pub(crate) ipam: Arc<MemoryIpam>,
    pub(crate) faults: Arc<Faults>,
}

impl World {
    pub(crate) fn new() -> Self {
        let (dataplane, pods) = (Arc::new(MemoryDataplane::new()), Arc::new(FixedPods::new()));
        for pod in 0..16 {
            dataplane.add_namespace(namespace(pod));
            pods.insert(pod_key(pod), PodInfo::default());
        }
        Self {
            store: Arc::new(MemoryStore::new()),
            dataplane,
            announcer: Arc::new(MemoryAnnouncer::new()),
            pods,
            clock: Arc::new(ManualClock::new()),
        }
    }

    /// A new agent, not recovered yet.
    pub(crate) fn node(&self, faults: Arc<Faults>) -> Node {
        self.node_with(faults, NODE_CONFIG, settings())
    }

    /// Another one.
    pub(crate) fn node_with(&self, faults: Arc<Faults>, config: &str, settings: Settings) -> Node {
        let ipam = Arc::new(MemoryIpam::new(self.clock.clone(), Duration::from_secs(30), 1));
        let backends = Backends {
            ipam: Faulty::wrap(&ipam, &faults),
            store: Faulty::wrap(&self.store, &faults),
            dataplane: Faulty::wrap(&self.dataplane, &faults),
            announcer: Faulty::wrap(&self.announcer, &faults),
            pods: Faulty::wrap(&self.pods, &faults),
            clock: self.clock.clone(),
        };
        let config = NodeConfig::from_yaml(config, "test").unwrap();
        Node { handler: Handler::new(backends, config, settings), ipam, faults }
    }

    /// No address has two owners.
    pub(crate) async fn assert_sound(&self) {
        let records = self.store.list().await.unwrap();
        let mut owners: BTreeMap<IpAddr, &AttachmentKey> = BTreeMap::new();
        for record in records.iter().filter(|record| record.state == AttachmentState::Committed) {
            assert!(!record.addresses.is_empty(), "{record:?}");
            for address in record.addresses.iter() {
                if let Some(other) = owners.insert(address, &record.key) {
                    panic!("{address} belongs to {other} and {}", record.key);
                }
            }
        }
    }

    /// Whose address it is, by the committed records.
    pub(crate) async fn owner(&self, address: IpAddr) -> Option<AttachmentKey> {
        let records = self.store.list().await.unwrap();
        let committed = records.into_iter().filter(|record| record.state == AttachmentState::Committed);
        let mut holders = committed.filter(|record| record.addresses.iter().any(|held| held == address));
        holders.next().map(|record| record.key)
    }

    /// Nothing is left anywhere.
    pub(crate) async fn assert_empty(&self, node: &Node) {
        assert_eq!(self.store.list().await.unwrap(), [], "records");
        assert_eq!(self.dataplane.links(), [], "links");
        for state in AnycastState::ALL {
            assert_eq!(self.dataplane.anycast(state), BTreeMap::new(), "{state:?} routes");
        }
        assert_eq!(self.dataplane.routes(), BTreeSet::new(), "routes");
        for usage in node.ipam.usage().await.unwrap() {
            assert_eq!(usage.in_use, 0, "{}", usage.prefix);
        }
        if let Some(announced) = self.announcer.announced() {
            assert_eq!(announced.anycast, BTreeSet::new(), "announced");
            assert_eq!(announced.standby, BTreeSet::new(), "standing by");
            assert_eq!(announced.exceptions, BTreeSet::new(), "announced");
        }
    }
}

impl Node {
    pub(crate) async fn add(&self, pod: u8, annotations: &[(&str, &str)]) -> Result<CniResult, HandlerError> {
        let deadline = Instant::now() + Duration::from_secs(60);
        self.handler.add(&call(Verb::Add, pod, annotations), deadline).await
    }

    pub(crate) async fn del(&self, pod: u8) -> Result<(), HandlerError> {
        self.handler.del(&call(Verb::Del, pod, &[])).await
    }

    pub(crate) async fn check(&self, pod: u8) -> Result<(), HandlerError> {
        self.handler.check(&call(Verb::Check, pod, &[])).await
    }

    /// GC of the network "flock" with these pods as the valid ones.
    pub(crate) async fn gc(&self, valid: &[u8]) -> Result<usize, HandlerError> {
        self.handler.gc(&gc_call("flock", Some(valid))).await
    }

    /// All of the start of an agent that finds no queue.
    pub(crate) async fn recover(&self) -> Result<Recovery, HandlerError> {
        let recovery = self.handler.recover(&[]).await?;
        self.handler.publish().await?;
        Ok(recovery)
    }

    /// Deletes every pod and lets the reaper finish, with nothing failing any more.
    pub(crate) async fn delete_all(&self) {
        self.faults.stop();
        for pod in 0..16 {
            self.del(pod).await.unwrap();
        }
        assert_eq!(self.handler.reap().await, 0);
    }
}

pub(crate) fn gc_call(network: &str, valid: Option<&[u8]>) -> GcCall {
    let config = format!(r#"{{"cniVersion":"1.1.0","name":"{network}","type":"flock"}}"#);
    GcCall {
        config: NetworkConfig::parse(config.as_bytes()).unwrap(),
        valid: valid.map(|pods| pods.iter().map(|pod| key(*pod)).collect()),
        remaining: Duration::from_secs(60),
    }
}

/// Nothing is waited for.
pub(crate) fn settings() -> Settings {
    Settings { summary_grace: Duration::ZERO, ..Settings::new("boot-1") }
}

pub(crate) fn namespace(pod: u8) -> String {
    format!("/run/netns/pod{pod}")
}

pub(crate) fn key(pod: u8) -> AttachmentKey {
    AttachmentKey::new(
        ContainerId::new(format!("container{pod}")).unwrap(),
        InterfaceName::new("eth0").unwrap(),
    )
}

/// The link of a pod as it is made.
pub(crate) fn link(pod: u8) -> Link {
    let [interface, _] = key(pod).host_interface_candidates();
    Link { interface, owner: Some(key(pod)) }
}

pub(crate) fn pod_key(pod: u8) -> PodKey {
    PodKey::new("default", format!("pod{pod}")).unwrap()
}

/// Annotations come with the request where there are any, else the pod source is asked.
pub(crate) fn call(verb: Verb, pod: u8, annotations: &[(&str, &str)]) -> Call {
    let mut config =
        NetworkConfig::parse(br#"{"cniVersion":"1.1.0","name":"flock","type":"flock"}"#).unwrap();
    let annotation = |(key, value): &(&str, &str)| (format!("flock.fritzlab.net/{key}"), (*value).to_owned());
    config.pod_annotations = (!annotations.is_empty()).then(|| annotations.iter().map(annotation).collect());
    let args = Args { pod: Some(pod_key(pod)), ..Args::default() };
    Call {
        verb,
        key: key(pod),
        netns: Some(namespace(pod).into()),
        args,
        config,
        remaining: Duration::from_secs(60),
    }
}
