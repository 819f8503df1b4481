//! What can be set of a peer, with a router that has the other end of it.

use std::collections::BTreeSet;
use std::fs;

use flock_bird::peers::{PeerObserver, Peers};
use flock_bird::render::Renderer;
use flock_bird::verdict;
use flock_core::announcer::{Announcements, RouteAnnouncer as _};
use flock_core::name::InterfaceName;
use flock_core::node_config::{
    Attributes, Bfd, Community, Export, Family, GracefulRestart, Import, LargeCommunity, LimitAction,
    MaxPrefixes, Neighbor, Password, Peer,
};
use ipnet::IpNet;

use crate::lab::{Bird, Lab, Namespace, eventually, router_config, wanted};

/// The router's end of a session by IPv6, with more options and these channels.
fn session(options: &str, channels: &str) -> String {
    format!(
        "protocol bgp node {{ local as 64500; neighbor 2001:db8:ffff::2 as 64512; connect delay time 1;
  connect retry time 1; error wait time 1, 2; {options} {channels} }}\n"
    )
}

const IPV6: &str = "ipv6 { import all; export where source = RTS_STATIC; };";

fn tor() -> Peer {
    Peer::new("tor", "2001:db8:ffff::1".parse().unwrap(), 64500)
}

fn node_with(peer: Peer) -> Announcements {
    Announcements { peers: vec![peer], ..wanted(&[]) }
}

/// Puts the node's summaries into the kernel, as the dataplane does.
fn install_summaries(lab: &Lab) {
    lab.node.ip("route add blackhole 10.0.1.0/24 proto 70");
    lab.node.ip("-6 route add blackhole 2001:db8:1::/64 proto 70");
}

async fn established(bird: &Bird, session: &str) {
    eventually(session, async || bird.is_established(session).await).await;
}

#[tokio::test]
async fn a_session_needs_the_password_of_both_sides() {
    let lab = Lab::with_sessions(&session("password \"a'b\\c #;{}\";", IPV6), |_, _| {});
    let with = |password: Option<&str>| {
        node_with(Peer { password: password.map(|text| Password::new(text).unwrap()), ..tor() })
    };
    let (announcer, bird) = lab.speaking(&with(Some("a'b\\c #;{}"))).await;
    established(&bird, "peer_tor").await;
    for wrong in [Some("another"), None] {
        let refused = || md5_failures(&lab.node);
        let before = refused();
        announcer.sync(&with(wrong)).await.unwrap();
        eventually("the kernel drops what is signed otherwise", async || refused() > before).await;
        assert!(!bird.is_established("peer_tor").await, "{wrong:?}");
    }
    announcer.sync(&with(Some("a'b\\c #;{}"))).await.unwrap();
    established(&bird, "peer_tor").await;
}

/// Validation makes sure that BIRD refuses nothing of it; should it do so once, its words may quote
/// what stands near.
#[tokio::test]
async fn what_bird_says_of_a_wrong_configuration_shows_no_password() {
    let lab = Lab::with_sessions(&session("", IPV6), |_, _| {});
    let with_password = Peer { password: Some(Password::new("geheim-1").unwrap()), ..tor() };
    let text = Renderer::new(70).unwrap().render(&node_with(with_password)).unwrap();
    let path = lab.directory.path().join("wrong.conf");
    for (right, wrong) in [
        ("geheim-1\";", "geheim-1\""),
        ("geheim-1\";", "geheim-1;"),
        ("password \"geheim-1\";", "password 'geheim-1';"),
        ("password \"geheim-1\";", "password \"geheim-1\"; geheim-1;"),
        ("  password \"geheim-1\";", "  password \"geheim-1\";\n  include \"geheim-1\";"),
        ("  password \"geheim-1\";", "  password \"geheim-1\";\n}\n'geheim-1' {"),
    ] {
        let wrong = text.replace(right, wrong);
        assert_ne!(wrong, text, "{right}");
        fs::write(&path, &wrong).unwrap();
        let reply = lab.router.ask(&format!("configure check \"{}\"", path.display())).await;
        // The password is that of the configuration as it was meant.
        let error = verdict::of_check(&reply, &text).unwrap_err().to_string();
        assert!(error.contains("wrong.conf") && !error.contains("geheim-1"), "{error}");
    }
}

