//! What the status says of the peers of a NodeConfig, whatever BIRD says.

use std::time::{Duration, SystemTime};

use flock_bird::control::ControlError;
use flock_bird::peers::FamilyRoutes;
use flock_bird::protocols::SessionState;
use flock_core::node_config::NodeConfig;
use futures_util::FutureExt as _;
use serde_json::{Value, json};

use super::*;

/// With the peers `a` and `b`, an unnumbered one `u`, and `c` that can't be used.
fn bgp() -> Bgp {
    let manifest = json!({
        "apiVersion": "flock.fritzlab.net/v1alpha1", "kind": "NodeConfig", "metadata": {"name": "host001"},
        "spec": {"cidr4": "10.0.1.0/24", "bgp": {"asn": 64512, "peers": [
            {"name": "b", "address": "2001:db8:ffff::1", "asn": 64500},
            {"name": "c", "address": "10.0.1.9", "asn": 64500},
            {"name": "a", "address": "192.0.2.1", "asn": 64501},
            {"name": "u", "interface": "eth0", "asn": 64502},
        ]}},
    });
    NodeConfig::from_yaml(&manifest.to_string(), "test").unwrap().bgp.unwrap()
}

fn seen(name: &str, state: SessionState) -> Seen {
    Seen {
        name: name.to_owned(),
        address: None,
        asn: None,
        state,
        since: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(981_173_106)),
        families: Vec::new(),
        last_error: None,
    }
}

fn routes(family: Family, received: u64, advertised: u64) -> FamilyRoutes {
    FamilyRoutes { family, received, advertised }
}

fn away() -> Peers {
    Peers::Away(ControlError::Unreachable { socket: "bird.ctl".into(), reason: "of this test".into() }.into())
}

fn shown(peers: &Peers) -> Value {
    serde_json::to_value(status(&bgp(), peers)).unwrap()
}

#[test]
fn each_peer_of_the_nodeconfig_is_there_with_what_bird_says_of_it() {
    let a = Seen {
        families: vec![routes(Family::Ipv4, 7, 1), routes(Family::Ipv6, 0, 2)],
        ..seen("a", SessionState::Established)
    };
    let b = Seen { last_error: Some("Connection refused".to_owned()), ..seen("b", SessionState::Active) };
    let u = Seen { address: Some("fe80::1%eth0".parse().unwrap()), ..seen("u", SessionState::OpenSent) };
    // BIRD still has one that is no peer any more.
    let old = seen("old", SessionState::Established);
    let since = "2001-02-03T04:05:06Z";
    let refused = &bgp().refused[0].problems.join("; ");
    assert_eq!(
        shown(&Peers::Known(vec![a, b, old, u])),
        json!({"established": "1/4", "peers": [
            {
                "name": "a", "address": "192.0.2.1", "asn": 64501, "state": "Established", "since": since,
                "ipv4": {"received": 7, "advertised": 1}, "ipv6": {"received": 0, "advertised": 2},
            },
            {
                "name": "b", "address": "2001:db8:ffff::1", "asn": 64500, "state": "Active", "since": since,
                "lastError": "Connection refused",
            },
            {"name": "u", "address": "fe80::1%eth0", "asn": 64502, "state": "OpenSent", "since": since},
            {"name": "c", "state": "Refused", "lastError": refused},
        ]})
    );
}

#[test]
fn a_bird_that_says_nothing_is_no_session_that_is_down() {
    let unknown = json!([
        {"name": "a", "address": "192.0.2.1", "asn": 64501, "state": "Unknown"},
        {"name": "b", "address": "2001:db8:ffff::1", "asn": 64500, "state": "Unknown"},
        {"name": "u", "address": "%eth0", "asn": 64502, "state": "Unknown"},
        {"name": "c", "state": "Refused", "lastError": bgp().refused[0].problems.join("; ")},
    ]);
    assert_eq!(shown(&Peers::Unknown), json!({"established": "0/4", "peers": unknown}));
    let shown = shown(&away());
    assert_eq!((&shown["established"], &shown["peers"]), (&json!("?/4"), &unknown));
    let message = shown["message"].as_str().unwrap();
    assert!(message.starts_with("BIRD does not answer: ") && message.contains("of this test"), "{message}");
}

#[test]
fn counts_alone_are_no_change() {
    let peers = watch::Sender::new(Peers::Unknown);
    let mut sessions = Sessions::new(watch::channel(BirdStatus::Idle).1, peers.subscribe());
    let up = seen("a", SessionState::Established);
    let counting = Seen { families: vec![routes(Family::Ipv4, 7, 1)], ..up.clone() };
    let mut changed = |now: Peers| {
        peers.send_replace(now);
        sessions.changed().now_or_never().is_some()
    };
    assert!(changed(Peers::Known(vec![up.clone()])));
    assert!(!changed(Peers::Known(vec![counting.clone()])));
    assert!(changed(Peers::Known(vec![counting, seen("b", SessionState::Active)])));
    assert!(changed(Peers::Known(vec![up, seen("b", SessionState::OpenSent)])));
    assert!(changed(away()));
    assert!(!changed(away()));
}
