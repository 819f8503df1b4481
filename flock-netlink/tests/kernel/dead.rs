//! Which attachments the handler takes for dead, on the kernel: those whose namespace is
//! gone, and not those that only lost their path.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, Instant};

use flock_core::announcer::MemoryAnnouncer;
use flock_core::attachment::{Attachment, AttachmentKey, Netns};
use flock_core::clock::ManualClock;
use flock_core::cni::{Args, Call, NetworkConfig, Verb};
use flock_core::dataplane::conformance::DataplaneHarness;
use flock_core::dataplane::{Dataplane, DataplaneError, Drift};
use flock_core::handler::{Backends, Handler, Settings};
use flock_core::ipam::MemoryIpam;
use flock_core::name::{ContainerId, InterfaceName};
use flock_core::node_config::NodeConfig;
use flock_core::pods::FixedPods;
use flock_core::store::{MemoryStore, Store};
use flock_netlink::NetlinkDataplane;
use rustix::mount::{UnmountFlags, unmount};

use crate::lab::{Lab, run};

const NODE_CONFIG: &str = "
apiVersion: flock.fritzlab.net/v1alpha1
kind: NodeConfig
metadata: {name: host001}
spec: {cidr6: 2001:db8:1::/64, cidr4: 10.0.1.0/24}
";

/// How long the kernel may take to end a namespace that nobody holds any more.
const LIMIT: Duration = Duration::from_secs(20);

struct Node {
    lab: Lab,
    handler: Handler,
    store: Arc<MemoryStore>,
    clock: Arc<ManualClock>,
}

impl Node {
    async fn start() -> Self {
        let lab = Lab::new();
        let (store, clock) = (Arc::new(MemoryStore::new()), Arc::new(ManualClock::new()));
        let backends = Backends {
            ipam: Arc::new(MemoryIpam::new(clock.clone(), Duration::from_secs(30), 1)),
            store: store.clone(),
            // In the same network namespace, that of this thread.
            dataplane: Arc::new(NetlinkDataplane::new().unwrap()),
            announcer: Arc::new(MemoryAnnouncer::new()),
            pods: Arc::new(FixedPods::new()),
            clock: clock.clone(),
        };
        let config = NodeConfig::from_yaml(NODE_CONFIG, "test").unwrap();
        let handler = Handler::new(backends, config, Settings::new("boot-1"));
        handler.recover(&[]).await.unwrap();
        handler.publish().await.unwrap();
        Self { lab, handler, store, clock }
    }

    async fn add(&self, name: &str) -> Pod {
        let path = self.lab.make_namespace().await;
        let key = AttachmentKey::new(ContainerId::new(name).unwrap(), InterfaceName::new("eth0").unwrap());
        let config = br#"{"cniVersion": "1.1.0", "name": "flock", "type": "flock"}"#;
        let call = Call {
            verb: Verb::Add,
            key: key.clone(),
            netns: Some(path.clone()),
            args: Args::default(),
            config: NetworkConfig::parse(config).unwrap(),
            remaining: LIMIT,
        };
        self.handler.add(&call, Instant::now() + LIMIT).await.unwrap();
        Pod { key, path }
    }

