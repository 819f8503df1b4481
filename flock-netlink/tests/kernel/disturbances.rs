//! What somebody else does to the node is noticed at once, and a flood of it costs little.

use std::collections::BTreeSet;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use flock_core::attachment::Attachment;
use flock_core::dataplane::conformance::{DataplaneHarness, anycast_v4, anycast_v6, server, wanted};
use flock_core::dataplane::{AnycastRoute, Dataplane, Disturbance};
use ipnet::IpNet;
use tokio::sync::RwLock;
use tokio::time::timeout;

use crate::lab::{Lab, in_pod, pod_interfaces, run};

/// A disturbance is to be undone within a second, so it has to be known long before.
const SOON: Duration = Duration::from_millis(500);

/// After this, it is not going to be told any more.
const PATIENCE: Duration = Duration::from_secs(10);

/// Held by tests that measure times; one that stops this process for a while holds it alone.
static MEASURING: RwLock<()> = RwLock::const_new(());

async fn told(lab: &Lab) -> Disturbance {
    timeout(PATIENCE, lab.dataplane.disturbed()).await.expect("nothing was told").unwrap()
}

/// Takes in everything that was told so far. Notices come in order, so the node's address
/// that is lost last is told last.
async fn settle(lab: &Lab) {
    run(&["ip", "address", "del", "169.254.1.1/32", "dev", "lo"]);
    while !told(lab).await.node {}
    lab.dataplane.prepare().await.unwrap();
}

/// A node with a summary and a pod that serves anycast addresses.
struct Node {
    lab: Lab,
    pod: Attachment,
    summaries: BTreeSet<IpNet>,
    anycast: Vec<AnycastRoute>,
}

impl Node {
    async fn new() -> Self {
        let lab = Lab::with_addresses();
        let mut pod = wanted(&lab, 1).await;
        pod.anycast = vec![anycast_v6(), anycast_v4()];
        let route = |address| AnycastRoute::announced(address, vec![server(&pod)]);
        let anycast = pod.anycast.iter().copied().map(route).collect();
        let summaries = ["2001:db8:1::/64", "10.0.0.0/16"].map(|prefix| prefix.parse().unwrap()).into();
        let node = Self { lab, pod, summaries, anycast };
        node.mend().await;
        node
    }

    async fn mend(&self) {
        let dataplane = &self.lab.dataplane;
        dataplane.prepare().await.unwrap();
        dataplane.set_summaries(&self.summaries).await.unwrap();
        dataplane.attach(&self.pod).await.unwrap();
        dataplane.set_anycast(&self.anycast).await.unwrap();
    }
}

#[tokio::test]
async fn every_disturbance_of_a_pods_host_side_is_told() {
    let _undisturbed = MEASURING.read().await;
    let node = Node::new().await;
    let link = node.pod.host_interface.as_str();
    let [v6, v4] =
        [node.pod.addresses.ipv6.unwrap().to_string(), node.pod.addresses.ipv4.unwrap().to_string()];
    let local = node.pod.key.mac_addresses().pod.link_local();
    let elsewhere = node.lab.make_namespace().await;
    for command in [
        format!("ip route del {v4}"),
        format!("ip -6 route del {v6}"),
        "ip -6 route flush proto 70".into(),
        "ip route flush proto 70".into(),
        format!("ip route flush dev {link}"),
        format!("ip route replace {v4}/32 dev uplink"),
        format!("ip -6 route replace {v6}/128 dev uplink metric 1024"),
        format!("ip route replace {v4}/32 dev uplink proto 70 scope link"),
        format!("ip neigh del {v4} dev {link}"),
        format!("ip neigh del {v6} dev {link}"),
        format!("ip neigh del {local} dev {link}"),
        format!("ip neigh change {v4} dev {link} lladdr 02:00:00:00:00:99 nud permanent"),
        format!("ip neigh change {v6} dev {link} nud reachable"),
        format!("ip address del fe80::1/64 dev {link}"),
        format!("ip -6 address flush dev {link}"),
        format!("ip link set {link} down"),
        format!("ip link set {link} mtu 1400"),
        format!("ip link set {link} address 02:00:00:00:00:99"),
        format!("ip link set {link} group 7"),
        format!("sysctl -qw net/ipv4/conf/{link}/forwarding=0"),
        format!("sysctl -qw net/ipv4/conf/{link}/rp_filter=2"),
        format!("sysctl -qw net/ipv4/conf/{link}/proxy_arp=0"),
        format!("sysctl -qw net/ipv6/conf/{link}/forwarding=0"),
        format!("ip link del {link}"),
        format!("ip link set {link} down name elsewhere"),
        format!("ip link set {link} netns {}", elsewhere.display()),
    ] {
        settle(&node.lab).await;
        let start = Instant::now();
        run(&command.split(' ').collect::<Vec<_>>());
        while !told(&node.lab).await.interfaces.contains(&node.pod.host_interface) {}
        let took = start.elapsed();
        assert!(took < SOON, "{command}: told after {took:?}");
        // What somebody else put in the place of ours is his: it does not go by itself.
        for foreign in [&v4, &v6] {
            crate::lab::attempt(&["ip", "route", "del", foreign, "dev", "uplink"]);
        }
        node.mend().await;
        assert_eq!(node.lab.drift(&node.pod).await, [], "after {command}");
        assert_eq!(node.lab.dataplane.list().await.unwrap().len(), 1, "after {command}");
        assert_eq!(pod_interfaces(&elsewhere), Vec::<String>::new(), "after {command}");
    }
}

