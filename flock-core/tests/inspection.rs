//! Every kind of difference once, on backends in memory, as people read it.
//! `UPDATE_GOLDEN=1` rewrites the golden file; read the difference before committing it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use flock_core::announcer::MemoryAnnouncer;
use flock_core::attachment::Attachment;
use flock_core::clock::ManualClock;
use flock_core::cni::{Operation, RawCall, Verb};
use flock_core::dataplane::{Dataplane, Link, MemoryDataplane};
use flock_core::handler::{Backends, Handler, Settings};
use flock_core::inspection::{Busy, Difference, Kernel, Look, Spoken, View, Work, lasting};
use flock_core::ipam::{AddressRequest, FamilyRequest, Ipam, LeaseOwner, MemoryIpam};
use flock_core::name::{InterfaceName, PodKey};
use flock_core::node_config::NodeConfig;
use flock_core::pods::{FixedPods, PodInfo};
use flock_core::store::{Contents, FileStore, Store};

const BOOT: &str = "boot-1";
const NODE_CONFIG: &str = "
apiVersion: flock.fritzlab.net/v1alpha1
kind: NodeConfig
metadata: {name: host001}
spec:
  cidr6: 2001:db8:1::/64
  cidr4: 10.0.1.0/24
  anycastPrefixes: ['2001:db8:a::/48']
  bgp: {asn: 64512, peers: [{name: tor1, address: 2001:db8:ffff::1, asn: 64500}]}
";

/// A node with two pods, of which `web` serves an anycast address.
struct World {
    directory: tempfile::TempDir,
    store: FileStore,
    dataplane: Arc<MemoryDataplane>,
    ipam: Arc<MemoryIpam>,
    handler: Handler,
    spoken: Option<Result<Spoken, String>>,
}

