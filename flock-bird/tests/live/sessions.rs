//! What passes between the kernel, BIRD and the router.

use std::collections::BTreeSet;

use flock_bird::BirdAnnouncer;
use flock_core::announcer::RouteAnnouncer as _;

use crate::lab::{Lab, Router, STANDBY, WITHDRAWING, eventually, wanted};

#[tokio::test]
async fn exactly_flocks_own_routes_are_announced_and_sessions_stay() {
    let lab = Lab::new(&[]);
    let (announcer, bird) = lab.announcing(&wanted(&[])).await;
    let before = (bird.since("peer_tor-v4").await, bird.since("peer_tor-v6").await);

    lab.node.ip("route add blackhole 10.0.1.0/24 proto 70");
    lab.node.ip("-6 route add blackhole 2001:db8:1::/64 proto 70");
    lab.router_has(&["10.0.1.0/24", "2001:db8:1::/64"]).await;

    // What must not be announced comes first: whatever BIRD would do with it, it does before
    // it does something with the anycast routes, which are awaited.
    for foreign in [
        "route add 10.0.1.5/32 dev lo proto 70",
        "-6 route add 2001:db8:1::5/128 dev lo proto 70",
        "route add 198.18.0.0/24 dev up0 proto static",
        "-6 route add 2001:db8:bad::/48 dev up0 proto static",
        "route add 198.51.100.66/32 dev up0 proto static",
        "-6 route add 2001:db8:a::66/128 dev up0 proto static",
        "addr add 198.18.1.1/24 dev up0",
    ] {
        lab.node.ip(foreign);
    }
    let anycast = ["198.51.100.53", "2001:db8:a::53", "198.51.100.66", "2001:db8:a::66"];
    announcer.sync(&wanted(&anycast)).await.unwrap();
    lab.node.ip("route add 198.51.100.53/32 dev lo proto 70");
    lab.node.ip("-6 route add 2001:db8:a::53/128 dev lo proto 70");
    announcer.applied().await.unwrap();
    let everything = ["10.0.1.0/24", "2001:db8:1::/64", "198.51.100.53/32", "2001:db8:a::53/128"];
    lab.router_has(&everything).await;

    // Gone from the wanted state, or gone from the kernel: each alone withdraws.
    announcer.sync(&wanted(&["2001:db8:a::53"])).await.unwrap();
    lab.router_has(&["10.0.1.0/24", "2001:db8:1::/64", "2001:db8:a::53/128"]).await;
    lab.node.ip("-6 route del 2001:db8:a::53/128 dev lo proto 70");
    lab.router_has(&["10.0.1.0/24", "2001:db8:1::/64"]).await;
    announcer.sync(&wanted(&anycast)).await.unwrap();
    lab.router_has(&["10.0.1.0/24", "2001:db8:1::/64", "198.51.100.53/32"]).await;

    // A summary more, and one less.
    let mut renumbered = wanted(&anycast);
    renumbered.summaries.remove(&"10.0.1.0/24".parse().unwrap());
    renumbered.summaries.insert("10.0.2.0/24".parse().unwrap());
    lab.node.ip("route add blackhole 10.0.2.0/24 proto 70");
    announcer.sync(&renumbered).await.unwrap();
    lab.router_has(&["10.0.2.0/24", "2001:db8:1::/64", "198.51.100.53/32"]).await;

    let after = (bird.since("peer_tor-v4").await, bird.since("peer_tor-v6").await);
    assert_eq!(after, before, "a session was reset");
}

/// The states of an anycast route follow one another as the kernel gets them: the new one first.
#[tokio::test]
async fn only_routes_of_announced_metrics_are_announced() {
    const ANNOUNCED: u32 = 8;
    let served = ["198.51.100.53/32", "2001:db8:a::53/128"];
    // Another node serves the same.
    let lab = Lab::new(&served);
    let (announcer, _bird) = lab.announcing(&wanted(&["198.51.100.53", "2001:db8:a::53"])).await;
    let change = |verb: &str, metric: u32| {
        for prefix in served {
            lab.node.ip(&format!("route {verb} {prefix} dev lo proto 70 metric {metric}"));
        }
    };
    change("add", ANNOUNCED);
    let mut before = ANNOUNCED;
    lab.router_has(&served).await;
    for metric in [WITHDRAWING, STANDBY, ANNOUNCED, WITHDRAWING, ANNOUNCED, STANDBY, ANNOUNCED] {
        change("add", metric);
        change("del", before);
        before = metric;
        if metric == ANNOUNCED {
            lab.router_has(&served).await;
            continue;
        }
        lab.router_has(&[]).await;
        for prefix in served {
            let family = if prefix.contains(':') { "-6" } else { "-4" };
            // The way that the node knows by BGP, and the one that packets take.
            eventually(&format!("the other node's route to {prefix}"), async || {
                lab.node.ip(&format!("{family} route show {prefix} proto bird")).contains("dev up0")
            })
            .await;
            let address = prefix.split('/').next().unwrap();
            let taken = lab.node.ip(&format!("route get {address}"));
            let expected = if metric == WITHDRAWING { "dev lo" } else { "dev up0" };
            assert!(taken.contains(expected), "{metric}: {taken}");
        }
    }
    announcer.applied().await.unwrap();
}

