//! What is read of a peer, refused of it, and written again.

use serde_json::{Value, json};

use super::*;
use crate::node_config::{Bgp, BgpSpec, Community, LargeCommunity, Manifest, Metadata, NodeConfig, Spec};

/// The node 64512 with these entries.
fn bgp(entries: &[Value]) -> Bgp {
    let bgp = BgpSpec { asn: 64512, peers: entries.to_vec(), ..BgpSpec::default() };
    let manifest = Manifest {
        api_version: crate::node_config::API_VERSION.to_owned(),
        kind: crate::node_config::KIND.to_owned(),
        metadata: Metadata { name: "host001".to_owned() },
        spec: Spec { cidr4: Some("10.0.1.0/24".to_owned()), bgp: Some(bgp), ..Spec::default() },
    };
    NodeConfig::from_manifest(&manifest).unwrap().bgp.unwrap()
}

/// An external peer with `more` beside what each has.
fn entry(more: Value) -> Value {
    let mut entry = json!({"name": "tor", "address": "2001:db8:ffff::1", "asn": 64500});
    let Value::Object(more) = more else { panic!("{more}") };
    entry.as_object_mut().unwrap().extend(more);
    entry.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    entry
}

fn full() -> Value {
    entry(json!({
        "port": 1179, "localAddress": "2001:db8:ffff::2", "passive": true, "multihop": 3,
        "ttlSecurity": true, "holdTime": 30, "keepaliveTime": 5,
        "passwordSecret": {"name": "bgp", "key": "tor"},
        "bfd": {"minRxMs": 100, "minTxMs": 200, "multiplier": 5},
        "gracefulRestart": {"restartTime": 60, "longLived": {"staleTime": 3600}},
        "families": ["ipv6", "ipv4"], "import": "default",
        "maxPrefixes": {"count": 10, "action": "warn"},
        "export": {
            "communities": ["no-export", "64512:10"], "largeCommunities": ["64512:1:2"], "med": 0,
            "prepend": 2, "anycast": {"med": 5}, "summaries": {"prepend": 0}, "exceptions": {"med": 6},
        },
    }))
}

#[test]
fn every_field_is_read() {
    let peers = bgp(&[full()]).peers;
    let attributes = |med| Attributes { med, ..Attributes::default() };
    let expected = Peer {
        port: 1179,
        local_address: Some("2001:db8:ffff::2".parse().unwrap()),
        passive: true,
        multihop: Some(3),
        ttl_security: true,
        hold_time: 30,
        keepalive_time: Some(5),
        password_reference: Some(PasswordReference::Secret { name: "bgp".to_owned(), key: "tor".to_owned() }),
        bfd: Some(Bfd { min_rx_ms: 100, min_tx_ms: 200, multiplier: 5 }),
        graceful_restart: GracefulRestart::Restart { restart_time: Some(60), stale_time: Some(3600) },
        families: Family::ALL.into(),
        import: Import::Default,
        max_prefixes: Some(MaxPrefixes { count: 10, action: LimitAction::Warn }),
        export: Export {
            all: Attributes {
                communities: [Community::NO_EXPORT, Community(64512, 10)].into(),
                large_communities: [LargeCommunity(64512, 1, 2)].into(),
                prepend: Some(2),
                ..attributes(Some(0))
            },
            summaries: Attributes { prepend: Some(0), ..Attributes::default() },
            anycast: attributes(Some(5)),
            exceptions: attributes(Some(6)),
        },
        ..Peer::new("tor", "2001:db8:ffff::1".parse().unwrap(), 64500)
    };
    assert_eq!(peers, [expected]);
}