impl World {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (store, _) = FileStore::open(directory.path()).await.unwrap();
        let (clock, dataplane) = (Arc::new(ManualClock::new()), Arc::new(MemoryDataplane::new()));
        let (ipam, pods) = (Arc::new(MemoryIpam::new(clock.clone(), Duration::ZERO, 1)), FixedPods::new());
        pods.insert(PodKey::new("default", "db").unwrap(), PodInfo::default());
        let mut web = PodInfo::default();
        web.annotations.insert("flock.fritzlab.net/anycast".to_owned(), "2001:db8:a::53".to_owned());
        pods.insert(PodKey::new("default", "web").unwrap(), web);
        let backends = Backends {
            ipam: ipam.clone(),
            store: Arc::new(store.clone()),
            dataplane: dataplane.clone(),
            announcer: Arc::new(MemoryAnnouncer::new()),
            pods: Arc::new(pods),
            clock,
        };
        let handler = Handler::new(backends, config(), Settings::new(BOOT));
        handler.recover(&[]).await.unwrap();
        handler.publish().await.unwrap();
        let prefixes = ["2001:db8:1::/64", "10.0.1.0/24", "2001:db8:a::53/128"];
        let spoken = Spoken {
            prefixes: prefixes.iter().map(|prefix| prefix.parse().unwrap()).collect(),
            peers: BTreeSet::from(["tor1".to_owned()]),
        };
        let world = Self { directory, store, dataplane, ipam, handler, spoken: Some(Ok(spoken)) };
        world.add("web").await;
        world.add("db").await;
        world
    }

    async fn add(&self, pod: &str) {
        let netns = format!("/run/netns/{pod}");
        self.dataplane.add_namespace(&netns);
        let said = RawCall {
            verb: Verb::Add,
            container_id: &format!("{pod}-0123456789"),
            ifname: "eth0",
            netns: &netns,
            args: &format!("K8S_POD_NAMESPACE=default;K8S_POD_NAME={pod}"),
            config: br#"{"cniVersion": "1.1.0", "name": "flock", "type": "flock"}"#,
            ..RawCall::default()
        };
        let Operation::Attachment(call) = Operation::parse(&said).unwrap() else { unreachable!() };
        self.handler.add(&call, Instant::now() + Duration::from_secs(60)).await.unwrap();
    }

    fn contents(&self) -> Contents {
        FileStore::inspect(self.directory.path()).unwrap()
    }

    fn record(&self, pod: &str) -> Attachment {
        let found = self.contents().records.into_values();
        found.into_iter().find(|record| record.key.container.as_str().starts_with(pod)).unwrap()
    }

    fn file(&self, pod: &str) -> PathBuf {
        self.directory.path().join(format!("{pod}-0123456789@eth0.json"))
    }

    /// Changes a record as an editor would.
    fn edit(&self, pod: &str, from: &str, to: &str) {
        let text = fs::read_to_string(self.file(pod)).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(self.file(pod), text.replace(from, to)).unwrap();
    }

    fn spoken(&mut self) -> &mut Spoken {
        self.spoken.as_mut().unwrap().as_mut().unwrap()
    }

    async fn look(&self, views: Option<[View; 2]>) -> Look {
        let records = [self.contents(), self.contents()];
        let view = views.as_ref().map(|[before, _]| before);
        let kernel = Kernel::look(&*self.dataplane, &records[0], &config(), BOOT, view).await.unwrap();
        let spoken = self.spoken.clone();
        let (boot_id, deletions) = (BOOT.to_owned(), Vec::new());
        Look { config: config(), boot_id, records, views, deletions, kernel, spoken }
    }

    async fn online(&self) -> Vec<Difference> {
        let view = self.handler.view().await.unwrap();
        self.look(Some([view.clone(), view])).await.differences()
    }

    async fn offline(&self) -> Vec<Difference> {
        self.look(None).await.differences()
    }

    /// The differences as people read them, also those that are only seen from one side.
    async fn shown(&self) -> String {
        let (online, offline) = (self.online().await, self.offline().await);
        let mut text = String::new();
        for difference in &online {
            let only = if offline.contains(difference) { "" } else { "online: " };
            writeln!(text, "  {only}{difference}").unwrap();
        }
        for difference in offline.iter().filter(|difference| !online.contains(difference)) {
            writeln!(text, "  offline: {difference}").unwrap();
        }
        text.replace(&self.directory.path().display().to_string(), "RUN-DIR/attachments")
    }
}

fn config() -> NodeConfig {
    NodeConfig::from_yaml(NODE_CONFIG, "test").unwrap()
}

fn interface(name: &str) -> InterfaceName {
    InterfaceName::new(name).unwrap()
}

/// One entry of the golden file: what was done, and what the judge says of it.
async fn case(text: &mut String, what: &str, disturb: impl AsyncFnOnce(&mut World)) {
    let mut world = World::new().await;
    disturb(&mut world).await;
    let shown = world.shown().await;
    assert!(!shown.is_empty(), "{what}: nothing was found");
    writeln!(text, "{what}\n{shown}").unwrap();
}

#[tokio::test]
async fn a_node_as_it_should_be_has_no_differences() {
    let world = World::new().await;
    assert_eq!(world.online().await, []);
    assert_eq!(world.offline().await, []);
}

#[tokio::test]
async fn every_difference_is_told_with_what_mends_it() {
    let mut text = String::new();
    of_records(&mut text).await;
    of_the_kernel(&mut text).await;
    of_the_speaker(&mut text).await;
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/inspection.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&golden, &text).unwrap();
    }
    assert_eq!(text, fs::read_to_string(&golden).unwrap(), "UPDATE_GOLDEN=1 rewrites it");
}

