//! Rendering of whatever may come: stable, free of injection, taken by BIRD.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Command;
use std::sync::LazyLock;

use flock_bird::render::{Renderer, protocol_name};
use flock_core::announcer::{AnnounceError, Announcements};
use flock_core::drain::DrainPhase;
use flock_core::name::InterfaceName;
use flock_core::node_config::{
    Attributes, Bfd, Community, Export, Family, GracefulRestart, Import, LargeCommunity, LimitAction,
    MaxPrefixes, Neighbor, Password, Peer,
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proptest::prelude::*;

/// Addresses that a router takes: global unicast, many of them close together.
fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (1_u8..=126, any::<[u8; 3]>()).prop_map(|(a, [b, c, d])| IpAddr::from([a, b, c, d])),
        any::<u8>().prop_map(|d| IpAddr::from([192, 0, 2, d])),
        (0x2000_u16..0x4000, any::<[u16; 7]>())
            .prop_map(|(a, [b, c, d, e, f, g, h])| IpAddr::from([a, b, c, d, e, f, g, h])),
        any::<u8>().prop_map(|h| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(h)])),
    ]
}

fn summary() -> impl Strategy<Value = IpNet> {
    (address(), 8_u8..=128).prop_map(|(address, length)| match address {
        IpAddr::V4(v4) => IpNet::V4(Ipv4Net::new(v4, length % 25 + 8).unwrap().trunc()),
        IpAddr::V6(v6) => IpNet::V6(Ipv6Net::new(v6, length).unwrap().trunc()),
    })
}

/// Names that are words of BIRD's language as often as not.
fn peer_name() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-zA-Z][a-zA-Z0-9-]{0,31}",
        prop::sample::select(vec![
            "ipv4", "master4", "bgp", "true", "ACCEPT", "define", "peer", "Tor", "tor"
        ])
        .prop_map(str::to_owned),
    ]
}

fn attributes() -> impl Strategy<Value = Attributes> {
    let communities =
        prop::collection::btree_set(any::<(u16, u16)>().prop_map(|(a, b)| Community(a, b)), 0..3);
    let large = any::<(u32, u32, u32)>().prop_map(|(a, b, c)| LargeCommunity(a, b, c));
    let numbers = (prop::option::of(0_u32..), prop::option::of(0_u32..), prop::option::of(0..=16_u8));
    (communities, prop::collection::btree_set(large, 0..3), numbers).prop_map(
        |(communities, large_communities, (local_preference, med, prepend))| Attributes {
            communities,
            large_communities,
            local_preference,
            med,
            prepend,
        },
    )
}

fn export() -> impl Strategy<Value = Export> {
    [(); 4]
        .map(|()| prop_oneof![2 => Just(Attributes::default()), 1 => attributes()])
        .prop_map(|[all, summaries, anycast, exceptions]| Export { all, summaries, anycast, exceptions })
}

/// What can be set of a peer; what contradicts the peer is taken back in [`with_settings`].
fn settings() -> impl Strategy<Value = Peer> {
    let transport = (
        1_u16..,
        any::<[bool; 2]>(),
        prop::option::of(1_u8..),
        prop::option::of("[ !#-~]{1,80}"),
        prop::option::of("[A-Za-z0-9._-]{1,15}"),
        any::<bool>(),
    );
    let bfd = prop::option::of((10..=60_000_u32, 10..=60_000_u32, 1_u8..));
    let restart = prop_oneof![
        (prop::option::of(0..=4_095_u16), prop::option::of(0..=16_777_215_u32))
            .prop_map(|(restart_time, stale_time)| GracefulRestart::Restart { restart_time, stale_time }),
        Just(GracefulRestart::Helper),
        Just(GracefulRestart::Disabled),
    ];
    let timers = (prop_oneof![Just(0_u16), 3_u16..], any::<prop::sample::Index>(), any::<bool>());
    let limit = {
        use LimitAction::{Block, Disable, Restart, Warn};
        prop::option::of((1_u32.., prop::sample::select(vec![Restart, Disable, Block, Warn])))
    };
    let import = prop::sample::select(vec![Import::All, Import::Default, Import::None]);
    let families = prop::sample::subsequence(Family::ALL.to_vec(), 1..=2);
    (transport, timers, bfd, restart, families, import, limit, export()).prop_map(
        |(
            transport,
            (hold_time, keepalive, has_keepalive),
            bfd,
            graceful_restart,
            families,
            import,
            limit,
            export,
        )| {
            let (port, [passive, ttl_security], multihop, password, interface, numbered) = transport;
            let interface = interface.and_then(|name| InterfaceName::new(name).ok());
            let neighbor = match interface {
                Some(interface) if numbered => {
                    Neighbor::LinkLocal { address: "fe80::1".parse().unwrap(), interface }
                }
                Some(interface) => Neighbor::Unnumbered { interface },
                None => Neighbor::Address("192.0.2.1".parse().unwrap()),
            };
            Peer {
                port,
                passive,
                ttl_security,
                multihop: multihop.filter(|_| neighbor.interface().is_none()),
                password: password.map(|text| Password::new(text).unwrap()),
                hold_time,
                keepalive_time: (has_keepalive && hold_time > 1)
                    .then(|| 1 + u16::try_from(keepalive.index(usize::from(hold_time) - 1)).unwrap()),
                bfd: bfd.map(|(min_rx_ms, min_tx_ms, multiplier)| Bfd { min_rx_ms, min_tx_ms, multiplier }),
                graceful_restart,
                families: families.into_iter().collect(),
                import,
                max_prefixes: limit.map(|(count, action)| MaxPrefixes { count, action }),
                export,
                ..Peer::at("x", neighbor, 1)
            }
        },
    )
}

