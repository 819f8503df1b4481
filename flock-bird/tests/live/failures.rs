//! What breaks on the one side, and what must not notice it on the other.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::time::Duration;

use flock_bird::announcer::Status;
use flock_bird::{BirdAnnouncer, BirdConfig};
use flock_core::announcer::{AnnounceError, Announcements, RouteAnnouncer as _};
use flock_core::node_config::{NodeConfig, Peer};
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::lab::{Bird, Lab, Namespace, Since, eventually, router_config, wanted};
use crate::watch::RouteWatch;

/// The node's prefixes.
const OWN: [&str; 2] = ["10.0.1.0/24", "2001:db8:1::/64"];
/// What the router has beside.
const FOREIGN: [&str; 2] = ["203.0.113.0/24", "2001:db8:cafe::/48"];
const ANYCAST: [&str; 2] = ["198.51.100.53/32", "2001:db8:a::53/128"];
const SESSIONS: [&str; 2] = ["peer_tor-v4", "peer_tor-v6"];
/// More than anything takes that does not wait for BIRD, less than BIRD is waited for.
const PROMPT: Duration = Duration::from_secs(1);

/// A router that puts into its kernel what it is told; `options` are those of its sessions.
fn router(options: &str) -> String {
    let session = |version: &str, neighbor: &str| {
        format!(
            "protocol bgp node{version} {{ local as 64500; neighbor {neighbor} as 64512;
  connect delay time 1; connect retry time 1; error wait time 1, 2; {options}
  ipv{version} {{ import all; export where source = RTS_STATIC; }}; }}
protocol kernel {{ {persist} ipv{version} {{ import none; export where source = RTS_BGP; }}; }}\n",
            persist = "persist; graceful restart on;"
        )
    };
    let [foreign4, foreign6] = FOREIGN;
    format!(
        "protocol static {{ ipv4; route {foreign4} blackhole; }}
protocol static {{ ipv6; route {foreign6} blackhole; }}\n"
    ) + &session("4", "192.0.2.1")
        + &session("6", "2001:db8:ffff::2")
}

fn lab(options: &str) -> Lab {
    let lab = Lab::with_sessions(&router(options), |_, _| {});
    install(&lab, &OWN);
    lab
}

/// Puts routes of the node's own into the kernel, as the dataplane does.
fn install(lab: &Lab, prefixes: &[&str]) {
    for prefix in prefixes {
        let family = if prefix.contains(':') { "-6" } else { "-4" };
        lab.node.ip(&format!("{family} route add blackhole {prefix} proto 70 metric 8"));
    }
}

fn with_anycast() -> Announcements {
    wanted(&ANYCAST.map(|prefix| prefix.split('/').next().unwrap()))
}

/// Waits until both sides have what the other one announces, in the kernel too.
async fn exchanged(lab: &Lab) {
    lab.router_has(&OWN).await;
    let own = BTreeSet::from(OWN.map(str::to_owned));
    eventually("the router's kernel has the node's", async || lab.router_namespace.routes_by_bird() == own)
        .await;
    let foreign = BTreeSet::from(FOREIGN.map(str::to_owned));
    eventually("the node's kernel has the router's", async || lab.node.routes_by_bird() == foreign).await;
}

async fn since(bird: &Bird) -> [Since; 2] {
    let [one, other] = SESSIONS;
    [bird.since(one).await, bird.since(other).await]
}

#[tokio::test]
async fn a_bird_that_hangs_holds_nobody_up_and_goes_on_with_the_last_state() {
    let (lab, announcer, bird) = hanging().await;
    let before = since(&bird).await;
    let (ours, theirs) = (RouteWatch::begin(&lab.node).await, RouteWatch::begin(&lab.router_namespace).await);
    bird.signal("STOP");
    let good = fs::read(lab.config().config_path).unwrap();
    // At first the kernel takes connections for it, then it takes no more.
    for address in ["198.51.100.1", "198.51.100.2"] {
        prompt(&announcer, &wanted(&[address])).await;
        let endpoint = lab.config().socket_path.display().to_string();
        assert_eq!(announcer.applied().await, Err(AnnounceError::Timeout { endpoint, seconds: 2 }));
        assert!(fs::read(lab.config().config_path).unwrap() == good, "what nobody looked at is in place");
        knock(&lab.config().socket_path).await;
    }
    install(&lab, &ANYCAST);
    prompt(&announcer, &with_anycast()).await;

    bird.signal("CONT");
    let mut status = announcer.status();
    status.wait_for(|status| matches!(status, Status::Applied { .. })).await.unwrap();
    lab.router_has(&[OWN, ANYCAST].concat()).await;
    assert!(since(&bird).await == before, "a session was reset");
    ours.assert_untouched(&lab.node, &FOREIGN).await;
    theirs.assert_untouched(&lab.router_namespace, &OWN).await;
}

