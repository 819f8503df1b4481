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
use flock_core::node_config::Peer;

const ROUTE_PROTOCOL: u8 = 70;

fn peer(name: &str, address: &str, asn: u32) -> Peer {
    Peer { name: name.to_owned(), address: address.parse().unwrap(), asn }
}

fn node(summaries: &[&str], peers: Vec<Peer>) -> Announcements {
    Announcements {
        asn: 64512,
        router_id: Ipv4Addr::new(192, 0, 2, 1),
        peers,
        summaries: summaries.iter().map(|prefix| prefix.parse().unwrap()).collect(),
        anycast: [].into(),
        standby: [].into(),
        exceptions: [].into(),
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
    let text = Renderer::new(ROUTE_PROTOCOL).unwrap().render(announcements).unwrap();
    let path = golden(name);
    if env::var_os("FLOCK_UPDATE_GOLDEN").is_some_and(|value| value == "1") {
        fs::write(&path, &text).unwrap();
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
    assert_eq!(checked, 8, "as many as there are golden files");
}