#[tokio::test]
async fn anycast_changes_leave_the_session_with_a_peer_that_knows_no_route_refresh() {
    let lab = Lab::with_router(Router { asn: 64500, options: "enable route refresh off;" }, &[]);
    let (announcer, bird) = lab.announcing(&wanted(&[])).await;
    let before = (bird.since("peer_tor-v4").await, bird.since("peer_tor-v6").await);
    lab.node.ip("route add 198.51.100.53/32 dev lo proto 70");
    lab.node.ip("-6 route add 2001:db8:a::53/128 dev lo proto 70");
    for _ in 0..2 {
        announcer.sync(&wanted(&["198.51.100.53", "2001:db8:a::53"])).await.unwrap();
        lab.router_has(&["198.51.100.53/32", "2001:db8:a::53/128"]).await;
        announcer.sync(&wanted(&[])).await.unwrap();
        lab.router_has(&[]).await;
    }
    let after = (bird.since("peer_tor-v4").await, bird.since("peer_tor-v6").await);
    assert_eq!(after, before, "a session was reset");
}

#[tokio::test]
async fn an_announcer_that_is_started_again_changes_nothing() {
    let lab = Lab::new(&[]);
    lab.node.ip("route add blackhole 10.0.1.0/24 proto 70");
    let (announcer, bird) = lab.announcing(&wanted(&[])).await;
    lab.router_has(&["10.0.1.0/24"]).await;
    let written = || std::fs::metadata(lab.config().config_path).unwrap().modified().unwrap();
    let before = (bird.since("peer_tor-v4").await, bird.since("peer_tor-v6").await, written());
    drop(announcer);
    let announcer = BirdAnnouncer::start(&lab.config()).unwrap();
    announcer.sync(&wanted(&[])).await.unwrap();
    announcer.applied().await.unwrap();
    lab.router_has(&["10.0.1.0/24"]).await;
    let after = (bird.since("peer_tor-v4").await, bird.since("peer_tor-v6").await, written());
    assert_eq!(after, before);
}

#[tokio::test]
async fn internal_peers_exchange_routes_too() {
    let lab = Lab::with_router(Router { asn: 64512, options: "" }, &["203.0.113.0/24"]);
    lab.node.ip("route add blackhole 10.0.1.0/24 proto 70");
    lab.node.ip("-6 route add 2001:db8:a::53/128 dev lo proto 70");
    let mut internal = wanted(&["2001:db8:a::53"]);
    internal.peers.iter_mut().for_each(|peer| peer.asn = 64512);
    let (_announcer, _bird) = lab.announcing(&internal).await;
    lab.router_has(&["10.0.1.0/24", "2001:db8:a::53/128"]).await;
    let expected = BTreeSet::from(["203.0.113.0/24".to_owned()]);
    eventually("its route is in the kernel", async || lab.node.routes_by_bird() == expected).await;
}

#[tokio::test]
async fn the_routers_routes_reach_the_kernel_without_the_nodes_own() {
    let own = ["10.0.1.0/24", "10.0.1.128/25", "10.0.1.7/32", "2001:db8:1::/64", "2001:db8:1::7/128"];
    let foreign = ["203.0.113.0/24", "2001:db8:cafe::/48"];
    let lab = Lab::new(&[own.as_slice(), foreign.as_slice()].concat());
    let (_announcer, bird) = lab.announcing(&wanted(&[])).await;
    let foreign = BTreeSet::from(foreign.map(str::to_owned));
    // The router sends its routes in one order: once the last one is here, all were looked at.
    eventually("both foreign routes are in the kernel, alone", async || lab.node.routes_by_bird() == foreign)
        .await;
    lab.router_announces(&[own.as_slice(), &["203.0.113.0/24", "192.88.99.0/24"]].concat()).await;
    let changed = BTreeSet::from(["203.0.113.0/24", "192.88.99.0/24"].map(str::to_owned));
    eventually("the change is in the kernel, alone", async || lab.node.routes_by_bird() == changed).await;
    let from_router = bird.routes_of("peer_tor-v6").await;
    assert!(from_router.is_empty(), "imported {from_router:?}");
}

#[tokio::test]
async fn the_nodes_own_anycast_wins_and_another_nodes_takes_over_when_it_ends() {
    let elsewhere = ["198.51.100.53/32", "2001:db8:a::53/128"];
    let lab = Lab::new(&elsewhere);
    let (announcer, bird) = lab.announcing(&wanted(&[])).await;
    let by_bird = BTreeSet::from(["198.51.100.53", "2001:db8:a::53"].map(str::to_owned));
    eventually("the other node's addresses are in the kernel", async || lab.node.routes_by_bird() == by_bird)
        .await;
    let before = (bird.since("peer_tor-v4").await, bird.since("peer_tor-v6").await);

    announcer.sync(&wanted(&["198.51.100.53", "2001:db8:a::53"])).await.unwrap();
    lab.node.ip("route add 198.51.100.53/32 dev lo proto 70");
    lab.node.ip("-6 route add 2001:db8:a::53/128 dev lo proto 70");
    lab.router_has(&elsewhere).await;
    eventually("only the node's own route is left in the kernel", async || {
        lab.node.routes_by_bird().is_empty()
    })
    .await;

    // Without another word from the announcer.
    lab.node.ip("route del 198.51.100.53/32 dev lo proto 70");
    lab.node.ip("-6 route del 2001:db8:a::53/128 dev lo proto 70");
    lab.router_has(&[]).await;
    eventually("the other node's are back", async || lab.node.routes_by_bird() == by_bird).await;
    assert_eq!((bird.since("peer_tor-v4").await, bird.since("peer_tor-v6").await), before);
}