/// How many segments were dropped for their signature, or for having none.
fn md5_failures(namespace: &Namespace) -> u64 {
    ["TCPMD5NotFound", "TCPMD5Unexpected", "TCPMD5Failure"].map(|name| counter(namespace, name)).iter().sum()
}

/// A counter of the kernel for TCP.
fn counter(namespace: &Namespace, name: &str) -> u64 {
    let text = namespace.output("cat", &["/proc/self/net/netstat"]);
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split(' ').collect()).collect();
    let at = lines[0].iter().position(|found| *found == name).unwrap();
    lines[1][at].parse().unwrap()
}

#[tokio::test]
async fn ttl_security_drops_what_comes_from_further_away() {
    let lab = Lab::with_sessions(&session("", IPV6), |_, _| {});
    let (_announcer, bird) = lab.speaking(&node_with(Peer { ttl_security: true, ..tor() })).await;
    let dropped = async || counter(&lab.node, "TCPMinTTLDrop") > 0;
    eventually("packets of a router without it are dropped", dropped).await;
    assert!(!bird.is_established("peer_tor").await);

    // Two ends that have it from the beginning: TCP gives packets that were dropped more and
    // more time.
    let lab = Lab::with_sessions(&session("ttl security on;", IPV6), |_, _| {});
    let (_announcer, bird) = lab.speaking(&node_with(Peer { ttl_security: true, ..tor() })).await;
    established(&bird, "peer_tor").await;
}

#[tokio::test]
async fn both_families_share_a_session_with_next_hops_of_ipv6() {
    let channels = "ipv6 { import all; export where source = RTS_STATIC; };
  ipv4 { extended next hop; import all; export where source = RTS_STATIC; };";
    let routes = "protocol static { ipv4; route 203.0.113.0/24 blackhole; }
protocol static { ipv6; route 2001:db8:cafe::/48 blackhole; }\n";
    let lab = Lab::with_sessions(&(routes.to_owned() + &session("", channels)), |_, _| {});
    install_summaries(&lab);
    let (_announcer, bird) = lab.speaking(&node_with(Peer { families: Family::ALL.into(), ..tor() })).await;
    established(&bird, "peer_tor").await;
    let both = ["10.0.1.0/24", "2001:db8:1::/64"].map(|prefix| prefix.parse().unwrap());
    eventually("the router has both", async || {
        let mut found = lab.router.routes_of("node").await;
        found.extend(lab.router.ask("show route table master4 protocol node").await.lines().filter_map(
            |line| line.text.split_whitespace().next().and_then(|word| word.parse::<IpNet>().ok()),
        ));
        found == BTreeSet::from(both)
    })
    .await;
    let attributes = lab.router.text("show route 10.0.1.0/24 all").await;
    assert!(attributes.contains("BGP.next_hop: 2001:db8:ffff::2"), "{attributes}");
    let in_kernel = || lab.node.ip("-4 route show proto bird");
    eventually("the kernel has IPv4 by IPv6", async || {
        in_kernel().contains("203.0.113.0/24 via inet6 2001:db8:ffff::1")
    })
    .await;
}

