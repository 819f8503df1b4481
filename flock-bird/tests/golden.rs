//! Golden files: what a node's configuration looks like, to the byte, and that BIRD takes it.
//!
//! `FLOCK_UPDATE_GOLDEN=1 cargo nextest run -p flock-bird --test golden` writes them anew; read
//! the difference before committing it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use flock_bird::render::Renderer;
use flock_core::announcer::Announcements;
use flock_core::drain::DrainPhase;
use flock_core::name::InterfaceName;
use flock_core::node_config::{
    Attributes, Bfd, Community, Export, Family, GracefulRestart, Import, LargeCommunity, LimitAction,
    MaxPrefixes, Neighbor, Password, Peer,
};

const ROUTE_PROTOCOL: u8 = 70;

fn peer(name: &str, address: &str, asn: u32) -> Peer {
    Peer::new(name, address.parse().unwrap(), asn)
}

fn node(summaries: &[&str], peers: Vec<Peer>) -> Announcements {
    Announcements {
        peers,
        summaries: summaries.iter().map(|prefix| prefix.parse().unwrap()).collect(),
        ..Announcements::new(64512, Ipv4Addr::new(192, 0, 2, 1))
    }
}

fn two_peers() -> Announcements {
    node(
        &["2001:db8:1::/64", "10.0.1.0/24"],
        vec![peer("tor1", "2001:db8:ffff::1", 64500), peer("tor2", "192.0.2.254", 64501)],
    )
}

fn with_anycast(mut announcements: Announcements, anycast: &[&str]) -> Announcements {
    announcements.anycast = anycast.iter().map(|address| address.parse::<IpAddr>().unwrap()).collect();
    announcements
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name).with_extension("conf")
}

/// Compares with the golden file, or writes it.
fn assert_golden(name: &str, announcements: &Announcements) {
    let renderer = Renderer::new(ROUTE_PROTOCOL).unwrap();
    assert_rendered(name, &renderer.render(announcements).unwrap());
}

fn assert_rendered(name: &str, text: &str) {
    let path = golden(name);
    if env::var_os("FLOCK_UPDATE_GOLDEN").is_some_and(|value| value == "1") {
        fs::write(&path, text).unwrap();
    }
    let expected = fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}; FLOCK_UPDATE_GOLDEN=1 writes it", path.display()));
    assert!(
        text == expected,
        "{name} differs from {}; FLOCK_UPDATE_GOLDEN=1 writes it anew. Rendered:\n{text}",
        path.display()
    );
}

#[test]
fn a_node_with_two_peers() {
    assert_golden("two-peers", &two_peers());
}

#[test]
fn anycast_added() {
    let anycast = ["2001:db8:a::53", "198.51.100.53", "198.51.100.9"];
    assert_golden("anycast-added", &with_anycast(two_peers(), &anycast));
}

#[test]
fn metrics_that_are_not_announced() {
    let renderer = Renderer::new(ROUTE_PROTOCOL).unwrap().with_unannounced_metrics(vec![16, 32_768]);
    let wanted = with_anycast(two_peers(), &["2001:db8:a::53", "198.51.100.53"]);
    assert_rendered("unannounced-metrics", &renderer.render(&wanted).unwrap());
}

#[test]
fn the_order_of_input_does_not_show() {
    let mut shuffled = with_anycast(two_peers(), &["198.51.100.9", "198.51.100.53", "2001:db8:a::53"]);
    shuffled.peers.reverse();
    assert_golden("anycast-added", &shuffled);
}

#[test]
fn ipv6_only() {
    let peers = vec![peer("tor1", "2001:db8:ffff::1", 64500)];
    assert_golden("ipv6-only", &node(&["2001:db8:1::/64"], peers));
}

#[test]
fn ipv4_only_and_an_internal_peer() {
    let peers = vec![peer("reflector", "192.0.2.254", 64512)];
    assert_golden("ipv4-only", &node(&["10.0.1.0/24"], peers));
}

#[test]
fn anycast_of_a_family_without_a_prefix() {
    let peers = vec![peer("tor1", "192.0.2.254", 64500)];
    let announcements = with_anycast(node(&["2001:db8:1::/64"], peers), &["198.51.100.53"]);
    assert_golden("anycast-without-prefix", &announcements);
}

#[test]
fn a_pod_outside_the_summaries() {
    let exceptions = ["2001:db8:9::7", "10.0.9.7"].map(|address| address.parse().unwrap()).into();
    assert_golden("exceptions", &Announcements { exceptions, ..two_peers() });
}

#[test]
fn no_peers() {
    assert_golden("no-peers", &node(&["2001:db8:1::/64", "10.0.1.0/24"], Vec::new()));
}

#[test]
fn nothing_at_all() {
    assert_golden("nothing", &node(&[], Vec::new()));
}

#[test]
fn bird_takes_every_golden_file() {
    let mut checked = 0;
    for entry in fs::read_dir(golden("x").parent().unwrap()).unwrap() {
        let path = entry.unwrap().path();
        let output =
            Command::new("bird").arg("-p").arg("-c").arg(&path).output().expect("bird2 is installed");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {said}", path.display());
        checked += 1;
    }
    assert_eq!(checked, 18, "as many as there are golden files");
}

/// What each peer is like that has nothing but its address set.
fn tor() -> Peer {
    peer("tor1", "2001:db8:ffff::1", 64500)
}