/// As by a probe that finds it hanging.
#[tokio::test]
async fn a_bird_that_is_killed_because_it_hangs_comes_back_with_the_last_state() {
    let (lab, announcer, bird) = hanging().await;
    let (ours, theirs) = (RouteWatch::begin(&lab.node).await, RouteWatch::begin(&lab.router_namespace).await);
    bird.signal("STOP");
    install(&lab, &ANYCAST);
    prompt(&announcer, &with_anycast()).await;
    announcer.applied().await.unwrap_err();
    bird.kill();
    let bird = lab.restart_bird();
    let mut status = announcer.status();
    status.wait_for(|status| matches!(status, Status::Applied { .. })).await.unwrap();
    lab.router_has(&[OWN, ANYCAST].concat()).await;
    recovered(&bird).await;
    ours.assert_kept(&lab.node, &FOREIGN).await;
    theirs.assert_kept(&lab.router_namespace, &OWN).await;
}

/// A BIRD with both sessions up, and an announcer that waits less long for it.
async fn hanging() -> (Lab, BirdAnnouncer, Bird) {
    let lab = lab("");
    let (announcer, bird) = lab.announcing(&wanted(&[])).await;
    drop(announcer);
    let announcer = BirdAnnouncer::start(&BirdConfig { timeout: PROMPT * 2, ..lab.config() }).unwrap();
    announcer.sync(&wanted(&[])).await.unwrap();
    announcer.applied().await.unwrap();
    exchanged(&lab).await;
    (lab, announcer, bird)
}

async fn prompt(announcer: &BirdAnnouncer, wanted: &Announcements) {
    timeout(PROMPT, announcer.sync(wanted)).await.expect("it waits for BIRD").unwrap();
}

/// Connects until nobody can any more, and goes away.
async fn knock(socket: &Path) {
    let mut connections = Vec::new();
    let error = loop {
        match UnixStream::connect(socket).await {
            Ok(connection) => connections.push(connection),
            Err(error) => break error,
        }
        assert!(connections.len() < 10_000, "there is always room for one more");
    };
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
}

#[tokio::test]
async fn neither_kernel_loses_a_route_while_bird_is_killed_and_the_last_state_is_taken() {
    let lab = lab("");
    let (announcer, bird) = lab.announcing(&wanted(&[])).await;
    exchanged(&lab).await;
    let (ours, theirs) = (RouteWatch::begin(&lab.node).await, RouteWatch::begin(&lab.router_namespace).await);

    bird.kill();
    eventually("the router has noticed", async || !lab.router.is_established("node4").await).await;
    announcer.sync(&wanted(&["198.51.100.1"])).await.unwrap();
    assert!(matches!(announcer.applied().await, Err(AnnounceError::Unreachable { .. })));
    install(&lab, &ANYCAST);
    announcer.sync(&with_anycast()).await.unwrap();
    announcer.applied().await.unwrap_err();

    let bird = lab.restart_bird();
    for session in SESSIONS {
        eventually(session, async || bird.is_established(session).await).await;
    }
    lab.router_has(&[OWN, ANYCAST].concat()).await;
    recovered(&bird).await;
    let mut status = announcer.status();
    status.wait_for(|status| matches!(status, Status::Applied { .. })).await.unwrap();
    ours.assert_kept(&lab.node, &FOREIGN).await;
    theirs.assert_kept(&lab.router_namespace, &OWN).await;
}

/// Waits until BIRD is done with what it had before.
async fn recovered(bird: &Bird) {
    let recovers = "Graceful restart recovery in progress";
    eventually("BIRD has recovered", async || !bird.text("show status").await.contains(recovers)).await;
}

