//! The recipes of `docs/recipes.md`, executed: nodes with what their side says, and a router on which
//! BIRD, FRR or GoBGP runs with what the other side says.

use std::collections::BTreeSet;

use flock_bird::protocols;
use flock_core::drain::DrainPhase;
use flock_core::node_config::Password;
use ipnet::IpNet;

use self::document::Recipe;
use self::rack::Rack;
use self::route::{Route, Routes};
use self::router::Speaker;
use crate::lab::eventually;
use crate::watch::RouteWatch;

mod document;
mod frr;
mod gobgp;
mod rack;
mod route;
mod router;

/// A test for each recipe and speaker, and the list of both.
macro_rules! executed {
    ($($scene:ident($title:literal): $($test:ident $speaker:ident),+;)+) => {
        $($(
            #[tokio::test]
            async fn $test() {
                $scene(&Recipe::of($title, Speaker::$speaker.name()), Speaker::$speaker).await;
            }
        )+)+

        const EXECUTED: &[(&str, Speaker)] = &[$($(($title, Speaker::$speaker)),+),+];
    };
}

executed! {
    top_of_rack("Top-of-rack router"):
        top_of_rack_bird Bird, top_of_rack_frr Frr, top_of_rack_gobgp Gobgp;
    rack_of_nodes("Rack of nodes"):
        rack_of_nodes_bird Bird, rack_of_nodes_frr Frr, rack_of_nodes_gobgp Gobgp;
    route_reflector("Route reflector"):
        route_reflector_bird Bird, route_reflector_frr Frr, route_reflector_gobgp Gobgp;
    one_session("One session for both families"):
        one_session_bird Bird, one_session_frr Frr, one_session_gobgp Gobgp;
    unnumbered("Unnumbered"):
        unnumbered_bird Bird, unnumbered_frr Frr, unnumbered_gobgp Gobgp;
    guarded("Password and TTL security"):
        guarded_bird Bird, guarded_frr Frr, guarded_gobgp Gobgp;
    bfd("BFD"):
        bfd_bird Bird, bfd_frr Frr;
    graceful_restart("Graceful restart"):
        graceful_restart_bird Bird, graceful_restart_frr Frr, graceful_restart_gobgp Gobgp;
    maintenance("Communities and maintenance"):
        maintenance_bird Bird, maintenance_frr Frr, maintenance_gobgp Gobgp;
}

#[test]
fn every_recipe_of_the_document_is_executed() {
    for (title, blocks) in document::recipes() {
        let executed = EXECUTED.iter().filter(|(executed, _)| *executed == title);
        let mut expected: Vec<String> = executed
            .flat_map(|(_, speaker)| {
                let language = if *speaker == Speaker::Gobgp { "toml" } else { "text" };
                [format!("{language} {}", speaker.name()), format!("sh {}", speaker.name())]
            })
            .collect();
        expected.push("yaml node".to_owned());
        let sorted = |mut list: Vec<String>| {
            list.sort();
            list
        };
        assert_eq!(sorted(blocks), sorted(expected), "the blocks of {title:?}, and those that tests execute");
    }
}

async fn top_of_rack(recipe: &Recipe, speaker: Speaker) {
    let rack = Rack::start(recipe, speaker, 1).await;
    let node = &rack.nodes[0];
    rack.router_has(&node.own()).await;
    rack.commands_show("2001:db8:1:1::/64").await;
    node.takes(&["default via 192.0.2.1", "default via 2001:db8:ffff::1"]).await;
}