#[test]
fn what_is_not_said_has_the_default_of_the_field() {
    let peers =
        bgp(&[entry(json!({"bfd": {}, "maxPrefixes": {"count": 1}, "passwordSecret": {"name": "bgp"}}))])
            .peers;
    let [peer] = peers.as_slice() else { panic!("{peers:?}") };
    assert_eq!((peer.port, peer.hold_time, peer.keepalive()), (179, 90, Some(30)));
    assert_eq!(peer.bfd, Some(Bfd { min_rx_ms: 300, min_tx_ms: 300, multiplier: 3 }));
    assert_eq!(peer.max_prefixes.unwrap().action, LimitAction::Restart);
    assert_eq!((peer.import, peer.families.clone()), (Import::All, [Family::Ipv6].into()));
    assert_eq!(peer.graceful_restart, GracefulRestart::Restart { restart_time: None, stale_time: None });
    let secret = PasswordReference::Secret { name: "bgp".to_owned(), key: "password".to_owned() };
    assert_eq!(peer.password_reference, Some(secret));
    let v4 = bgp(&[entry(json!({"address": "192.0.2.254"}))]).peers;
    assert_eq!(v4[0].families, [Family::Ipv4].into());
}

#[test]
fn a_peer_is_at_an_address_or_behind_an_interface() {
    let interface = InterfaceName::new("eth1.5").unwrap();
    for (address, behind, expected) in [
        (json!("192.0.2.254"), json!(null), Neighbor::Address("192.0.2.254".parse().unwrap())),
        (
            json!("fe80::1"),
            json!("eth1.5"),
            Neighbor::LinkLocal { address: "fe80::1".parse().unwrap(), interface: interface.clone() },
        ),
        (json!(null), json!("eth1.5"), Neighbor::Unnumbered { interface: interface.clone() }),
    ] {
        let bgp = bgp(&[entry(json!({"address": address, "interface": behind}))]);
        assert_eq!(bgp.peers.first().map(|peer| &peer.neighbor), Some(&expected), "{:?}", bgp.refused);
    }
}

#[test]
fn what_is_written_of_a_peer_is_read_back() {
    for entry in [
        entry(json!({})),
        full(),
        entry(json!({"address": null, "interface": "eth1", "asn": 64512, "export": {"localPreference": 0}})),
        entry(json!({"address": "fe80::1", "interface": "eth1", "localAddress": "fe80::2"})),
        entry(json!({"gracefulRestart": {"mode": "helper"}, "import": "none", "holdTime": 0})),
        entry(json!({"gracefulRestart": {"mode": "disabled"}, "passwordFile": "/etc/flock/tor"})),
        entry(json!({"gracefulRestart": {"longLived": {"staleTime": 0}, "restartTime": 0}})),
    ] {
        let read = bgp(&[entry]);
        assert_eq!(read.refused, []);
        assert_eq!(bgp(&BgpSpec::from(&read).peers), read);
    }
    let defaults = entry(json!({}));
    assert_eq!(
        BgpSpec::from(&bgp(std::slice::from_ref(&defaults))).peers,
        [defaults],
        "defaults are not written"
    );
}