/// As where somebody takes the file away from the group that BIRD is in.
#[tokio::test]
async fn a_bird_that_refuses_keeps_what_it_has_and_takes_the_next_good_state() {
    let lab = lab("");
    let directory = lab.directory.path().join("bird");
    fs::create_dir(&directory).unwrap();
    let may_read = |may: bool| {
        fs::set_permissions(&directory, Permissions::from_mode(if may { 0o2755 } else { 0o755 })).unwrap();
    };
    fs::set_permissions(lab.directory.path(), Permissions::from_mode(0o755)).unwrap();
    chown(&directory, None, Some(NOGROUP)).unwrap();
    may_read(true);
    let config = BirdConfig {
        config_path: directory.join("bird.conf"),
        socket_path: directory.join("bird.ctl"),
        ..lab.config()
    };
    let announcer = BirdAnnouncer::start(&config).unwrap();
    announcer.sync(&wanted(&[])).await.unwrap();
    announcer.applied().await.unwrap_err();
    let bird = Bird::start(&lab.node, &config.config_path, &["-u", "nobody", "-g", "nogroup"]);
    let mut status = announcer.status();
    status.wait_for(|status| matches!(status, Status::Applied { .. })).await.unwrap();
    exchanged(&lab).await;
    let before = since(&bird).await;
    let good = fs::read_to_string(&config.config_path).unwrap();
    let (ours, theirs) = (RouteWatch::begin(&lab.node).await, RouteWatch::begin(&lab.router_namespace).await);

    install(&lab, &ANYCAST);
    may_read(false);
    announcer.sync(&with_anycast()).await.unwrap();
    let error = announcer.applied().await.unwrap_err();
    assert!(
        matches!(&error, AnnounceError::Refused { message } if message.contains("Permission denied")),
        "{error}"
    );
    assert_eq!(fs::read_to_string(&config.config_path).unwrap(), good);
    lab.router_has(&OWN).await;

    may_read(true);
    announcer.sync(&with_anycast()).await.unwrap();
    announcer.applied().await.unwrap();
    lab.router_has(&[OWN, ANYCAST].concat()).await;
    assert!(since(&bird).await == before, "a session was reset");
    ours.assert_untouched(&lab.node, &FOREIGN).await;
    theirs.assert_untouched(&lab.router_namespace, &OWN).await;
}

/// Debian's number of the group `nogroup`.
const NOGROUP: u32 = 65534;

#[tokio::test]
async fn a_peer_that_flaps_concerns_no_other() {
    let (own, [alone, shared]) = ("2001:db8:beef::/48", FOREIGN);
    let second = Namespace::new();
    let lab = Lab::with_sessions(&router(""), |node, _| {
        node.ip(&format!("link add up1 type veth peer name down1 netns {}", second.pid()));
        node.ip("addr add 2001:db8:fffe::2/64 dev up1 nodad");
        node.ip("link set up1 up");
        second.ip("addr add 2001:db8:fffe::1/64 dev down1 nodad");
        second.ip("link set down1 up");
    });
    install(&lab, &OWN);
    let path = lab.directory.path().join("second.conf");
    let there = format!(
        "protocol static {{ ipv6; route {own} blackhole; route {shared} blackhole; }}
protocol bgp node {{ local as 64499; neighbor 2001:db8:fffe::2 as 64512; connect delay time 1;
  connect retry time 1; error wait time 1, 2; ipv6 {{ import all; export where source = RTS_STATIC; }}; }}\n"
    );
    fs::write(&path, router_config(&there)).unwrap();
    let flapping = Bird::start(&second, &path, &[]);
    let mut node = wanted(&[]);
    node.peers.push(Peer::new("tor2", "2001:db8:fffe::1".parse().unwrap(), 64499));
    let (_announcer, bird) = lab.announcing(&node).await;
    lab.router_has(&OWN).await;
    let all = BTreeSet::from([FOREIGN[0], FOREIGN[1], own].map(str::to_owned));
    let without = BTreeSet::from(FOREIGN.map(str::to_owned));
    let node_has = async |what: &BTreeSet<String>| {
        eventually(&format!("the node's kernel has {what:?}"), async || lab.node.routes_by_bird() == *what)
            .await;
    };
    node_has(&all).await;
    let ways = || lab.node.ip(&format!("-6 route show {shared}")).matches(" via ").count();
    eventually("both have it", async || ways() == 2).await;
    let before = since(&bird).await;
    let (ours, theirs) = (RouteWatch::begin(&lab.node).await, RouteWatch::begin(&lab.router_namespace).await);

    let flaps = 3;
    for _ in 0..flaps {
        flapping.ask("disable node").await;
        node_has(&without).await;
        eventually("one of two has it", async || ways() == 1).await;
        flapping.ask("enable node").await;
        node_has(&all).await;
        eventually("both have it again", async || ways() == 2).await;
    }
    assert!(since(&bird).await == before, "a session was reset");
    let removed = ours.of(&lab.node, own).await;
    assert_eq!(removed.iter().filter(|line| line.contains("Deleted")).count(), flaps, "{removed:?}");
    ours.assert_untouched(&lab.node, &[alone]).await;
    ours.assert_kept(&lab.node, &[shared]).await;
    theirs.assert_untouched(&lab.router_namespace, &OWN).await;
}