#[tokio::test]
async fn announcements_carry_what_is_said_of_their_kind() {
    let lab = Lab::with_sessions(&session("", IPV6), |_, _| {});
    lab.node.ip("-6 route add blackhole 2001:db8:1::/64 proto 70");
    for host in ["2001:db8:a::53", "2001:db8:9::7"] {
        lab.node.ip(&format!("-6 route add {host}/128 dev lo proto 70"));
    }
    let all = Attributes {
        communities: [Community::NO_EXPORT].into(),
        med: Some(30),
        prepend: Some(1),
        ..Attributes::default()
    };
    let general = Export { all, ..Export::default() };
    let of_peer = Export {
        summaries: Attributes { med: Some(0), prepend: Some(0), ..Attributes::default() },
        anycast: Attributes {
            communities: [Community(64512, 2)].into(),
            large_communities: [LargeCommunity(64512, 1, 4_294_967_295)].into(),
            med: Some(4_294_967_295),
            ..Attributes::default()
        },
        exceptions: Attributes { prepend: Some(3), ..Attributes::default() },
        ..Export::default()
    };
    let exceptions = ["2001:db8:9::7".parse().unwrap()].into();
    let anycast = ["2001:db8:a::53".parse().unwrap()].into();
    let node = Announcements {
        export: general,
        exceptions,
        anycast,
        ..node_with(Peer { export: of_peer, ..tor() })
    };
    let (announcer, bird) = lab.speaking(&node).await;
    established(&bird, "peer_tor").await;
    let three =
        ["2001:db8:1::/64", "2001:db8:a::53/128", "2001:db8:9::7/128"].map(|net| net.parse().unwrap());
    eventually("the router has all", async || lab.router.routes_of("node").await == three.into()).await;
    for (prefix, expected) in [
        ("2001:db8:1::/64", ["as_path: 64512", "med: 0", "community: (65535,65281)"].as_slice()),
        (
            "2001:db8:a::53/128",
            &[
                "as_path: 64512 64512",
                "med: 4294967295",
                "community: (64512,2) (65535,65281)",
                "large_community: (64512, 1, 4294967295)",
            ],
        ),
        ("2001:db8:9::7/128", &["as_path: 64512 64512 64512 64512", "med: 30", "community: (65535,65281)"]),
    ] {
        let expected: BTreeSet<String> = expected.iter().map(|line| format!("BGP.{line}")).collect();
        assert_eq!(carried(&lab.router, prefix).await, expected, "{prefix}");
    }

    // Another attribute is told without a word to the session.
    let since = bird.since("peer_tor").await;
    announcer.sync(&Announcements { export: Export::default(), ..node }).await.unwrap();
    let without = BTreeSet::from(["BGP.as_path: 64512".to_owned(), "BGP.med: 0".to_owned()]);
    eventually("what was said of all is gone", async || {
        carried(&lab.router, "2001:db8:1::/64").await == without
    })
    .await;
    assert_eq!(bird.since("peer_tor").await, since);
}

/// The attributes that a node can set, as the router has them.
async fn carried(router: &Bird, prefix: &str) -> BTreeSet<String> {
    let text = router.text(&format!("show route {prefix} all protocol node")).await;
    let said = text.lines().map(str::trim);
    let ours = said.filter(|line| {
        ["BGP.as_path", "BGP.med", "BGP.community", "BGP.large"].iter().any(|name| line.starts_with(name))
    });
    ours.map(str::to_owned).collect()
}

#[tokio::test]
async fn internal_peers_get_a_local_preference() {
    let internal = session("", IPV6).replace("local as 64500", "local as 64512");
    let lab = Lab::with_sessions(&internal, |_, _| {});
    lab.node.ip("-6 route add blackhole 2001:db8:1::/64 proto 70");
    let all = Attributes { local_preference: Some(250), prepend: Some(2), ..Attributes::default() };
    let node = Announcements {
        export: Export { all, ..Export::default() },
        ..node_with(Peer { asn: 64512, ttl_security: false, ..tor() })
    };
    let (_announcer, bird) = lab.speaking(&node).await;
    established(&bird, "peer_tor").await;
    eventually("it has the preference", async || {
        lab.router.text("show route 2001:db8:1::/64 all").await.contains("BGP.local_pref: 250")
    })
    .await;
    let text = lab.router.text("show route 2001:db8:1::/64 all").await;
    assert!(!text.contains("64512 64512"), "an internal peer was prepended to: {text}");
}

#[tokio::test]
async fn of_a_full_table_the_default_route_alone_is_taken() {
    let routes = "protocol static { ipv6; route 2001:db8:cafe::/48 blackhole; route ::/0 blackhole;
  route 2001:db8:beef::/48 blackhole; }\n";
    let lab = Lab::with_sessions(&(routes.to_owned() + &session("", IPV6)), |_, _| {});
    let import = |import| node_with(Peer { import, ..tor() });
    let (announcer, bird) = lab.speaking(&import(Import::All)).await;
    eventually("all are in the kernel", async || lab.node.routes_by_bird().len() == 3).await;
    announcer.sync(&import(Import::Default)).await.unwrap();
    let default = BTreeSet::from(["default".to_owned()]);
    eventually("the default route alone is", async || lab.node.routes_by_bird() == default).await;
    announcer.sync(&import(Import::None)).await.unwrap();
    eventually("nothing is", async || lab.node.routes_by_bird().is_empty()).await;
    assert!(bird.is_established("peer_tor").await);
}

