//! What `ip route flush` takes from all pods at once is put back soon, however many they are.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use flock_core::announcer::MemoryAnnouncer;
use flock_core::attachment::AttachmentState;
use flock_core::clock::ManualClock;
use flock_core::dataplane::Dataplane;
use flock_core::dataplane::conformance::wanted;
use flock_core::handler::{Backends, Handler, Settings};
use flock_core::ipam::MemoryIpam;
use flock_core::node_config::NodeConfig;
use flock_core::pods::FixedPods;
use flock_core::store::{MemoryStore, Store};
use flock_netlink::ROUTE_PROTOCOL;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::lab::{Lab, run};

/// On the node of the test, unless `PODS` says otherwise.
const PODS: u16 = 200;

/// A second is what is promised, and a build without optimisation on a busy machine is given
/// some more. Before all were compared with the kernel together, a thousand took minutes.
const LIMIT: Duration = Duration::from_secs(5);

const NODE_CONFIG: &str = "
apiVersion: flock.fritzlab.net/v1alpha1
kind: NodeConfig
metadata: {name: host001}
spec: {cidr6: 2001:db8:1::/64, cidr4: 10.0.0.0/16}
";

fn routes() -> Vec<String> {
    let protocol = ROUTE_PROTOCOL.to_string();
    let of = |family| run(&["ip", family, "route", "show", "proto", &protocol]);
    let mut routes: Vec<String> = ["-4", "-6"].map(of).concat().lines().map(str::to_owned).collect();
    routes.sort();
    routes
}

#[tokio::test]
async fn the_routes_of_all_pods_are_back_soon() {
    let pods: u16 = std::env::var("PODS").map_or(PODS, |pods| pods.parse().expect("PODS is no number"));
    let lab = Lab::with_addresses();
    let store = Arc::new(MemoryStore::new());
    let clock = Arc::new(ManualClock::new());
    let config = NodeConfig::from_yaml(NODE_CONFIG, "test").unwrap();
    let backends = Backends {
        ipam: Arc::new(MemoryIpam::new(clock.clone(), Duration::ZERO, 1)),
        store: store.clone(),
        dataplane: lab.dataplane.clone(),
        announcer: Arc::new(MemoryAnnouncer::new()),
        pods: Arc::new(FixedPods::new()),
        clock,
    };
    let mut records = Vec::new();
    for number in 0..pods {
        let mut record = wanted(&lab, number).await;
        record.state = AttachmentState::Committed;
        lab.dataplane.attach(&record).await.unwrap();
        store.put(&record).await.unwrap();
        records.push(record);
    }
    let handler = Handler::new(backends, config, Settings::new(records[0].boot_id.clone()));
    handler.recover(&[]).await.unwrap();
    handler.publish().await.unwrap();
    let begun = Instant::now();
    lab.dataplane.check(&records).await.unwrap();
    println!("{pods} pods: all are compared with the kernel in {:.2?}", begun.elapsed());
    let before = routes();

    let (repaired, all) = (AtomicUsize::new(0), Notify::new());
    let count = |_| {
        // The node's summaries are one more.
        if repaired.fetch_add(1, Ordering::Relaxed) + 1 == usize::from(pods) + 1 {
            all.notify_one();
        }
    };
    let flush = format!("ip route flush proto {ROUTE_PROTOCOL}; ip -6 route flush proto {ROUTE_PROTOCOL}");
    let begun = Instant::now();
    let mut flush = Command::new("sh").args(["-c", &flush]).spawn().unwrap();
    let until = async {
        let back = timeout(20 * LIMIT, all.notified()).await;
        assert!(back.is_ok(), "{repaired:?} of {pods} pods and the node were repaired");
    };
    handler.run_keeper(count, until).await;
    let took = begun.elapsed();
    println!("{pods} pods: their routes were flushed and are back after {took:.2?}");
    assert!(flush.wait().unwrap().success());
    assert_eq!(routes(), before);
    assert!(took < LIMIT, "{took:.2?}");
}