async fn of_records(text: &mut String) {
    case(text, "a record is no JSON", async |world| fs::write(world.file("db"), "{").unwrap()).await;
    case(text, "a record was set aside, and none took its place", async |world| {
        fs::rename(world.file("db"), world.directory.path().join("db-0123456789@eth0.json.corrupt-1"))
            .unwrap();
    })
    .await;
    case(text, "a file that is nobody's record", async |world| {
        fs::write(world.directory.path().join("x.json"), "").unwrap();
    })
    .await;
    case(text, "an interrupted write", async |world| {
        fs::write(world.directory.path().join("a@eth0.json.tmp"), "").unwrap();
    })
    .await;
    case(text, "a record of another boot", async |world| world.edit("db", BOOT, "boot-0")).await;
    case(text, "a pending record", async |world| world.edit("db", "committed", "pending")).await;
    case(text, "a deleting record", async |world| world.edit("db", "committed", "deleting")).await;
    case(text, "a record is gone", async |world| fs::remove_file(world.file("db")).unwrap()).await;
    case(text, "a record names another address", async |world| world.edit("db", "10.0.1.2", "10.0.1.9"))
        .await;
    case(text, "two records name one address", async |world| world.edit("db", "10.0.1.2", "10.0.1.1")).await;
    case(text, "a lease is gone", async |world| {
        let key = world.record("db").key;
        world.ipam.release(&key).await.unwrap();
    })
    .await;
    case(text, "a lease without a record", async |world| {
        let mut key = world.record("db").key;
        key.interface = interface("net1");
        let any = AddressRequest { ipv4: FamilyRequest::Any, ..AddressRequest::default() };
        world.ipam.allocate(&LeaseOwner { key, pod: None }, &any).await.unwrap();
    })
    .await;
}

async fn of_the_kernel(text: &mut String) {
    case(text, "a link is gone", async |world| world.dataplane.lose_link(&world.record("db").host_interface))
        .await;
    case(text, "a namespace is gone", async |world| {
        world.dataplane.remove_namespace(Path::new("/run/netns/db"));
    })
    .await;
    case(text, "a route to a pod is gone", async |world| {
        world.dataplane.remove_route("10.0.1.2/32".parse().unwrap());
    })
    .await;
    case(text, "a second link of an attachment", async |world| {
        let record = world.record("db");
        world.dataplane.lose_link(&record.host_interface);
        let other = Attachment { host_interface: interface("flock00000000"), ..record };
        world.dataplane.attach(&other).await.unwrap();
    })
    .await;
    case(text, "a salvaged record whose route is gone", async |world| {
        world.edit("db", "/run/netns/db", "");
        world.dataplane.remove_route("10.0.1.2/32".parse().unwrap());
    })
    .await;
    case(text, "a route that is nobody's", async |world| {
        world.dataplane.add_route("10.9.9.9/32".parse().unwrap(), interface("uplink"));
    })
    .await;
    case(text, "a neighbour entry that is nobody's", async |world| {
        let link = world.record("db").host_interface;
        world.dataplane.add_neighbour(link, "10.9.9.9".parse().unwrap());
    })
    .await;
    case(text, "another summary", async |world| {
        let other = BTreeSet::from(["10.9.9.0/24".parse().unwrap()]);
        world.dataplane.set_summaries(&other).await.unwrap();
    })
    .await;
    case(text, "no anycast routes", async |world| world.dataplane.set_anycast(&[]).await.unwrap()).await;
    case(text, "an anycast address that nobody serves", async |world| {
        let mut record = world.record("web");
        record.anycast.clear();
        world.store.put(&record).await.unwrap();
    })
    .await;
    case(text, "settings of the node", async |world| {
        world.dataplane.remove_gateway();
        world.dataplane.change_setting("net.ipv4.ip_forward", "0");
    })
    .await;
}

async fn of_the_speaker(text: &mut String) {
    case(text, "BIRD is away", async |world| {
        world.spoken =
            Some(Err("BIRD can't be reached at /run/flock/bird.ctl: Connection refused".to_owned()));
    })
    .await;
    case(text, "BIRD has another prefix", async |world| {
        let prefixes = &mut world.spoken().prefixes;
        prefixes.remove(&"10.0.1.0/24".parse().unwrap());
        prefixes.insert("10.0.2.0/24".parse().unwrap());
    })
    .await;
    case(text, "BIRD has another peer", async |world| {
        world.spoken().peers = BTreeSet::from(["tor9".to_owned()]);
    })
    .await;
}