#[tokio::test]
async fn every_disturbance_of_the_node_itself_is_told() {
    let _undisturbed = MEASURING.read().await;
    let node = Node::new().await;
    let [v6, v4] = [anycast_v6(), anycast_v4()];
    for command in [
        "ip address del 169.254.1.1/32 dev lo".into(),
        "ip address flush dev lo".into(),
        "ip route del blackhole 10.0.0.0/16".into(),
        "ip -6 route del blackhole 2001:db8:1::/64".into(),
        "ip route replace 10.0.0.0/16 dev uplink".into(),
        format!("ip route del {v4}"),
        format!("ip -6 route del {v6}"),
        format!("ip link set {} down", node.pod.host_interface),
        "sysctl -qw net/ipv4/ip_forward=0".into(),
        "sysctl -qw net/ipv6/conf/all/forwarding=0".into(),
        "sysctl -qw net/ipv6/conf/default/forwarding=0".into(),
    ] {
        settle(&node.lab).await;
        let start = Instant::now();
        run(&command.split(' ').collect::<Vec<_>>());
        while !told(&node.lab).await.node {}
        let took = start.elapsed();
        assert!(took < SOON, "{command}: told after {took:?}");
        crate::lab::attempt(&["ip", "route", "del", "10.0.0.0/16", "dev", "uplink"]);
        node.mend().await;
    }
}

/// What others do to their own things, and what happens in a pod, is nobody's business here.
#[tokio::test]
async fn what_concerns_others_is_not_told() {
    let node = Node::new().await;
    settle(&node.lab).await;
    for command in [
        "ip link add dummy1 type bridge",
        "ip link set dummy1 up",
        "ip link set dummy1 mtu 1300",
        "ip address add 198.51.100.1/24 dev dummy1",
        "ip route add 203.0.113.0/24 dev dummy1",
        "ip route add 10.0.200.7/32 dev dummy1",
        "ip -6 route add 2001:db8:7::/64 dev dummy1",
        "ip neigh add 198.51.100.9 lladdr 02:00:00:00:00:99 dev dummy1",
        "ip neigh del 198.51.100.9 dev dummy1",
        "ip route del 203.0.113.0/24 dev dummy1",
        "ip address del 198.51.100.1/24 dev dummy1",
        "sysctl -qw net/ipv4/conf/dummy1/forwarding=0",
        "ip link del dummy1",
    ] {
        run(&command.split(' ').collect::<Vec<_>>());
    }
    in_pod(&node.pod.netns.path, &["ip", "link", "add", "other", "type", "bridge"]);
    in_pod(&node.pod.netns.path, &["ip", "link", "del", "other"]);
    run(&["ip", "route", "del", "blackhole", "10.0.0.0/16"]);
    assert_eq!(told(&node.lab).await, Disturbance::of_node());
}