/// A dual-stack node with these peers.
fn with_peers(peers: Vec<Peer>) -> Announcements {
    node(&["2001:db8:1::/64", "10.0.1.0/24"], peers)
}

#[test]
fn where_a_session_goes_and_how_far() {
    let interface = || InterfaceName::new("eth1.5").unwrap();
    let address = "fe80::1".parse().unwrap();
    let numbered = Neighbor::LinkLocal { address, interface: interface() };
    let peers = vec![
        Peer { port: 1179, passive: true, ttl_security: true, ..tor() },
        Peer { local_address: Some([192, 0, 2, 1].into()), ..peer("tor2", "192.0.2.254", 64501) },
        Peer { multihop: Some(3), ttl_security: true, ..peer("far", "2001:db8:ffff::9", 64502) },
        Peer { ttl_security: true, ..peer("reflector", "2001:db8:ffff::8", 64512) },
        Peer::at("link-local", numbered, 64503),
        Peer::at("unnumbered", Neighbor::Unnumbered { interface: interface() }, 64504),
    ];
    assert_golden("transport", &with_peers(peers));
}

#[test]
fn when_a_peer_counts_as_gone() {
    let restart = GracefulRestart::Restart { restart_time: Some(60), stale_time: Some(3600) };
    let second = || peer("tor2", "192.0.2.254", 64501);
    let peers = vec![
        Peer { hold_time: 9, bfd: Some(Bfd::default()), graceful_restart: restart, ..tor() },
        Peer { hold_time: 0, graceful_restart: GracefulRestart::Helper, ..second() },
        Peer {
            keepalive_time: Some(5),
            bfd: Some(Bfd { min_rx_ms: 50, min_tx_ms: 100, multiplier: 5 }),
            graceful_restart: GracefulRestart::Disabled,
            ..peer("tor3", "192.0.2.253", 64501)
        },
    ];
    assert_golden("timers", &with_peers(peers));
}

#[test]
fn a_session_with_a_password() {
    let password = Password::new("a'b\\c #;{}").unwrap();
    assert_golden("password", &with_peers(vec![Peer { password: Some(password), ..tor() }]));
}

#[test]
fn both_families_over_one_session() {
    let families = || [Family::Ipv4, Family::Ipv6].into();
    let second = peer("tor2", "192.0.2.254", 64501);
    let peers = vec![Peer { families: families(), ..tor() }, Peer { families: families(), ..second }];
    assert_golden("families", &with_peers(peers));
}

#[test]
fn what_is_taken_of_what_peers_send() {
    let limited = |name: &str, host: u8, action| Peer {
        import: Import::None,
        max_prefixes: Some(MaxPrefixes { count: 10, action }),
        ..peer(name, &format!("192.0.2.{host}"), 64501)
    };
    let limit = MaxPrefixes { count: 1000, action: LimitAction::Restart };
    let peers = vec![
        Peer { import: Import::Default, max_prefixes: Some(limit), ..tor() },
        limited("tor2", 2, LimitAction::Disable),
        limited("tor3", 3, LimitAction::Block),
        limited("tor4", 4, LimitAction::Warn),
    ];
    assert_golden("import", &Announcements { maximum_paths: 4, ..with_peers(peers) });
}

#[test]
fn what_announcements_carry() {
    let communities = |low| [Community(64512, low)].into();
    let general = Export {
        all: Attributes { communities: communities(1), local_preference: Some(50), ..Attributes::default() },
        anycast: Attributes { communities: communities(2), ..Attributes::default() },
        ..Export::default()
    };
    let of_peer = Export {
        all: Attributes {
            communities: [Community::NO_EXPORT].into(),
            large_communities: [LargeCommunity(64512, 1, 2)].into(),
            med: Some(0),
            prepend: Some(2),
            ..Attributes::default()
        },
        exceptions: Attributes { med: Some(20), prepend: Some(0), ..Attributes::default() },
        ..Export::default()
    };
    let peers = vec![Peer { export: of_peer, ..tor() }, peer("reflector", "192.0.2.254", 64512)];
    let exceptions = ["2001:db8:9::7"].map(|address| address.parse().unwrap()).into();
    let announcements = with_anycast(with_peers(peers), &["2001:db8:a::53"]);
    assert_golden("export", &Announcements { export: general, exceptions, ..announcements });
}

/// Beside what is configured, in both phases.
#[test]
fn a_node_that_is_drained() {
    let all = Attributes { local_preference: Some(50), prepend: Some(2), ..Attributes::default() };
    let anycast = Attributes { communities: [Community(64512, 2)].into(), ..Attributes::default() };
    let export = Export { all, anycast, ..Export::default() };
    let peers = vec![tor(), peer("reflector", "192.0.2.254", 64512)];
    let node = Announcements { export, ..with_anycast(with_peers(peers), &["2001:db8:a::53"]) };
    assert_golden("drain-marked", &Announcements { drain: Some(DrainPhase::Marked), ..node.clone() });
    assert_golden("drain-withdrawn", &Announcements { drain: Some(DrainPhase::Withdrawn), ..node });
}

#[test]
fn one_path_for_each_prefix() {
    assert_golden("one-path", &Announcements { maximum_paths: 1, ..with_peers(vec![tor()]) });
}