#[tokio::test]
async fn what_is_more_than_a_peer_may_bring_has_the_consequence_that_was_asked_for() {
    let routes = "protocol static { ipv6; route 2001:db8:a::/48 blackhole; route 2001:db8:b::/48 blackhole;
  route 2001:db8:c::/48 blackhole; }\n";
    let lab = Lab::with_sessions(&(routes.to_owned() + &session("", IPV6)), |_, _| {});
    let limited = |action| node_with(Peer { max_prefixes: Some(MaxPrefixes { count: 2, action }), ..tor() });
    let (announcer, bird) = lab.speaking(&limited(LimitAction::Warn)).await;
    eventually("all three are there", async || bird.routes_of("peer_tor").await.len() == 3).await;
    assert!(bird.said().contains("limit"), "{}", bird.said());

    // Each begins with a session of its own, since BIRD asks again for what it has.
    let anew = async |action| {
        announcer.sync(&limited(action)).await.unwrap();
        announcer.applied().await.unwrap();
        assert!(bird.ask("restart 'peer_tor'").await.is_success());
    };
    anew(LimitAction::Block).await;
    eventually("two are there, and stay", async || {
        bird.is_established("peer_tor").await && bird.routes_of("peer_tor").await.len() == 2
    })
    .await;
    let row = async || bird.row("peer_tor").await.unwrap().join(" ");
    anew(LimitAction::Restart).await;
    let ended = || lab.router.said().matches("Maximum number of prefixes reached").count();
    eventually("it is started anew, and again", async || ended() >= 2).await;
    anew(LimitAction::Disable).await;
    eventually("it has ended", async || {
        let row = row().await;
        row.contains(" down ") && row.contains("limit exceeded")
    })
    .await;
}

#[tokio::test]
async fn a_peer_may_be_at_a_link_local_address() {
    let (node, router) = ("addr add fe80::2/64 dev up0 nodad", "addr add fe80::1/64 dev down0 nodad");
    let there = session("", IPV6).replace("neighbor 2001:db8:ffff::2", "neighbor fe80::2%down0");
    let lab = Lab::with_sessions(&there, |ours, theirs| {
        ours.ip(node);
        theirs.ip(router);
    });
    install_summaries(&lab);
    let interface = InterfaceName::new("up0").unwrap();
    let neighbor = Neighbor::LinkLocal { address: "fe80::1".parse().unwrap(), interface };
    let peer = Peer { local_address: Some("fe80::2".parse().unwrap()), ..Peer::at("tor", neighbor, 64500) };
    let (_announcer, bird) = lab.speaking(&node_with(peer)).await;
    established(&bird, "peer_tor").await;
    eventually("the router has the prefix", async || lab.router.routes_of("node").await.len() == 1).await;
}

#[tokio::test]
async fn a_peer_may_be_whoever_is_behind_an_interface() {
    let there = session("", IPV6).replace("neighbor 2001:db8:ffff::2", "neighbor fe80::2%down0");
    let channel = "ipv4 { extended next hop; import all; export all; };";
    let lab = Lab::with_sessions(&there.replace(IPV6, &format!("{IPV6} {channel}")), |ours, _| {
        ours.ip("addr add fe80::2/64 dev up0 nodad");
    });
    install_summaries(&lab);
    let interface = InterfaceName::new("up0").unwrap();
    let peer =
        Peer { families: Family::ALL.into(), ..Peer::at("tor", Neighbor::Unnumbered { interface }, 64500) };
    let (announcer, bird) = lab.speaking(&node_with(peer.clone())).await;
    established(&bird, "session_tor_1").await;
    eventually("the router has both prefixes", async || {
        lab.router.text("show route protocol node").await.contains("2001:db8:1::/64")
            && lab.router.text("show route table master4").await.contains("10.0.1.0/24")
    })
    .await;
    assert!(bird.text("show protocols").await.contains("flock_radv"));
    // Observed as the peer's, though BIRD has two protocols for it.
    let observer = PeerObserver::new(bird.client().clone(), announcer.status());
    let mut peers = observer.peers();
    tokio::select! {
        () = observer.run() => unreachable!("it asks for ever"),
        known = peers.wait_for(|peers| matches!(peers, Peers::Known(_))) => {
            let Peers::Known(known) = &*known.unwrap() else { unreachable!() };
            let [peer] = &known[..] else { panic!("{known:?}") };
            assert!(peer.name == "tor" && peer.is_up(), "{peer:?}");
            // The one that the router's kernel has made.
            let address = peer.address.as_ref().unwrap().to_string();
            assert!(address.starts_with("fe80::") && address.ends_with("%up0"), "{address}");
        }
    }
    let default = lab.node.ip("-6 route show default");
    assert_eq!(default, "", "nobody has offered a default route");

    // What is announced changes, the session does not.
    let since = bird.since("session_tor_1").await;
    announcer.sync(&Announcements { peers: vec![peer], ..wanted(&["2001:db8:a::53"]) }).await.unwrap();
    lab.node.ip("-6 route add 2001:db8:a::53/128 dev lo proto 70");
    eventually("the router has the address", async || {
        lab.router.text("show route protocol node").await.contains("2001:db8:a::53/128")
    })
    .await;
    assert_eq!(bird.since("session_tor_1").await, since);
}