#[test]
fn each_problem_is_named_with_what_was_found_and_is_expected() {
    let long = "x".repeat(100_000);
    for (more, expected) in [
        (json!({"name": "a;b"}), vec!["name is \"a;b\", expected a letter, then letters"]),
        (json!({"name": 1}), vec!["name is 1, expected text"]),
        (json!({"name": null}), vec!["name is missing, expected in each entry"]),
        (json!({"asn": null}), vec!["asn is missing"]),
        (json!({"asn": "64500"}), vec!["asn is \"64500\", expected 0 to 4294967295"]),
        (json!({"asn": 1.5}), vec!["asn is 1.5, expected"]),
        (json!({"asn": -1}), vec!["asn is -1, expected"]),
        (json!({"asn": 23456}), vec!["asn is 23456, which is reserved; expected 1 to 4294967294"]),
        (json!({"address": null}), vec!["address is missing, expected it, or interface"]),
        (json!({"address": "tor1"}), vec!["address is \"tor1\", expected an IPv6 or IPv4 address"]),
        (
            json!({"address": "10.0.1.7"}),
            vec!["address is 10.0.1.7, which is in this node's prefix 10.0.1.0/24"],
        ),
        (json!({"address": "224.0.0.1"}), vec!["which is multicast; expected the address of a router"]),
        (json!({"address": "127.0.0.1"}), vec!["which is loopback"]),
        (json!({"address": "::"}), vec!["which is unspecified"]),
        (json!({"address": "240.0.0.1"}), vec!["address is 240.0.0.1, which is reserved"]),
        (json!({"address": "0.0.0.1"}), vec!["which is reserved"]),
        (json!({"address": "255.255.255.255"}), vec!["which is reserved"]),
        (json!({"address": "::ffff:192.0.2.254"}), vec!["which is reserved"]),
        (json!({"address": "::192.0.2.254"}), vec!["which is reserved"]),
        (
            json!({"address": "fe80::1"}),
            vec!["link-local and means nothing without an interface; expected interface"],
        ),
        (json!({"address": "169.254.1.7"}), vec!["link-local and means nothing"]),
        (
            json!({"interface": "eth1"}),
            vec!["address is 2001:db8:ffff::1 beside interface, expected a link-local address"],
        ),
        (json!({"address": "169.254.1.7", "interface": "eth1"}), vec!["expected an IPv6 link-local address"]),
        (
            json!({"address": null, "interface": "a/b"}),
            vec!["interface is \"a/b\", expected the name of an interface"],
        ),
        (
            json!({"address": null, "interface": "eth*"}),
            vec!["interface is \"eth*\", expected a name of letters"],
        ),
        (json!({"port": 0}), vec!["port is 0, expected 1 to 65535"]),
        (json!({"port": 65536}), vec!["port is 65536, expected 1 to 65535"]),
        (json!({"localAddress": "192.0.2.1"}), vec!["localAddress is 192.0.2.1, expected an IPv6 address"]),
        (json!({"localAddress": "::1"}), vec!["localAddress is ::1, which is loopback"]),
        (json!({"localAddress": "fe80::1"}), vec!["localAddress is fe80::1, which is link-local while"]),
        (
            json!({"address": null, "interface": "eth1", "localAddress": "2001:db8::1"}),
            vec!["localAddress is 2001:db8::1, and the peer is at a link-local address"],
        ),
        (json!({"passive": "yes"}), vec!["passive is \"yes\", expected true or false"]),
        (json!({"multihop": 0}), vec!["multihop is 0, expected 1 to 255"]),
        (json!({"multihop": 256}), vec!["multihop is 256, expected 1 to 255"]),
        (
            json!({"address": "fe80::1", "interface": "eth1", "multihop": 2}),
            vec!["multihop is set, and the peer is on the link of an interface"],
        ),
        (json!({"holdTime": 2}), vec!["holdTime is 2, expected 0 or 3 to 65535 seconds"]),
        (json!({"holdTime": 65536}), vec!["holdTime is 65536, expected 0 to 65535"]),
        (json!({"keepaliveTime": 0}), vec!["keepaliveTime is 0, expected 1 to 65535"]),
        (
            json!({"keepaliveTime": 90}),
            vec!["keepaliveTime is 90, expected less than the holdTime of 90 seconds"],
        ),
        (json!({"holdTime": 0, "keepaliveTime": 1}), vec!["keepaliveTime is set while holdTime is 0"]),
        (
            json!({"asn": 64512, "bfd": {}}),
            vec!["bfd is set, and the peer may be several hops away; expected localAddress"],
        ),
        (json!({"multihop": 2, "bfd": {}}), vec!["bfd is set, and the peer may be several hops away"]),
        (json!({"bfd": true}), vec!["bfd is a truth value, expected fields and values"]),
        (json!({"bfd": {"minRxMs": 9}}), vec!["bfd.minRxMs is 9, expected 10 to 60000"]),
        (json!({"bfd": {"minTxMs": 60001}}), vec!["bfd.minTxMs is 60001, expected 10 to 60000"]),
        (json!({"bfd": {"multiplier": 0}}), vec!["bfd.multiplier is 0, expected 1 to 255"]),
        (json!({"bfd": {"idle": 1}}), vec!["bfd.idle is not a field that is known here"]),
        (
            json!({"gracefulRestart": {"mode": "on"}}),
            vec!["gracefulRestart.mode is \"on\", expected restart, helper or disabled"],
        ),
        (
            json!({"gracefulRestart": {"restartTime": 4096}}),
            vec!["gracefulRestart.restartTime is 4096, expected 0 to 4095"],
        ),
        (
            json!({"gracefulRestart": {"longLived": {}}}),
            vec!["gracefulRestart.longLived.staleTime is missing"],
        ),
        (
            json!({"gracefulRestart": {"longLived": {"staleTime": 16_777_216}}}),
            vec!["gracefulRestart.longLived.staleTime is 16777216, expected 0 to 16777215"],
        ),
        (
            json!({"gracefulRestart": {"mode": "helper", "restartTime": 10}}),
            vec!["gracefulRestart.restartTime and longLived are for the mode restart"],
        ),
        (json!({"families": []}), vec!["families is empty, expected ipv6, ipv4 or both"]),
        (json!({"families": "ipv6"}), vec!["families is \"ipv6\", expected a list"]),
        (
            json!({"families": ["vpn", 4]}),
            vec!["families[0]: expected ipv6 or ipv4", "families[1] is 4, expected text"],
        ),
        (json!({"import": "some"}), vec!["import is \"some\", expected all, default or none"]),
        (json!({"maxPrefixes": {}}), vec!["maxPrefixes.count is missing"]),
        (json!({"maxPrefixes": {"count": 0}}), vec!["maxPrefixes.count is 0, expected 1 to 4294967295"]),
        (
            json!({"maxPrefixes": {"count": 1, "action": "die"}}),
            vec!["maxPrefixes.action is \"die\", expected restart"],
        ),
        (
            json!({"export": {"communities": ["1:2:3"]}}),
            vec!["export.communities[0]: \"1:2:3\" is not a community"],
        ),
        (json!({"export": {"communities": [1]}}), vec!["export.communities[0] is 1, expected text"]),
        (
            json!({"export": {"anycast": {"largeCommunities": ["1:2"]}}}),
            vec!["export.anycast.largeCommunities[0]: \"1:2\" is not a large community: expected three"],
        ),
        (
            json!({"export": {"med": 4_294_967_296_u64}}),
            vec!["export.med is 4294967296, expected 0 to 4294967295"],
        ),
        (
            json!({"export": {"summaries": {"prepend": 17}}}),
            vec!["export.summaries.prepend is 17, expected 0 to 16"],
        ),
        (
            json!({"export": {"localPreference": 1}}),
            vec!["export.localPreference is set for an external peer"],
        ),
        (
            json!({"asn": 64512, "export": {"exceptions": {"prepend": 1}}}),
            vec!["export.exceptions.prepend is set for an internal peer"],
        ),
        (json!({"passwordFile": "geheim"}), vec!["passwordFile is no absolute path"]),
        (json!({"passwordSecret": "geheim"}), vec!["passwordSecret is text, expected fields and values"]),
        (json!({"passwordSecret": {}}), vec!["passwordSecret.name is missing or none"]),
        (json!({"passwordSecret": {"name": "Geheim"}}), vec!["passwordSecret.name is missing or none"]),
        (json!({"passwordSecret": {"name": ".."}}), vec!["passwordSecret.name is missing or none"]),
        (
            json!({"passwordSecret": {"name": "a", "key": "geheim/"}}),
            vec!["passwordSecret.key is none of a Secret"],
        ),
        (
            json!({"passwordSecret": {"name": "a"}, "passwordFile": "/geheim"}),
            vec!["passwordSecret and passwordFile are both set"],
        ),
        (json!({"password": "geheim"}), vec!["password is not a field that is known here"]),
        (json!({long.clone(): 1}), vec!["is not a field that is known here"]),
        (json!({"import": long}), vec!["expected all, default or none"]),
    ] {
        let read = bgp(&[entry(more.clone())]);
        let [refused] = read.refused.as_slice() else { panic!("taken: {more}") };
        let problems = &refused.problems;
        assert_eq!(problems.len(), expected.len(), "{problems:#?}\nexpected: {expected:#?}");
        for (problem, expected) in problems.iter().zip(expected) {
            assert!(problem.contains(expected), "{problem}\nexpected: {expected}");
            assert!(problem.len() < 1_000 && !problem.to_lowercase().contains("geheim"), "{problem}");
        }
        assert!(!format!("{read:?}").to_lowercase().contains("geheim"), "{read:?}");
    }
}