/// `settings` as those of a peer of this name, at this address unless it is behind an interface.
fn with_settings(settings: Peer, name: String, address: IpAddr, [asn, local_asn]: [u32; 2]) -> Peer {
    let neighbor = match settings.neighbor {
        Neighbor::Address(_) => Neighbor::Address(address),
        behind => behind,
    };
    let mut peer = Peer { name, neighbor, asn, ..settings };
    if !peer.is_on_link(local_asn) {
        let local = if address.is_ipv4() { "192.0.2.1" } else { "2001:db8:ffff::2" };
        peer.local_address = Some(local.parse().unwrap());
    }
    let Export { all, summaries, anycast, exceptions } = &mut peer.export;
    for level in [all, summaries, anycast, exceptions] {
        if asn == local_asn {
            level.prepend = None;
        } else {
            level.local_preference = None;
        }
    }
    peer
}

/// Without those that nobody may have.
fn asn() -> impl Strategy<Value = u32> {
    (1..u32::MAX).prop_filter("reserved", |asn| !matches!(asn, 23_456 | 65_535))
}

fn phase() -> impl Strategy<Value = DrainPhase> {
    prop::sample::select(vec![DrainPhase::Marked, DrainPhase::Withdrawn])
}

fn announcements() -> impl Strategy<Value = Announcements> {
    (
        (asn(), export(), 1_u8.., prop::option::of(phase())),
        1_u32..,
        prop::collection::btree_map(peer_name(), (address(), asn(), settings()), 0..6),
        prop::collection::btree_set(summary(), 0..4),
        prop::collection::btree_set(address(), 0..8),
        prop::collection::btree_set(address(), 0..4),
        any::<bool>(),
    )
        .prop_map(
            |(
                (asn, export, maximum_paths, drain),
                router_id,
                peers,
                summaries,
                anycast,
                exceptions,
                internal,
            )| {
                let mut seen = BTreeSet::new();
                let peers = peers.into_iter().map(|(name, (address, other, settings))| {
                    let asn = [if internal { asn } else { other }, asn];
                    with_settings(settings, name, address, asn)
                });
                let peers = peers.filter(|peer| seen.insert(peer.neighbor.clone())).collect();
                Announcements {
                    peers,
                    summaries,
                    anycast,
                    exceptions,
                    export,
                    maximum_paths,
                    drain,
                    ..Announcements::new(asn, Ipv4Addr::from(router_id))
                }
            },
        )
}

fn render(announcements: &Announcements) -> Result<String, AnnounceError> {
    static RENDERER: LazyLock<Renderer> = LazyLock::new(|| Renderer::new(70).unwrap());
    RENDERER.render(announcements)
}

fn assert_bird_takes(text: &str) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let output =
        Command::new("bird").arg("-p").arg("-c").arg(file.path()).output().expect("bird2 is installed");
    assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&output.stderr));
}

proptest! {
    #[test]
    fn the_order_of_peers_does_not_show(
        (announcements, peers) in announcements().prop_flat_map(|announcements| {
            let peers = Just(announcements.peers.clone()).prop_shuffle();
            (Just(announcements), peers)
        })
    ) {
        let shuffled = Announcements { peers, ..announcements.clone() };
        prop_assert_eq!(render(&announcements).unwrap(), render(&shuffled).unwrap());
    }

    #[test]
    fn every_address_and_prefix_stands_in_the_text(announcements in announcements()) {
        let text = render(&announcements).unwrap();
        let words: BTreeSet<&str> = text.split([' ', '\n', ',', ';']).collect();
        for summary in &announcements.summaries {
            let (own, announced) = (format!("{summary}+"), summary.to_string());
            prop_assert!(words.contains(own.as_str()) && words.contains(announced.as_str()));
        }
        for address in announcements.anycast.iter().chain(&announcements.exceptions) {
            prop_assert!(words.contains(IpNet::from(*address).to_string().as_str()));
        }
        for peer in &announcements.peers {
            let address = peer.neighbor.address().map_or("range fe80::/10".to_owned(), |at| at.to_string());
            let port = if peer.port == 179 { String::new() } else { format!(" port {}", peer.port) };
            let neighbor = format!("neighbor {address}{port} as {};", peer.asn);
            prop_assert!(text.contains(&neighbor), "{neighbor}");
            let protocol = format!("protocol bgp '{}' {{", protocol_name(&peer.name));
            prop_assert!(text.contains(&protocol), "{protocol}");
        }
    }

    #[test]
    fn a_name_is_rendered_as_it_is_or_refused(name in any::<String>()) {
        let one = Announcements {
            peers: vec![Peer::new(name.clone(), Ipv4Addr::new(192, 0, 2, 254).into(), 1)],
            ..Announcements::new(64512, Ipv4Addr::new(192, 0, 2, 1))
        };
        let harmless = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        prop_assert!(harmless || render(&one).is_err(), "{name:?}");
    }
}