async fn rack_of_nodes(recipe: &Recipe, speaker: Speaker) {
    let mut rack = Rack::start(recipe, speaker, 2).await;
    let mut both = rack.nodes[0].own();
    for (prefix, paths) in rack.nodes[1].own() {
        both.entry(prefix).or_default().extend(paths);
    }
    rack.router_has(&both).await;
    rack.commands_show("2001:db8:1:2::/64").await;
    for node in &rack.nodes {
        node.takes(&["default via 192.0.2.1", "default via 2001:db8:ffff::1"]).await;
    }
    if speaker != Speaker::Gobgp {
        for address in ["198.51.100.53", "2001:db8:a::53"] {
            let ways = async || {
                let family = if address.contains(':') { "-6" } else { "-4" };
                let shown = rack.router.host.namespace.ip(&format!("{family} route show {address}"));
                shown.matches(" via ").count() == 2
            };
            eventually(&format!("two ways to {address}"), ways).await;
        }
    }

    // Neither what is somebody else's, nor what has another length. One more that may be shows when.
    let others = [
        "203.0.113.0/24",
        "2001:db8:bad::/64",
        "2001:db8:a::/64",
        "2001:db8:1:9:8::/80",
        "10.0.9.0/25",
        "198.51.100.64/26",
    ];
    let one_more: [IpNet; 2] = ["10.0.9.0/24", "2001:db8:1:9::/64"].map(|prefix| prefix.parse().unwrap());
    rack.nodes[1].announce_also(others.map(|prefix| prefix.parse().unwrap())).await;
    rack.nodes[1].announce_also(one_more).await;
    both.insert(one_more[0], [Route::via("192.0.2.12")].into());
    both.insert(one_more[1], [Route::via("2001:db8:ffff::12")].into());
    rack.router_has(&both).await;

    // Nor more than is agreed upon; the other node does not suffer.
    let many = (1..=120)
        .flat_map(|number| [format!("10.0.{}.0/24", number + 100), format!("2001:db8:1:a{number}::/64")]);
    rack.nodes[1].announce_also(many.map(|prefix| prefix.parse().unwrap())).await;
    rack.router_has(&rack.nodes[0].own()).await;
}

async fn route_reflector(recipe: &Recipe, speaker: Speaker) {
    let rack = Rack::start(recipe, speaker, 2).await;
    let mut both = rack.nodes[0].own();
    for (prefix, paths) in rack.nodes[1].own() {
        both.entry(prefix).or_default().extend(paths);
    }
    let internal = |paths: BTreeSet<Route>| {
        paths.into_iter().map(|path| Route { as_path: vec![], local_preference: 200, ..path })
    };
    let both = both.into_iter().map(|(prefix, paths)| (prefix, internal(paths).collect())).collect();
    rack.router_has(&both).await;
    rack.commands_show("2001:db8:1:2::/64").await;
    rack.nodes[0].takes(&["10.0.2.0/24 via 192.0.2.12", "2001:db8:1:2::/64 via 2001:db8:ffff::12"]).await;
    rack.nodes[1].takes(&["10.0.1.0/24 via 192.0.2.11", "2001:db8:1:1::/64 via 2001:db8:ffff::11"]).await;
}

async fn one_session(recipe: &Recipe, speaker: Speaker) {
    let rack = Rack::start(recipe, speaker, 1).await;
    let node = &rack.nodes[0];
    rack.router_has(&node.own_via("2001:db8:ffff::11", "2001:db8:ffff::11")).await;
    rack.commands_show("10.0.1.0/24").await;
    node.takes(&["default via inet6 2001:db8:ffff::1", "default via 2001:db8:ffff::1"]).await;
}

async fn unnumbered(recipe: &Recipe, speaker: Speaker) {
    let rack = Rack::unnumbered(recipe, speaker).await;
    let node = &rack.nodes[0];
    // GoBGP has the first of the two next hops alone, of which the second is the node's.
    let next_hop = if speaker == Speaker::Gobgp { "::" } else { "fe80::11" };
    rack.router_has(&node.own_via(next_hop, next_hop)).await;
    rack.commands_show("10.0.1.0/24").await;
    node.takes(&["default via inet6 fe80::", "default via fe80::"]).await;
    if speaker != Speaker::Gobgp {
        for (prefix, way) in [
            ("-6 2001:db8:1:1::/64", "via fe80::11 dev swp1"),
            ("-4 10.0.1.0/24", "via inet6 fe80::11 dev swp1"),
        ] {
            let (family, prefix) = prefix.split_once(' ').unwrap();
            eventually(&format!("{prefix} {way} in the router's kernel"), async || {
                rack.router.host.namespace.ip(&format!("{family} route show {prefix}")).contains(way)
            })
            .await;
        }
    }
}

async fn guarded(recipe: &Recipe, speaker: Speaker) {
    let mut rack = Rack::start(recipe, speaker, 1).await;
    let own = rack.nodes[0].own();
    rack.router_has(&own).await;
    rack.commands_show("2001:db8:1:1::/64").await;
    rack.nodes[0].takes(&["default via 2001:db8:ffff::1"]).await;

    rack.nodes[0].change(|wanted| wanted.peers[0].password = Some(Password::new("another").unwrap())).await;
    rack.router_has(&Routes::new()).await;
    rack.nodes[0]
        .change(|wanted| wanted.peers[0].password = Some(Password::new(document::password()).unwrap()))
        .await;
    rack.router_has(&own).await;
    rack.nodes[0].change(|wanted| wanted.peers[0].ttl_security = false).await;
    rack.router_has(&Routes::new()).await;
}

