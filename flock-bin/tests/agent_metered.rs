//! Backends and services keep their contracts when they are measured, and are measured.
#![cfg(feature = "agent")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use flock_bin::agent::metered::{Metered, MeteredService, metered};
use flock_bin::agent::metrics::{Format, Metrics};
use flock_bin::agent::readiness::Readiness;
use flock_core::announcer::MemoryAnnouncer;
use flock_core::clock::SystemClock;
use flock_core::cni::{self, Code, RawCall, Verb};
use flock_core::dataplane::MemoryDataplane;
use flock_core::frame::{Request, Response};
use flock_core::handler::{Backends, Handler, Settings};
use flock_core::ipam::MemoryIpam;
use flock_core::node_config::NodeConfig;
use flock_core::pods::FixedPods;
use flock_core::server::Service;
use flock_core::store::MemoryStore;
use tokio::sync::watch;

fn metrics() -> Arc<Metrics> {
    Arc::new(Metrics::new(watch::channel(Readiness::Ready).1))
}

mod ipam {
    use flock_core::clock::ManualClock;
    use flock_core::ipam::conformance::Subject;

    use super::*;

    fn subject() -> Subject {
        let clock = Arc::new(ManualClock::new());
        let rest = Duration::from_secs(60);
        let ipam = Arc::new(MemoryIpam::new(clock.clone(), rest, 7));
        Subject::new(Arc::new(Metered::new(ipam, &metrics())), rest, move |by| clock.advance(by))
    }

    flock_core::ipam_conformance!(subject());
}

mod store {
    use flock_core::store::conformance::StoreHarness;
    use flock_core::store::{FileStore, Store};
    use tempfile::TempDir;

    use super::*;

    struct Harness(TempDir);

    impl Harness {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }
    }

    #[async_trait]
    impl StoreHarness for Harness {
        async fn open(&self) -> Arc<dyn Store> {
            let (store, set_aside) = FileStore::open(self.0.path()).await.unwrap();
            assert_eq!(set_aside, []);
            Arc::new(Metered::new(Arc::new(store), &metrics()))
        }
    }

    flock_core::store_conformance!(Harness::new());
}

mod dataplane {
    use std::collections::{BTreeMap, BTreeSet};
    use std::net::IpAddr;
    use std::path::{Path, PathBuf};
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU32, Ordering};

    use flock_core::attachment::Attachment;
    use flock_core::dataplane::conformance::DataplaneHarness;
    use flock_core::dataplane::{AnycastServer, AnycastState, Dataplane};
    use flock_core::name::InterfaceName;
    use ipnet::IpNet;

    use super::*;

    struct Node {
        kernel: Arc<MemoryDataplane>,
        measured: Metered<dyn Dataplane>,
        made: AtomicU32,
        foreign: Mutex<BTreeSet<InterfaceName>>,
    }

    impl Node {
        fn new() -> Self {
            let kernel = Arc::new(MemoryDataplane::new());
            let measured = Metered::new(Arc::clone(&kernel) as _, &metrics());
            Self { kernel, measured, made: AtomicU32::new(0), foreign: Mutex::default() }
        }
    }

    #[async_trait]
    impl DataplaneHarness for Node {
        fn dataplane(&self) -> &dyn Dataplane {
            &self.measured
        }

        async fn make_namespace(&self) -> PathBuf {
            let number = self.made.fetch_add(1, Ordering::Relaxed);
            self.kernel.add_namespace(format!("/run/netns/pod{number}")).path
        }

        async fn replace_namespace(&self, path: &Path) {
            self.kernel.add_namespace(path);
        }

        async fn remove_namespace(&self, path: &Path) {
            self.kernel.remove_namespace(path);
        }

        async fn make_foreign_pod_interface(&self, path: &Path, name: &InterfaceName) {
            self.kernel.add_foreign_pod_interface(path, name.clone());
        }

        async fn make_foreign_host_interface(&self, name: &InterfaceName) {
            self.kernel.add_foreign_host_interface(name.clone());
            self.foreign.lock().unwrap().insert(name.clone());
        }

        async fn has_host_interface(&self, name: &InterfaceName) -> bool {
            self.foreign.lock().unwrap().contains(name)
                || self.kernel.links().iter().any(|link| link.interface == *name)
        }

        async fn summaries(&self) -> BTreeSet<IpNet> {
            self.kernel.summaries()
        }

        async fn lose_route(&self, attachment: &Attachment) {
            self.kernel.lose_routes(&attachment.host_interface);
        }

        async fn lose_summary(&self, _prefix: IpNet) {
            self.kernel.lose_node_routes();
        }

        async fn anycast(&self, state: AnycastState) -> BTreeMap<IpAddr, BTreeSet<InterfaceName>> {
            links(self.kernel.anycast(state))
        }
    }

    fn links(routes: BTreeMap<IpAddr, BTreeSet<AnycastServer>>) -> BTreeMap<IpAddr, BTreeSet<InterfaceName>> {
        let over = |servers: BTreeSet<AnycastServer>| servers.into_iter().map(|server| server.host_interface);
        routes.into_iter().map(|(address, servers)| (address, over(servers).collect())).collect()
    }

    flock_core::dataplane_conformance!(Node::new());
}