    /// Looks, lets the grace period pass and looks again, until `pods` and no others are gone.
    async fn collects(&self, pods: &[&Pod], kept: &[&Pod]) {
        let start = Instant::now();
        loop {
            self.handler.collect().await.unwrap();
            self.clock.advance(Duration::from_secs(60));
            self.handler.collect().await.unwrap();
            self.handler.reap().await;
            for pod in kept {
                self.is_complete(pod).await;
            }
            let mut left = Vec::new();
            for pod in pods {
                left.extend(self.store.get(&pod.key).await.unwrap());
            }
            if left.is_empty() {
                return;
            }
            assert!(start.elapsed() < LIMIT, "not collected: {left:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The node reaches the pod, whose record is there.
    async fn is_complete(&self, pod: &Pod) {
        let record = self.store.get(&pod.key).await.unwrap();
        let record = record.unwrap_or_else(|| panic!("{} was collected", pod.key));
        for address in record.addresses.iter() {
            run(&["ping", "-n", "-q", "-c", "1", "-W", "1", &address.to_string()]);
        }
    }
}

struct Pod {
    key: AttachmentKey,
    path: PathBuf,
}

impl Pod {
    /// A process that lives in the pod's namespace.
    fn process(&self) -> Process {
        let net = format!("--net={}", self.path.display());
        let child = Command::new("nsenter").args([&net, "sleep", "600"]).spawn().unwrap();
        let process = Process(child);
        // It has to be in there before the path goes.
        let link = PathBuf::from(format!("/proc/{}/comm", process.0.id()));
        let start = Instant::now();
        while std::fs::read_to_string(&link).unwrap().trim() != "sleep" {
            assert!(start.elapsed() < LIMIT, "the process did not enter {}", self.path.display());
            std::thread::yield_now();
        }
        process
    }
}

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn remove_path(path: &Path) {
    unmount(path, UnmountFlags::DETACH).unwrap();
    std::fs::remove_file(path).unwrap();
}

#[tokio::test]
async fn attachments_of_dead_namespaces_are_collected_and_no_others() {
    let node = Node::start().await;
    let alive = node.add("alive").await;
    let gone = node.add("gone").await;
    let replaced = node.add("replaced").await;
    let hidden = node.add("hidden").await;
    let covered = node.add("covered").await;
    let living = [hidden.process(), covered.process()];

    remove_path(&hidden.path);
    node.lab.replace_namespace(&covered.path).await;
    remove_path(&gone.path);
    node.lab.replace_namespace(&replaced.path).await;
    node.collects(&[&gone, &replaced], &[&alive, &hidden, &covered]).await;
    assert_eq!(node.handler.collected(), 2);

    // What lived without a path has gone with its process.
    drop(living);
    node.collects(&[&hidden, &covered], &[&alive]).await;
    assert_eq!(node.handler.collected(), 4);
}

/// A link that something removed from a namespace that is there is no sign of death.
#[tokio::test]
async fn an_attachment_that_lost_its_link_is_not_collected() {
    let node = Node::start().await;
    let pod = node.add("cut-off").await;
    let record = node.store.get(&pod.key).await.unwrap().unwrap();
    run(&["ip", "link", "delete", record.host_interface.as_str()]);
    for _ in 0..3 {
        assert_eq!(node.handler.collect().await.unwrap(), 0);
        node.clock.advance(Duration::from_secs(60));
    }
    assert_eq!(node.store.get(&pod.key).await.unwrap(), Some(record));
}

/// Its pod lives on, and is reached from the node as before; also where a record that was
/// lost is made anew from the link, without a path.
#[tokio::test]
async fn the_nodes_side_of_a_pod_whose_path_is_gone_is_made_again() {
    let node = Node::start().await;
    node.lab.dataplane.prepare().await.unwrap();
    let pod = node.add("hidden").await;
    let record = node.store.get(&pod.key).await.unwrap().unwrap();
    let without_path = Netns { path: PathBuf::new(), device: 0, inode: 0 };
    let _living = pod.process();
    remove_path(&pod.path);
    let name = record.host_interface.as_str();
    for record in [record.clone(), Attachment { netns: without_path, ..record.clone() }] {
        let gone = [Drift::NamespaceGone(record.netns.path.clone())];
        for command in [
            "ip route flush proto 70".to_owned(),
            "ip -6 route flush proto 70".to_owned(),
            format!("ip neigh flush dev {name} nud permanent"),
            format!("ip address flush dev {name}"),
            format!("ip link set {name} down"),
            format!("ip link set {name} mtu 1400"),
        ] {
            run(&command.split(' ').collect::<Vec<_>>());
            assert_ne!(node.lab.drift(&record).await, gone, "{command}");
            let error = node.lab.dataplane.attach(&record).await.unwrap_err();
            assert!(matches!(error, DataplaneError::NotANamespace { .. }), "{command}: {error}");
            assert_eq!(node.lab.drift(&record).await, gone, "{command}");
            node.is_complete(&pod).await;
        }
    }
}
