//! A node in a network namespace of its own, and namespaces for its pods.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use async_trait::async_trait;
use flock_core::attachment::Attachment;
use flock_core::dataplane::conformance::DataplaneHarness;
use flock_core::dataplane::{AnycastState, Dataplane, Drift};
use flock_core::name::InterfaceName;
use flock_netlink::{ANNOUNCED_METRIC, NetlinkDataplane, ROUTE_PROTOCOL, STANDBY_METRIC, WITHDRAWING_METRIC};
use ipnet::IpNet;
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_bind, mount_change, unmount};
use rustix::thread::UnshareFlags;
use serde_json::Value;
use tempfile::TempDir;

/// How long a first packet and its answer may take, in seconds.
const FIRST_PACKET: &str = "0.05";

pub(crate) struct Lab {
    pub(crate) dataplane: Arc<NetlinkDataplane>,
    folder: TempDir,
    made: AtomicU32,
}

impl Lab {
    /// Moves the calling thread into a new node, on which only `lo` is up.
    pub(crate) fn new() -> Self {
        unshare(UnshareFlags::NEWNET | UnshareFlags::NEWNS);
        mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE).unwrap();
        run(&["ip", "link", "set", "lo", "up"]);
        let dataplane = Arc::new(NetlinkDataplane::new().unwrap());
        Self { dataplane, folder: TempDir::new().unwrap(), made: AtomicU32::new(0) }
    }

    /// As [`new`](Self::new), with addresses of both families but no default route.
    pub(crate) fn with_addresses() -> Self {
        let lab = Self::new();
        run(&["ip", "link", "add", "uplink", "type", "bridge"]);
        run(&["ip", "link", "set", "uplink", "up"]);
        run(&["ip", "address", "add", "192.0.2.1/24", "dev", "uplink"]);
        run(&["ip", "address", "add", "2001:db8:ffff::1/64", "dev", "uplink", "nodad"]);
        lab
    }

    pub(crate) async fn drift(&self, attachment: &Attachment) -> Vec<Drift> {
        self.dataplane.check(std::slice::from_ref(attachment)).await.unwrap().remove(0)
    }

    fn routes(family: &str) -> Vec<Value> {
        let protocol = ROUTE_PROTOCOL.to_string();
        let text = run(&["ip", "-j", "-d", family, "route", "show", "proto", &protocol]);
        match serde_json::from_str(&text).unwrap() {
            Value::Array(routes) => routes,
            other => panic!("no list: {other}"),
        }
    }
}

#[async_trait]
impl DataplaneHarness for Lab {
    fn dataplane(&self) -> &dyn Dataplane {
        &*self.dataplane
    }

    async fn make_namespace(&self) -> PathBuf {
        let path = self.folder.path().join(format!("pod{}", self.made.fetch_add(1, Ordering::Relaxed)));
        File::create(&path).unwrap();
        bind_new_namespace(&path);
        path
    }

    async fn replace_namespace(&self, path: &Path) {
        unmount(path, UnmountFlags::DETACH).unwrap();
        bind_new_namespace(path);
    }

    /// The kernel takes its time with a namespace that nobody holds any more.
    /// To know when it is done the interfaces go first, at once.
    async fn remove_namespace(&self, path: &Path) {
        for name in pod_interfaces(path) {
            in_pod(path, &["ip", "link", "delete", &name]);
        }
        unmount(path, UnmountFlags::DETACH).unwrap();
        std::fs::remove_file(path).unwrap();
    }

    async fn make_foreign_pod_interface(&self, path: &Path, name: &InterfaceName) {
        in_pod(path, &["ip", "link", "add", name.as_str(), "type", "bridge"]);
    }

    async fn make_foreign_host_interface(&self, name: &InterfaceName) {
        run(&["ip", "link", "add", name.as_str(), "type", "bridge"]);
    }

    async fn has_host_interface(&self, name: &InterfaceName) -> bool {
        attempt(&["ip", "link", "show", "dev", name.as_str()]).status.success()
    }