mod announcer {
    use flock_core::announcer::conformance::{AnnouncerHarness, Observed, example};
    use flock_core::announcer::{Announcements, RouteAnnouncer};

    use super::*;

    struct Harness {
        announcer: MemoryAnnouncer,
        measured: Metered<dyn RouteAnnouncer>,
    }

    impl Harness {
        fn new() -> Self {
            let announcer = MemoryAnnouncer::new();
            let measured = Metered::new(Arc::new(announcer.clone()) as _, &metrics());
            Self { announcer, measured }
        }
    }

    #[async_trait]
    impl AnnouncerHarness for Harness {
        fn announcer(&self) -> &dyn RouteAnnouncer {
            &self.measured
        }

        fn wanted(&self) -> Announcements {
            example()
        }

        async fn observe(&self) -> Observed {
            self.announcer.announced().as_ref().map(Observed::expected).unwrap_or_default()
        }

        async fn changes(&self) -> u64 {
            self.announcer.changes()
        }
    }

    flock_core::announcer_conformance!(Harness::new());
}

mod pods {
    use flock_core::name::PodKey;
    use flock_core::pods::conformance::PodsHarness;
    use flock_core::pods::{PodInfo, PodSource, PodState};

    use super::*;

    struct Harness {
        pods: Arc<FixedPods>,
        measured: Metered<dyn PodSource>,
    }

    impl Harness {
        fn new() -> Self {
            let pods = Arc::new(FixedPods::new());
            let measured = Metered::new(Arc::clone(&pods) as _, &metrics());
            Self { pods, measured }
        }
    }

    #[async_trait]
    impl PodsHarness for Harness {
        fn source(&self) -> &dyn PodSource {
            &self.measured
        }

        async fn apply(&self, key: &PodKey, info: &PodInfo) {
            self.pods.insert(key.clone(), info.clone());
        }

        async fn remove(&self, key: &PodKey) {
            self.pods.remove(key);
        }

        async fn terminate(&self, key: &PodKey) -> bool {
            self.pods.set_state(key, PodState::Terminating);
            true
        }
    }

    flock_core::pods_conformance!(Harness::new());
}

/// A node in memory, measured.
struct Node {
    metrics: Arc<Metrics>,
    dataplane: Arc<MemoryDataplane>,
    handler: Arc<Handler>,
    service: MeteredService,
}

impl Node {
    async fn started() -> Self {
        let metrics = metrics();
        let dataplane = Arc::new(MemoryDataplane::new());
        dataplane.add_namespace("/run/netns/pod1");
        let clock = Arc::new(SystemClock);
        let backends = Backends {
            ipam: Arc::new(MemoryIpam::new(clock.clone(), Duration::from_secs(30), 0)),
            store: Arc::new(MemoryStore::new()),
            dataplane: dataplane.clone(),
            announcer: Arc::new(MemoryAnnouncer::new()),
            pods: Arc::new(FixedPods::new()),
            clock,
        };
        let config = NodeConfig::from_yaml(
            "{apiVersion: flock.fritzlab.net/v1alpha1, kind: NodeConfig, metadata: {name: host001}, \
             spec: {cidr6: '2001:db8:1::/64', cidr4: 10.0.1.0/24}}",
            "test",
        );
        let handler = Handler::new(metered(backends, &metrics), config.unwrap(), Settings::new("boot-1"));
        handler.recover(&[]).await.unwrap();
        handler.publish().await.unwrap();
        let handler = Arc::new(handler);
        let service = MeteredService::new(Arc::clone(&handler) as _, &metrics);
        Self { metrics, dataplane, handler, service }
    }

    async fn call(&self, verb: Verb) -> Option<Code> {
        code(&self.service.call(request(verb)).await)
    }

    /// The lines that begin like this, without their common beginning, in order.
    async fn samples(&self, beginning: &str) -> Vec<String> {
        samples(&self.metrics, beginning).await
    }
}

async fn samples(metrics: &Metrics, beginning: &str) -> Vec<String> {
    let text = metrics.scrape(Format::Prometheus).await.unwrap();
    let mut samples: Vec<String> =
        text.lines().filter_map(|line| line.strip_prefix(beginning)).map(str::to_owned).collect();
    samples.sort();
    samples
}

fn request(verb: Verb) -> Request {
    let raw = RawCall {
        verb,
        container_id: "0123456789ab",
        ifname: "eth0",
        netns: "/run/netns/pod1",
        config: br#"{"cniVersion": "1.1.0", "name": "flock", "type": "flock"}"#,
        remaining: Duration::from_secs(60),
        ..RawCall::default()
    };
    Request::new(&raw).unwrap()
}