#[test]
fn a_bad_entry_is_refused_alone_and_all_of_it_is_told() {
    let good = entry(json!({"name": "good"}));
    let bad = json!({"name": "bad", "address": 1, "asn": "x", "colour": "red", "holdTime": -1});
    let read = bgp(&[json!("tor"), bad, good, json!({})]);
    assert_eq!(read.peers.iter().map(|peer| &peer.name).collect::<Vec<_>>(), ["good"]);
    let refused: Vec<(&str, usize)> =
        read.refused.iter().map(|refused| (refused.name.as_str(), refused.problems.len())).collect();
    assert_eq!(refused, [("unnamed", 1), ("bad", 4), ("unnamed", 3)], "{:#?}", read.refused);
    assert_eq!(bgp(&BgpSpec::from(&read).peers).refused.len(), 3, "they stay in what is written");
}

#[test]
fn of_two_with_one_name_or_neighbor_the_first_stays() {
    let second = |more: Value| entry(more);
    let first = entry(json!({}));
    for (more, expected) in [
        (json!({"address": "192.0.2.254"}), "name is \"tor\", which another peer has"),
        (json!({"name": "b"}), "address is 2001:db8:ffff::1, which the peer tor has"),
    ] {
        let read = bgp(&[first.clone(), second(more)]);
        assert_eq!(read.peers.len(), 1);
        assert_eq!(read.peers[0].neighbor.to_string(), "2001:db8:ffff::1");
        assert_eq!(read.peers[0].name, "tor");
        assert_eq!(read.refused[0].problems, [expected]);
    }
    let unnumbered = |name: &str| entry(json!({"name": name, "address": null, "interface": "eth1"}));
    let read = bgp(&[unnumbered("a"), unnumbered("b")]);
    assert_eq!(read.refused[0].problems, ["interface is %eth1, which the peer a has"]);
}