proptest! {
    // Each case is a process.
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn bird_takes_whatever_is_rendered(announcements in announcements()) {
        assert_bird_takes(&render(&announcements).unwrap());
    }
}

#[test]
fn a_thousand_addresses_and_64_peers_are_taken() {
    let address = |n: u16| Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, n);
    let peer = |n: u16| Peer::new(format!("tor{n}"), address(n).into(), 64500);
    let anycast = |n: u16| IpAddr::from([0x2001, 0xdb8, 0xa, 0, 0, 0, 0, n]);
    assert_bird_takes(
        &render(&Announcements {
            peers: (1..=64).map(peer).collect(),
            summaries: ["2001:db8:1::/64".parse().unwrap()].into(),
            anycast: (1..=1_000).map(anycast).collect(),
            ..Announcements::new(64512, Ipv4Addr::new(192, 0, 2, 1))
        })
        .unwrap(),
    );
}

#[test]
fn what_must_not_be_announced_is_refused_with_every_reason() {
    let peer = |name: &str, address: &str| Peer::new(name, address.parse().unwrap(), 64500);
    let good = Announcements {
        peers: vec![peer("tor", "192.0.2.254")],
        summaries: ["10.0.1.0/24".parse().unwrap()].into(),
        anycast: ["198.51.100.53".parse().unwrap()].into(),
        ..Announcements::new(64512, Ipv4Addr::new(192, 0, 2, 1))
    };
    assert!(render(&good).is_ok());
    let with_peers = |peers: Vec<Peer>| Announcements { peers, ..good.clone() };
    let with_summary =
        |summary: &str| Announcements { summaries: [summary.parse().unwrap()].into(), ..good.clone() };
    let with_anycast =
        |address: &str| Announcements { anycast: [address.parse().unwrap()].into(), ..good.clone() };
    for (bad, expected) in [
        (
            Announcements { exceptions: ["::1".parse().unwrap()].into(), ..good.clone() },
            "the pod's address ::1 is loopback",
        ),
        (Announcements { asn: 0, ..good.clone() }, "the local AS number is 0"),
        (Announcements { router_id: Ipv4Addr::UNSPECIFIED, ..good.clone() }, "the router id is 0.0.0.0"),
        (with_peers(vec![peer("a'; }", "192.0.2.254")]), "name is \"a'; }\", expected a letter"),
        (with_peers(vec![peer("", "192.0.2.254")]), "name is \"\", expected a letter"),
        (with_peers(vec![peer("a", "192.0.2.2"), peer("a", "192.0.2.3")]), "two peers have the name \"a\""),
        (with_peers(vec![peer("a", "192.0.2.2"), peer("b", "192.0.2.2")]), "the address 192.0.2.2"),
        (with_peers(vec![peer("a", "fe80::1")]), "peer \"a\": address is fe80::1, which is link-local"),
        (with_peers(vec![peer("a", "127.0.0.1")]), "peer \"a\": address is 127.0.0.1, which is loopback"),
        (with_summary("0.0.0.0/0"), "the summary 0.0.0.0/0 is the default route"),
        (with_summary("10.0.1.1/24"), "bits set beyond its length, expected 10.0.1.0/24"),
        (with_summary("fe80::/64"), "the summary fe80::/64 is link-local"),
        (with_anycast("224.0.0.1"), "the anycast address 224.0.0.1 is multicast"),
        (with_anycast("::ffff:192.0.2.1"), "is an embedded IPv4 address"),
    ] {
        let error = render(&bad).unwrap_err();
        assert!(matches!(error, AnnounceError::Invalid(_)), "{error:?}");
        assert!(error.to_string().contains(expected), "{error}\nexpected: {expected}");
    }
    let twice = Announcements { asn: 0, ..with_anycast("::1") };
    let error = render(&twice).unwrap_err().to_string();
    assert!(error.contains("AS number is 0") && error.contains("::1 is loopback"), "{error}");
}

#[test]
fn a_route_protocol_that_others_use_is_refused() {
    for number in [0, 2, 3, 4, 12] {
        assert!(matches!(Renderer::new(number), Err(AnnounceError::Invalid(_))), "{number}");
    }
}