fn code(response: &Response) -> Option<Code> {
    match response {
        Response::Error(error) => Some(error.code),
        Response::Result(_) => None,
    }
}

#[tokio::test]
async fn requests_are_counted_by_verb_and_code() {
    let node = Node::started().await;
    assert_eq!(node.call(Verb::Add).await, None);
    assert_eq!(node.call(Verb::Add).await, None);
    assert_eq!(node.call(Verb::Del).await, None);
    assert_eq!(node.call(Verb::Check).await, Some(Code::UNKNOWN_CONTAINER));
    assert_eq!(
        node.samples("flock_requests_total").await,
        [
            r#"{verb="ADD",code="0"} 2"#,
            r#"{verb="CHECK",code="0"} 0"#,
            r#"{verb="CHECK",code="3"} 1"#,
            r#"{verb="DEL",code="0"} 1"#,
            r#"{verb="GC",code="0"} 0"#,
            r#"{verb="STATUS",code="0"} 0"#,
        ]
    );
    assert_eq!(
        node.samples("flock_request_duration_seconds_count").await,
        [
            r#"{verb="ADD"} 2"#,
            r#"{verb="CHECK"} 1"#,
            r#"{verb="DEL"} 1"#,
            r#"{verb="GC"} 0"#,
            r#"{verb="STATUS"} 0"#
        ]
    );
}

#[tokio::test]
async fn a_step_of_a_request_is_measured_once_whatever_the_number_of_its_calls() {
    let node = Node::started().await;
    let all = "flock_step_duration_seconds_count";
    let background = r#"flock_step_duration_seconds_count{verb="none""#;
    // The start is nobody's request.
    let start = node.samples(background).await;
    assert_eq!(node.samples(all).await.len(), start.len());
    assert!(start.iter().any(|sample| sample.starts_with(r#",step="kernel"}"#)), "{start:?}");
    // This ADD reads the record once and writes it twice.
    assert_eq!(node.call(Verb::Add).await, None);
    assert_eq!(node.call(Verb::Del).await, None);
    assert_eq!(node.handler.reap().await, 0);
    let mut found = node.samples(all).await;
    found.retain(|line| !line.starts_with(r#"{verb="none""#));
    assert_eq!(
        found,
        [
            r#"{verb="ADD",step="allocation"} 1"#,
            r#"{verb="ADD",step="kernel"} 1"#,
            r#"{verb="ADD",step="record"} 1"#,
            r#"{verb="DEL",step="kernel"} 1"#,
            r#"{verb="DEL",step="record"} 1"#,
        ]
    );
    assert_ne!(node.samples(background).await, start, "the reaper was not measured");
}

#[tokio::test]
async fn a_step_that_fails_is_counted() {
    let node = Node::started().await;
    assert_eq!(node.samples("flock_step_failures_total").await, [""; 0]);
    // The second call from now on: the first looks at the namespace.
    node.dataplane.fail_call(2);
    assert!(node.call(Verb::Add).await.is_some());
    assert_eq!(node.samples("flock_step_failures_total").await, [r#"{verb="ADD",step="kernel"} 1"#]);
    assert_eq!(node.call(Verb::Add).await, None);
    assert_eq!(node.samples("flock_step_failures_total").await, [r#"{verb="ADD",step="kernel"} 1"#]);
}

#[derive(Debug)]
struct Starting;

#[async_trait]
impl Service for Starting {
    async fn call(&self, _: Request) -> Response {
        Response::Error(cni::Error::new(Code::TRY_AGAIN_LATER, "starting", ""))
    }
}

#[derive(Debug)]
struct Defective;

#[async_trait]
impl Service for Defective {
    async fn call(&self, _: Request) -> Response {
        panic!("a defect")
    }
}

#[tokio::test]
async fn requests_are_counted_also_before_the_node_is_ready() {
    let metrics = metrics();
    let service = MeteredService::new(Arc::new(Starting), &metrics);
    assert_eq!(code(&service.call(request(Verb::Add)).await), Some(Code::TRY_AGAIN_LATER));
    assert_eq!(samples(&metrics, r#"flock_requests_total{verb="ADD",code="11"}"#).await, [" 1"]);
}

/// The server answers for it with code 100.
#[tokio::test]
async fn a_request_that_panics_is_counted_as_a_defect() {
    let metrics = metrics();
    let service = MeteredService::new(Arc::new(Defective), &metrics);
    let ended = tokio::spawn(async move { service.call(request(Verb::Del)).await }).await;
    assert!(ended.unwrap_err().is_panic());
    assert_eq!(samples(&metrics, r#"flock_requests_total{verb="DEL",code="100"}"#).await, [" 1"]);
}