/// The agent has a look at it; where it had, it is a difference again.
#[tokio::test]
async fn what_is_worked_on_is_no_difference() {
    let world = World::new().await;
    let record = world.record("db");
    world.dataplane.lose_link(&record.host_interface);
    world.edit("db", "committed", "deleting");
    let idle = world.handler.view().await.unwrap();
    let at_work = Busy { key: record.key.clone(), work: Work::Request, for_ms: 1, error: None };
    let busy = View { busy: vec![at_work], ..idle.clone() };
    for (views, found) in [
        ([idle.clone(), idle.clone()], 1),
        ([busy.clone(), idle.clone()], 0),
        ([idle.clone(), busy.clone()], 0),
        ([busy.clone(), busy], 0),
    ] {
        assert_eq!(world.look(Some(views)).await.differences().len(), found);
    }
}

/// A record that changed in between was at work, whatever the agent says later.
#[tokio::test]
async fn what_changed_during_the_look_is_no_difference() {
    let world = World::new().await;
    let view = world.handler.view().await.unwrap();
    let before = world.contents();
    world.dataplane.lose_link(&world.record("db").host_interface);
    let mut look = world.look(Some([view.clone(), view])).await;
    assert!(!look.differences().is_empty());
    let mut changed = before.records[&world.record("db").key].clone();
    changed.created_ms += 1;
    look.records[0].records.insert(changed.key.clone(), changed);
    assert_eq!(look.differences(), []);
}

#[tokio::test]
async fn only_what_is_there_each_time_lasts() {
    let world = World::new().await;
    world.dataplane.remove_gateway();
    let before = world.online().await;
    world.dataplane.remove_route("10.0.1.2/32".parse().unwrap());
    let both = world.online().await;
    assert_eq!((before.len(), both.len()), (1, 2));
    assert_eq!(lasting(&before, both.clone()), before);
    assert_eq!(lasting(&both, before.clone()), before);
    assert!(before[0].may_pass() && !both.iter().all(Difference::may_pass));
}

/// The handler mends all that is its own, in one go, while nothing else is touched.
#[tokio::test]
async fn repair_mends_what_it_can() {
    let world = World::new().await;
    let (web, db) = (world.record("web"), world.record("db"));
    fs::write(world.file("web"), "{").unwrap();
    fs::remove_file(world.file("db")).unwrap();
    world.dataplane.lose_link(&db.host_interface);
    world.dataplane.set_summaries(&BTreeSet::new()).await.unwrap();
    world.dataplane.set_anycast(&[]).await.unwrap();
    world.dataplane.remove_gateway();
    world.dataplane.change_setting("net.ipv4.ip_forward", "0");
    world.dataplane.add_route("10.9.9.9/32".parse().unwrap(), interface("uplink"));
    world.dataplane.add_neighbour(web.host_interface.clone(), "10.9.9.9".parse().unwrap());
    let mut unknown = web.clone();
    unknown.key.interface = interface("net1");
    unknown.host_interface = interface("flock00000001");
    unknown.addresses = flock_core::attachment::Addresses::default();
    world.dataplane.attach(&unknown).await.unwrap();
    let any = AddressRequest { ipv4: FamilyRequest::Any, ..AddressRequest::default() };
    world.ipam.allocate(&LeaseOwner { key: unknown.key.clone(), pod: None }, &any).await.unwrap();
    assert!(world.online().await.len() >= 9, "{:#?}", world.online().await);

    world.handler.repair().await.unwrap();
    assert_eq!(world.online().await, []);
    assert_eq!([world.record("web"), world.record("db")], [web, db]);
    assert!(!world.dataplane.links().contains(&Link::of(&unknown)));
    world.handler.repair().await.unwrap();
    assert_eq!(world.online().await, []);
}