/// Thousands of changes in a second, for some seconds.
#[tokio::test]
async fn a_flood_of_foreign_routes_wakes_nobody_and_costs_little() {
    let _undisturbed = MEASURING.read().await;
    let node = Node::new().await;
    settle(&node.lab).await;
    let listener = listener();
    let before = Usage::of(&listener);
    let start = Instant::now();
    let mut flood = Flood::begin(4);
    let mut latest = Duration::ZERO;
    while !flood.is_over() {
        let disturbed = Instant::now();
        run(&["ip", "route", "del", "blackhole", "10.0.0.0/16"]);
        let told = told(&node.lab).await;
        assert_eq!(told, Disturbance::of_node());
        latest = latest.max(disturbed.elapsed());
        node.lab.dataplane.set_summaries(&node.summaries).await.unwrap();
    }
    let (elapsed, used) = (start.elapsed(), Usage::of(&listener) - before);
    let rate = f64::from(flood.changes) / elapsed.as_secs_f64();
    let (cpu, wakeups) =
        (used.cpu.as_secs_f64() / elapsed.as_secs_f64(), f64::from(used.wakeups) / elapsed.as_secs_f64());
    println!(
        "{} foreign changes in {elapsed:.2?} ({rate:.0}/s): listener at {:.1} % of a processor, {wakeups:.0} wake-ups/s, \
         a disturbance told within {latest:.1?}",
        flood.changes,
        100.0 * cpu
    );
    // A machine that does much else at the time makes fewer changes, and gives less time.
    assert!(rate > 1_000.0, "only {rate:.0} changes in a second: no flood");
    assert!(latest < PATIENCE, "{latest:?}");
    let each = used.cpu / flood.changes;
    assert!(each < Duration::from_micros(30), "{each:?} for each change");
    // It pauses for 5 ms after each look, and waits twice for each.
    assert!(wakeups < 450.0, "{wakeups}");
}

/// While this process stands still, more happens than the kernel keeps for it.
#[tokio::test]
async fn what_was_lost_makes_everything_worth_a_look() {
    let _alone = MEASURING.write().await;
    let node = Node::new().await;
    settle(&node.lab).await;
    let mut flood = tempfile::NamedTempFile::new().unwrap();
    write_changes(flood.as_file_mut());
    let script = format!(
        "kill -STOP {parent}; for i in 1 2 3; do ip -batch {file}; done; ip route del blackhole 10.0.0.0/16; \
         kill -CONT {parent}",
        parent = std::process::id(),
        file = flood.path().display()
    );
    run(&["sh", "-c", &script]);
    let told = told(&node.lab).await;
    assert!(told.everything, "{told:?}");
    // And it goes on hearing.
    settle(&node.lab).await;
    run(&["ip", "link", "set", node.pod.host_interface.as_str(), "mtu", "1400"]);
    let expected = Disturbance::of_interface(node.pod.host_interface.clone());
    assert_eq!(self::told(&node.lab).await, expected);
}

/// `ip` that adds and removes routes of others, as fast as it can.
struct Flood {
    ip: Child,
    changes: u32,
    _changes: tempfile::NamedTempFile,
}

const ROUTES: u32 = 10_000;

/// Adds and removes [`ROUTES`] host routes of others.
fn write_changes(file: &mut impl Write) {
    for verb in ["add", "del"] {
        for number in 0..ROUTES {
            writeln!(file, "route {verb} 198.18.{}.{}/32 dev uplink", number / 250, number % 250).unwrap();
        }
    }
}

impl Flood {
    fn begin(rounds: u32) -> Self {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        for _ in 0..rounds {
            write_changes(file.as_file_mut());
        }
        let mut ip = Command::new("ip");
        let ip = ip.args([Path::new("-batch"), file.path()]).stderr(Stdio::inherit()).spawn().unwrap();
        Self { ip, changes: rounds * 2 * ROUTES, _changes: file }
    }

    fn is_over(&mut self) -> bool {
        let ended = self.ip.try_wait().unwrap();
        assert!(ended.is_none_or(|status| status.success()), "{ended:?}");
        ended.is_some()
    }
}

/// The thread that listens for this test: others may run beside it in this process.
fn listener() -> PathBuf {
    let namespace = |thread: &Path| std::fs::metadata(thread.join("ns/net")).map(|status| status.ino());
    let here = namespace(Path::new("/proc/thread-self")).unwrap();
    let threads = std::fs::read_dir("/proc/self/task").unwrap().map(|entry| entry.unwrap().path());
    let is_it = |thread: &PathBuf| {
        std::fs::read_to_string(thread.join("comm")).is_ok_and(|name| name.trim() == "flock-listener")
            && namespace(thread).is_ok_and(|found| found == here)
    };
    threads.into_iter().find(is_it).expect("no thread listens")
}

/// What a thread has used of the machine.
#[derive(Debug, Clone, Copy)]
struct Usage {
    cpu: Duration,
    wakeups: u32,
}

impl Usage {
    fn of(thread: &Path) -> Self {
        let schedule = std::fs::read_to_string(thread.join("schedstat")).unwrap();
        let nanoseconds = schedule.split(' ').next().unwrap().parse().unwrap();
        let status = std::fs::read_to_string(thread.join("status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
        Self { cpu: Duration::from_nanos(nanoseconds), wakeups: line.trim().parse().unwrap() }
    }
}

impl std::ops::Sub for Usage {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self { cpu: self.cpu.saturating_sub(before.cpu), wakeups: self.wakeups - before.wakeups }
    }
}