async fn bfd(recipe: &Recipe, speaker: Speaker) {
    let rack = Rack::start(recipe, speaker, 1).await;
    let node = &rack.nodes[0];
    rack.router_has(&node.own()).await;
    rack.commands_show("2001:db8:1:1::/64").await;
    node.takes(&["default via 2001:db8:ffff::1"]).await;
    eventually("BFD is up on both sides", async || {
        node.bird().text("show bfd sessions").await.contains(" Up ")
            && rack.commands_shown().to_lowercase().contains(" up ")
    })
    .await;

    // The links stay up and lose everything, long before the hold time of 90 s is over.
    for (namespace, interface) in [(&rack.router.host.namespace, "port1"), (&node.namespace, "eth0")] {
        let lose = format!("qdisc add dev {interface} root tbf rate 8bit burst 1 limit 1");
        namespace.output("tc", &lose.split(' ').collect::<Vec<_>>());
    }
    rack.router_has(&Routes::new()).await;
    node.takes(&[]).await;
}

async fn graceful_restart(recipe: &Recipe, speaker: Speaker) {
    let mut rack = Rack::start(recipe, speaker, 1).await;
    let own = rack.nodes[0].own();
    rack.router_has(&own).await;
    rack.commands_show("2001:db8:1:1::/64").await;
    rack.nodes[0].takes(&["default via 2001:db8:ffff::1"]).await;

    // The node's BIRD: the router has its routes all the time.
    rack.nodes[0].restart_bird().await;
    eventually("the session is there again", async || {
        assert_eq!(rack.router.routes().await, own, "the router lost a route");
        rack.nodes[0].bird().is_established("peer_tor1").await
    })
    .await;
    eventually("BIRD has recovered", async || {
        assert_eq!(rack.router.routes().await, own, "the router lost a route");
        !rack.nodes[0].bird().text("show status").await.contains("Graceful restart recovery in progress")
    })
    .await;
    if speaker == Speaker::Gobgp {
        return;
    }

    // The router's speaker: the node's kernel has its route all the time.
    let routes = RouteWatch::begin(&rack.nodes[0].namespace).await;
    let since = rack.nodes[0].bird().since("peer_tor1").await;
    rack.router.crash().await;
    rack.router_has(&own).await;
    eventually("another session, in which the router has said everything anew", async || {
        let bird = rack.nodes[0].bird();
        let known = protocols::protocols(bird.client()).await.unwrap().known;
        let peer = known.iter().find(|protocol| protocol.name == "peer_tor1").unwrap();
        bird.since("peer_tor1").await != since
            && bird.is_established("peer_tor1").await
            && !peer.bgp.as_ref().unwrap().graceful_restart_active
    })
    .await;
    rack.nodes[0].takes(&["default via 2001:db8:ffff::1"]).await;
    routes.assert_kept(&rack.nodes[0].namespace, &["default"]).await;
}

async fn maintenance(recipe: &Recipe, speaker: Speaker) {
    let mut rack = Rack::start(recipe, speaker, 1).await;
    let carried = |own: Routes, local_preference, also: &[(u16, u16)]| -> Routes {
        let path = |prefix: IpNet, path: Route| {
            let (med, kind) = if prefix.prefix_len() == prefix.max_prefix_len() {
                (20, Some((64512, 200)))
            } else {
                (0, None)
            };
            let communities = [(64512, 100)].into_iter().chain(kind).chain(also.iter().copied()).collect();
            Route { local_preference, med, communities, ..path }
        };
        own.into_iter()
            .map(|(prefix, paths)| (prefix, paths.into_iter().map(|found| path(prefix, found)).collect()))
            .collect()
    };
    let own = rack.nodes[0].own();
    rack.router_has(&carried(own.clone(), 100, &[])).await;
    rack.commands_show("2001:db8:1:1::/64").await;
    rack.nodes[0].takes(&["default via 192.0.2.1", "default via 2001:db8:ffff::1"]).await;

    rack.nodes[0].change(|wanted| wanted.drain = Some(DrainPhase::Marked)).await;
    let least = u32::from(speaker == Speaker::Gobgp);
    let with_mark = |path: Route| Route { med: u32::MAX, as_path: vec![64512; 4], ..path };
    let marked = carried(own, least, &[(65535, 0)]).into_iter();
    let marked = marked.map(|(prefix, paths)| (prefix, paths.into_iter().map(with_mark).collect()));
    rack.router_has(&marked.collect()).await;
    rack.nodes[0].change(|wanted| wanted.drain = Some(DrainPhase::Withdrawn)).await;
    rack.router_has(&Routes::new()).await;
}