    async fn summaries(&self) -> BTreeSet<IpNet> {
        let routes = ["-6", "-4"].into_iter().flat_map(Self::routes);
        routes.filter(|route| route["type"] == "blackhole").map(|route| prefix(&route)).collect()
    }

    async fn lose_route(&self, attachment: &Attachment) {
        let address = attachment.addresses.ipv6.unwrap().to_string();
        run(&["ip", "route", "del", &address, "dev", attachment.host_interface.as_str()]);
    }

    async fn lose_summary(&self, prefix: IpNet) {
        run(&["ip", "route", "del", "blackhole", &prefix.to_string()]);
    }

    async fn anycast(&self, state: AnycastState) -> BTreeMap<IpAddr, BTreeSet<InterfaceName>> {
        of_metric(match state {
            AnycastState::Announced => ANNOUNCED_METRIC,
            AnycastState::Withdrawing => WITHDRAWING_METRIC,
            AnycastState::Standby => STANDBY_METRIC,
        })
    }
}

/// Where the routes with this metric lead, and over which links.
fn of_metric(metric: u32) -> BTreeMap<IpAddr, BTreeSet<InterfaceName>> {
    let routes = ["-6", "-4"].into_iter().flat_map(Lab::routes).filter(|route| route["metric"] == metric);
    routes.map(|route| (prefix(&route).addr(), links(&route))).collect()
}

fn prefix(route: &Value) -> IpNet {
    let text = route["dst"].as_str().unwrap();
    text.parse().unwrap_or_else(|_| IpNet::from(text.parse::<IpAddr>().unwrap()))
}

fn links(route: &Value) -> BTreeSet<InterfaceName> {
    let hops = route["nexthops"].as_array();
    let hops = hops.map_or_else(|| vec![route.clone()], Clone::clone);
    hops.iter().map(|hop| InterfaceName::new(hop["dev"].as_str().unwrap()).unwrap()).collect()
}

/// The namespace lives as long as it is mounted.
fn bind_new_namespace(path: &Path) {
    let made = thread::spawn(|| {
        unshare(UnshareFlags::NEWNET);
        File::open("/proc/thread-self/ns/net").unwrap()
    });
    let namespace = made.join().unwrap();
    mount_bind(format!("/proc/self/fd/{}", namespace.as_raw_fd()), path).unwrap();
}

#[allow(deprecated)] // file descriptors, which can't be unshared safely, are not
fn unshare(what: UnshareFlags) {
    rustix::thread::unshare(what).expect("this test needs the rights of root over namespaces");
}

pub(crate) fn pod_interfaces(path: &Path) -> Vec<String> {
    let text = in_pod(path, &["ip", "-j", "link", "show"]);
    let found: Value = serde_json::from_str(&text).unwrap();
    let names = found.as_array().unwrap().iter().map(|link| link["ifname"].as_str().unwrap().to_owned());
    names.filter(|name| name != "lo").collect()
}

/// Runs a program on the node; it has to succeed.
pub(crate) fn run(program: &[&str]) -> String {
    let output = attempt(program);
    assert!(output.status.success(), "{program:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a program in a pod's network namespace; it has to succeed.
pub(crate) fn in_pod(path: &Path, program: &[&str]) -> String {
    run(&[&["nsenter", &format!("--net={}", path.display())], program].concat())
}

/// Runs a program on the node.
pub(crate) fn attempt(program: &[&str]) -> Output {
    Command::new(program[0]).args(&program[1..]).output().unwrap()
}

/// Writes a setting of a pod's namespace.
pub(crate) fn set_in_pod(path: &Path, name: &str, value: &str) {
    in_pod(path, &["sysctl", "-q", "-w", &format!("{name}={value}")]);
}

/// Sends one packet from the pod, or from the node, and waits for the answer only so long.
pub(crate) fn first_packet(from: Option<&Attachment>, to: &str) {
    let ping = ["ping", "-n", "-q", "-c", "1", "-W", FIRST_PACKET, to];
    match from {
        Some(attachment) => in_pod(&attachment.netns.path, &ping),
        None => run(&ping),
    };
}