#[test]
fn a_peer_whose_password_can_not_be_had_is_refused() {
    let with = |name: &str, address: &str, secret: &str| {
        entry(json!({"name": name, "address": address, "passwordSecret": {"name": secret}}))
    };
    let read = bgp(&[
        with("a", "192.0.2.1", "there"),
        with("b", "192.0.2.2", "away"),
        entry(json!({"name": "c", "address": "192.0.2.3"})),
    ]);
    assert_eq!(read.resolved_peers().map(|peer| peer.name.as_str()).collect::<Vec<_>>(), ["c"]);
    assert_eq!(read.password_references().len(), 2);
    let resolved = read.clone().with_passwords(|reference| match reference {
        PasswordReference::Secret { name, .. } if name == "there" => Ok(Password::new("geheim").unwrap()),
        _ => Err("there is none".to_owned()),
    });
    assert_eq!(resolved.resolved_peers().map(|peer| peer.name.as_str()).collect::<Vec<_>>(), ["a", "c"]);
    assert_eq!(resolved.peers.len(), 2);
    assert_eq!(resolved.peers[0].password, Some(Password::new("geheim").unwrap()));
    let told = "peer b: the password can't be had from the key password of the Secret away: there is none";
    assert_eq!(resolved.refused[0].to_string(), told);
    assert!(!format!("{resolved:?}").contains("geheim"), "{resolved:?}");
    let written = BgpSpec::from(&resolved);
    assert!(!format!("{written:?}").contains("geheim"), "{written:?}");
    assert_eq!(bgp(&written.peers), read, "the references are there again, and no password");
}

#[test]
fn a_keepalive_time_is_a_third_of_the_hold_time() {
    let peer = |hold_time, keepalive_time| Peer {
        hold_time,
        keepalive_time,
        ..Peer::new("tor", "192.0.2.254".parse().unwrap(), 64500)
    };
    assert_eq!(peer(90, None).keepalive(), Some(30));
    assert_eq!(peer(3, None).keepalive(), Some(1));
    assert_eq!(peer(0, None).keepalive(), None);
    assert_eq!(peer(90, Some(7)).keepalive(), Some(7));
}