#[tokio::test]
async fn a_router_that_reboots_gracefully_leaves_no_gap() {
    let mut lab = lab("graceful restart on;");
    let (_announcer, bird) = lab.announcing(&wanted(&[])).await;
    exchanged(&lab).await;
    let before = since(&bird).await;
    let (ours, theirs) = (RouteWatch::begin(&lab.node).await, RouteWatch::begin(&lab.router_namespace).await);

    lab.router.signal("KILL");
    for session in SESSIONS {
        eventually("the node has noticed", async || !bird.is_established(session).await).await;
    }
    let config = lab.directory.path().join("router.conf");
    lab.router = Bird::start(&lab.router_namespace, &config, &["-R"]);
    for session in SESSIONS {
        eventually(session, async || bird.is_established(session).await).await;
    }
    lab.router_has(&OWN).await;
    recovered(&lab.router).await;
    assert!(since(&bird).await != before, "the sessions did not end: nothing was shown");
    ours.assert_kept(&lab.node, &FOREIGN).await;
    theirs.assert_kept(&lab.router_namespace, &OWN).await;

    // One that says goodbye is not waited for.
    for session in ["node4", "node6"] {
        lab.router.ask(&format!("disable {session}")).await;
    }
    eventually("its routes are gone", async || lab.node.routes_by_bird().is_empty()).await;
    for destination in FOREIGN {
        let said = ours.of(&lab.node, destination).await;
        assert!(said.iter().any(|line| line.starts_with("Deleted")), "{destination}: {said:?}");
    }
}

#[tokio::test]
async fn a_bad_entry_disables_that_peer_only() {
    let lab = lab("");
    let v6 = json!({"name": "tor-v6", "address": "2001:db8:ffff::1", "asn": 64500});
    let v4 = json!({"name": "tor-v4", "address": "192.0.2.254", "asn": 64500});
    let (announcer, bird) = lab.announcing(&node_config(&json!([v6, v4]), 0)).await;
    exchanged(&lab).await;
    let [_, since_v6] = since(&bird).await;
    let ours = RouteWatch::begin(&lab.node).await;

    let mut bad = v4.clone();
    bad["holdTime"] = json!(1);
    for (peers, refused, v4_stays) in [
        (json!([v6, v4, {"name": "other", "address": "2001:db8:ffff::1", "asn": 64501}]), 1, true),
        (json!([v6, {"colour": "red"}, v4, 7]), 2, true),
        (json!([bad, v6]), 1, false),
    ] {
        announcer.sync(&node_config(&peers, refused)).await.unwrap();
        announcer.applied().await.unwrap();
        assert!(bird.since("peer_tor-v6").await == since_v6, "the session was reset");
        assert_eq!(bird.row("peer_tor-v4").await.is_some(), v4_stays);
    }
    eventually("the peer's routes are gone", async || lab.node.routes_by_bird().len() == 1).await;
    announcer.sync(&node_config(&json!([v6, v4]), 0)).await.unwrap();
    exchanged(&lab).await;
    assert!(bird.since("peer_tor-v6").await == since_v6, "the session was reset");
    ours.assert_untouched(&lab.node, &FOREIGN[1..]).await;
}

/// What is announced to those of these peers that can be used; so many others are refused.
fn node_config(peers: &Value, refused: usize) -> Announcements {
    let manifest = json!({
        "apiVersion": "flock.fritzlab.net/v1alpha1",
        "kind": "NodeConfig",
        "metadata": {"name": "host001"},
        "spec": {"cidr6": "2001:db8:1::/64", "cidr4": "10.0.1.0/24", "bgp": {"asn": 64512, "peers": peers}},
    });
    let bgp = NodeConfig::from_yaml(&manifest.to_string(), "test").unwrap().bgp.unwrap();
    assert_eq!(bgp.refused.len(), refused, "{:?}", bgp.refused);
    Announcements { peers: bgp.peers, ..wanted(&[]) }
}
