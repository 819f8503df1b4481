//! A node that is drained, as its routers see it.

use std::collections::BTreeSet;

use flock_core::announcer::{Announcements, RouteAnnouncer as _};
use flock_core::drain::DrainPhase;
use flock_core::node_config::Peer;

use crate::lab::{Bird, Lab, eventually, wanted};

const SESSIONS: [&str; 2] = ["outer", "inner"];
/// BIRD has one session with an address.
const NODE_INSIDE: &str = "2001:db8:ffff::4";
const PREFIXES: [&str; 2] = ["2001:db8:1::/64", "2001:db8:a::53/128"];

/// A router that is an external peer, and an internal one by another address; with a table for each.
fn lab() -> Lab {
    let session = |name: &str, local: &str, asn: u32, node: &str| {
        format!(
            "ipv6 table {name}6;
protocol static default_{name} {{ ipv6 {{ table {name}6; }}; route ::/0 blackhole; }}
protocol bgp {name} {{ local {local} as {asn}; neighbor {node} as 64512; direct;
  connect delay time 1; connect retry time 1; error wait time 1, 2;
  ipv6 {{ table {name}6; import all; export where source = RTS_STATIC; }}; }}\n"
        )
    };
    let sessions = session(SESSIONS[0], "2001:db8:ffff::1", 64500, "2001:db8:ffff::2")
        + &session(SESSIONS[1], "2001:db8:ffff::3", 64512, NODE_INSIDE);
    Lab::with_sessions(&sessions, |node, router| {
        router.ip("addr add 2001:db8:ffff::3/64 dev down0 nodad");
        node.ip(&format!("addr add {NODE_INSIDE}/64 dev up0 nodad"));
        node.ip("-6 route add blackhole 2001:db8:1::/64 proto 70");
        node.ip("-6 route add blackhole 2001:db8:a::53/128 proto 70 metric 8");
    })
}

fn node(drain: Option<DrainPhase>) -> Announcements {
    let peer = |name: &str, address: &str, asn| Peer::new(name, address.parse().unwrap(), asn);
    Announcements {
        peers: vec![
            peer(SESSIONS[0], "2001:db8:ffff::1", 64500),
            Peer {
                local_address: Some(NODE_INSIDE.parse().unwrap()),
                ..peer(SESSIONS[1], "2001:db8:ffff::3", 64512)
            },
        ],
        drain,
        ..wanted(&["2001:db8:a::53"])
    }
}

/// What the router has from the node by a session, with the attributes that a drain changes.
async fn received(router: &Bird, session: &str) -> BTreeSet<(String, BTreeSet<String>)> {
    let mut found = BTreeSet::new();
    for prefix in PREFIXES {
        let text = router.text(&format!("show route {prefix} all table {session}6")).await;
        if text.contains(prefix) {
            let attributes = ["BGP.as_path", "BGP.local_pref", "BGP.med", "BGP.community"];
            let lines = text.lines().map(str::trim);
            let lines = lines.filter(|line| attributes.iter().any(|name| line.starts_with(name)));
            found.insert((prefix.to_owned(), lines.map(str::to_owned).collect()));
        }
    }
    found
}

fn each(attributes: &[&str]) -> BTreeSet<(String, BTreeSet<String>)> {
    let attributes: BTreeSet<String> = attributes.iter().map(|line| (*line).to_owned()).collect();
    PREFIXES.iter().map(|prefix| ((*prefix).to_owned(), attributes.clone())).collect()
}

/// Marked, withdrawn, and back; sessions and what the node has learned stay as they are.
#[tokio::test]
async fn a_drain_marks_then_withdraws_and_is_undone() {
    let lab = lab();
    let (announcer, bird) = lab.speaking(&node(None)).await;
    let has = async |external: &BTreeSet<_>, internal: &BTreeSet<_>| {
        eventually(&format!("the router has {external:?} and {internal:?}"), async || {
            received(&lab.router, SESSIONS[0]).await == *external
                && received(&lab.router, SESSIONS[1]).await == *internal
        })
        .await;
    };
    let usual = [
        each(&["BGP.as_path: 64512", "BGP.local_pref: 100"]),
        each(&["BGP.as_path:", "BGP.local_pref: 100"]),
    ];
    let marked = [
        each(&[
            "BGP.as_path: 64512 64512 64512 64512",
            "BGP.local_pref: 100",
            "BGP.med: 4294967295",
            "BGP.community: (65535,0)",
        ]),
        each(&["BGP.as_path:", "BGP.local_pref: 0", "BGP.community: (65535,0)"]),
    ];
    let withdrawn = [BTreeSet::new(), BTreeSet::new()];
    has(&usual[0], &usual[1]).await;
    eventually("the node has learned", async || lab.node.routes_by_bird().contains("default")).await;
    let mut since = Vec::new();
    for session in SESSIONS {
        since.push(bird.since(&format!("peer_{session}")).await);
    }
    for (phase, [external, internal]) in [
        (Some(DrainPhase::Marked), &marked),
        (Some(DrainPhase::Withdrawn), &withdrawn),
        (None, &usual),
        (Some(DrainPhase::Withdrawn), &withdrawn),
        (Some(DrainPhase::Marked), &marked),
        (None, &usual),
    ] {
        announcer.sync(&node(phase)).await.unwrap();
        has(external, internal).await;
        assert!(lab.node.routes_by_bird().contains("default"), "{phase:?}");
    }
    for (session, since) in SESSIONS.iter().zip(since) {
        assert_eq!(bird.since(&format!("peer_{session}")).await, since, "{session}");
    }
}