#[tokio::test]
async fn bfd_watches_a_session_and_ends_it() {
    let there = "protocol bfd {}\n".to_owned() + &session("bfd on;", IPV6);
    let lab = Lab::with_sessions(&there, |_, _| {});
    let bfd = Some(Bfd { min_rx_ms: 100, min_tx_ms: 100, multiplier: 3 });
    let peer = Peer { bfd, hold_time: 0, graceful_restart: GracefulRestart::Disabled, ..tor() };
    let (_announcer, bird) = lab.speaking(&node_with(peer)).await;
    established(&bird, "peer_tor").await;
    eventually("BFD is up", async || bird.text("show bfd sessions").await.contains(" Up ")).await;
    // Without a hold time nothing else would notice.
    lab.router_namespace.output(
        "tc",
        &"qdisc add dev down0 root tbf rate 8bit burst 1 limit 1".split(' ').collect::<Vec<_>>(),
    );
    eventually("the session has ended", async || !bird.is_established("peer_tor").await).await;
    assert!(bird.row("peer_tor").await.unwrap().join(" ").contains("BFD"));
}

/// Beyond the restart time, marked with LLGR_STALE (RFC 9494, section 4.2): better than no route, and
/// worse than every other one.
#[tokio::test]
async fn routes_of_a_node_that_does_not_come_back_live_on_as_stale() {
    let lab = Lab::with_sessions(&session("long lived graceful restart on;", IPV6), |_, _| {});
    install_summaries(&lab);
    let restart = GracefulRestart::Restart { restart_time: Some(1), stale_time: Some(60) };
    let (_announcer, bird) = lab.speaking(&node_with(Peer { graceful_restart: restart, ..tor() })).await;
    let stale =
        async || carried(&lab.router, "2001:db8:1::/64").await.iter().any(|line| line.contains("(65535,6)"));
    eventually("the router has the route", async || {
        lab.router.text("show route protocol node").await.contains("2001:db8:1::/64")
    })
    .await;
    assert!(!stale().await);
    bird.kill();
    eventually("the route is stale", stale).await;
    let next = lab.restart_bird();
    established(&next, "peer_tor").await;
    eventually("the route is fresh again", async || {
        lab.router.text("show route protocol node").await.contains("2001:db8:1::/64") && !stale().await
    })
    .await;
}

#[tokio::test]
async fn two_routers_share_the_traffic() {
    let routes = "protocol static { ipv6; route ::/0 blackhole; }\n";
    let second = Namespace::new();
    let lab = Lab::with_sessions(&(routes.to_owned() + &session("", IPV6)), |node, _| {
        node.ip(&format!("link add up1 type veth peer name down1 netns {}", second.pid()));
        node.ip("addr add 2001:db8:fffe::2/64 dev up1 nodad");
        node.ip("link set up1 up");
        second.ip("addr add 2001:db8:fffe::1/64 dev down1 nodad");
        second.ip("link set down1 up");
    });
    let path = lab.directory.path().join("second.conf");
    let there = session("", IPV6).replace("2001:db8:ffff::2", "2001:db8:fffe::2");
    fs::write(&path, router_config(&(routes.to_owned() + &there))).unwrap();
    let _router = Bird::start(&second, &path, &[]);
    let peers = vec![tor(), Peer::new("tor2", "2001:db8:fffe::1".parse().unwrap(), 64500)];
    let node = Announcements { peers, ..wanted(&[]) };
    let (announcer, _bird) = lab.speaking(&node).await;
    let ways = || lab.node.ip("-6 route show default").matches(" via ").count();
    eventually("the default route has two ways", async || ways() == 2).await;
    announcer.sync(&Announcements { maximum_paths: 1, ..node }).await.unwrap();
    eventually("it has one", async || ways() == 1).await;
}
