//! What is read from manifests, and refused.

use std::net::Ipv4Addr;

use super::*;

const FULL: &str = "
apiVersion: flock.fritzlab.net/v1alpha1
kind: NodeConfig
metadata: {name: host001}
spec:
  cidr6: 2001:db8:1::/64
  cidr4: 10.0.1.0/24
  mtu: 1500
  anycastPrefixes: ['2001:db8:a::/48', 198.51.100.0/24]
  staticPrefixes: [203.0.113.0/24]
  bgp:
    asn: 64512
    routerId: 192.0.2.1
    peers:
    - {name: tor2, address: 192.0.2.254, asn: 64500}
    - {name: tor1, address: 2001:db8:ffff::1, asn: 64500}
";

#[test]
fn a_full_manifest_is_read() {
    let config = NodeConfig::from_yaml(FULL, "host001.yaml").unwrap();
    assert_eq!(config.name.as_str(), "host001");
    assert_eq!(config.cidrs.ipv6.unwrap().to_string(), "2001:db8:1::/64");
    assert_eq!(config.cidrs.ipv4.unwrap().to_string(), "10.0.1.0/24");
    assert_eq!(config.mtu, Some(1500));
    for (address, anycast, fixed) in [
        ("2001:db8:a::53", true, false),
        ("198.51.100.255", true, false),
        ("203.0.113.0", false, true),
        ("10.0.1.1", false, false),
        ("2001:db8:b::", false, false),
    ] {
        let address = address.parse().unwrap();
        let allowed = (config.allowed.allow_anycast(address), config.allowed.allow_fixed(address));
        assert_eq!(allowed, (anycast, fixed), "{address}");
    }
    let bgp = config.bgp.unwrap();
    assert_eq!((bgp.asn, bgp.router_id), (64512, Some(Ipv4Addr::new(192, 0, 2, 1))));
    assert_eq!(bgp.peers.iter().map(|peer| peer.name.as_str()).collect::<Vec<_>>(), ["tor1", "tor2"]);
}

#[test]
fn a_manifest_made_of_it_is_read_back() {
    let without_bgp = FULL.split("  mtu").next().unwrap_or_default();
    for text in [FULL, without_bgp] {
        let config = NodeConfig::from_yaml(text, "host001.yaml").unwrap();
        let manifest = Manifest::from(&config);
        assert_eq!(NodeConfig::from_manifest(&manifest).unwrap(), config);
        let json = serde_json::to_string(&manifest).unwrap();
        assert_eq!(NodeConfig::from_yaml(&json, "x").unwrap(), config);
    }
}

#[test]
fn what_the_api_server_adds_to_metadata_is_ignored() {
    let text = FULL.replace("{name: host001}", "{name: host001, uid: abc, labels: {a: b}}");
    assert!(NodeConfig::from_yaml(&text, "x").is_ok());
}

#[test]
fn contradictions_are_refused_with_the_field_and_what_is_expected() {
    for (from, to, expected) in [
        (
            "flock.fritzlab.net/v1alpha1",
            "v1",
            "apiVersion is \"v1\", expected \"flock.fritzlab.net/v1alpha1\"",
        ),
        ("kind: NodeConfig", "kind: Node", "kind is \"Node\", expected \"NodeConfig\""),
        ("name: host001", "name: Host_1", "metadata.name: \"Host_1\" is not a valid node name"),
        ("2001:db8:1::/64", "10.0.0.0/8", "spec.cidr6 is \"10.0.0.0/8\", expected an IPv6 prefix"),
        ("2001:db8:1::/64", "2001:db8:1::1/64", "expected 2001:db8:1::/64"),
        ("2001:db8:1::/64", "fe80::/64", "expected a unicast prefix"),
        ("10.0.1.0/24", "10.0.1.0/33", "spec.cidr4 is \"10.0.1.0/33\", expected an IPv4 prefix"),
        ("10.0.1.0/24", "0.0.0.0/0", "which is the default route"),
        ("10.0.1.0/24", "224.0.0.0/8", "expected a unicast prefix"),
        ("10.0.1.0/24", "240.0.0.0/8", "expected a unicast prefix"),
        ("10.0.1.0/24", "0.0.0.0/8", "expected a unicast prefix"),
        ("2001:db8:1::/64", "::ffff:10.0.0.0/104", "expected a unicast prefix"),
        ("198.51.100.0/24", "example", "spec.anycastPrefixes[1] is \"example\", expected a prefix like"),
        (
            "198.51.100.0/24",
            "198.51.100.1/24",
            "spec.anycastPrefixes[1] is 198.51.100.1/24, which has bits set",
        ),
        ("203.0.113.0/24", "'ff02::/16'", "spec.staticPrefixes[0] is ff02::/16, expected a unicast prefix"),
        ("203.0.113.0/24", "0.0.0.0/0", "spec.staticPrefixes[0] is 0.0.0.0/0, which is the default route"),
        (
            "198.51.100.0/24",
            "203.0.113.64/26",
            "spec.anycastPrefixes[1] is 203.0.113.64/26, which overlaps 203.0.113.0/24 of spec.staticPrefixes",
        ),
        (
            "198.51.100.0/24",
            "10.0.0.0/16",
            "spec.anycastPrefixes[1] is 10.0.0.0/16, which overlaps 10.0.1.0/24 of the node's own prefixes",
        ),
        ("mtu: 1500", "mtu: 1000", "spec.mtu is 1000, expected 1280 to 65535"),
        ("asn: 64512", "asn: 0", "spec.bgp.asn is 0, which is reserved"),
        ("routerId: 192.0.2.1", "routerId: 0.0.0.0", "spec.bgp.routerId is 0.0.0.0"),
        ("asn: 64512", "asn: 64512\n    maximumPaths: 0", "spec.bgp.maximumPaths is 0, expected 1 to 255"),
        (
            "asn: 64512",
            "asn: 64512\n    maximumPaths: 256",
            "spec.bgp.maximumPaths is 256, expected 1 to 255",
        ),
        (
            "asn: 64512",
            "asn: 64512\n    drainTime: 86401",
            "spec.bgp.drainTime is 86401, expected 0 to 86400 s",
        ),
        (
            "asn: 64512",
            "asn: 64512\n    export: {anycast: {communities: [a]}}",
            "spec.bgp.export.anycast.communities[0]: \"a\" is not a community: expected two numbers",
        ),
        (
            "asn: 64512",
            "asn: 64512\n    export: {x: 1}",
            "spec.bgp.export.x is not a field that is known here",
        ),
        (
            "asn: 64512",
            "asn: 64512\n    export: 1",
            "spec.bgp.export is a number, expected fields and values",
        ),
    ] {
        let text = FULL.replace(from, to);
        assert_ne!(text, FULL, "{from}");
        let error = NodeConfig::from_yaml(&text, "host001.yaml").unwrap_err().to_string();
        assert!(error.contains(expected), "{error}\nexpected: {expected}");
        assert!(error.contains("host001.yaml"), "{error}");
    }
}

#[test]
fn what_is_wrong_with_a_manifest_is_said_in_one_line() {
    let long = "x".repeat(100_000);
    let misspelt = FULL.replace("mtu:", "\"m\\etu\":");
    for text in
        ["", "a: [", &misspelt, &FULL.replace("mtu:", &format!("{long}:")), &FULL.replace("host001", &long)]
    {
        let message = NodeConfig::from_yaml(text, "x").unwrap_err().to_string();
        assert!(
            !message.contains(char::is_control) && message.len() < 1500,
            "{} bytes: {message:?}",
            message.len()
        );
    }
}

#[test]
fn all_problems_are_named_at_once() {
    let text = FULL.replace("mtu: 1500", "mtu: 1").replace("asn: 64512", "asn: 0");
    assert_eq!(NodeConfig::from_yaml(&text, "x").unwrap_err().problems.len(), 2);
}

#[test]
fn a_node_without_any_prefix_is_refused() {
    let text = FULL.replace("  cidr6: 2001:db8:1::/64\n", "").replace("  cidr4: 10.0.1.0/24\n", "");
    let error = NodeConfig::from_yaml(&text, "x").unwrap_err().to_string();
    assert!(error.contains("sets neither cidr6 nor cidr4"), "{error}");
}

#[test]
fn a_misspelt_key_is_not_ignored() {
    let error = NodeConfig::from_yaml(&FULL.replace("mtu:", "mttu:"), "x").unwrap_err().to_string();
    assert!(error.contains("mttu"), "{error}");
}

#[test]
fn a_list_of_prefixes_has_an_end() {
    let many: Vec<String> = (0..257).map(|number| format!("'2001:db8:a:{number:x}::/64'")).collect();
    let text = FULL.replace("203.0.113.0/24", &many.join(", "));
    let error = NodeConfig::from_yaml(&text, "x").unwrap_err().to_string();
    assert!(error.contains("spec.staticPrefixes has 257 prefixes, expected at most 256"), "{error}");
}

/// Also where one that stays comes after one that does not, for a reason of its own or for another.
#[test]
fn why_a_peer_is_refused_does_not_depend_on_the_order_of_the_manifest() {
    let peer = |name: &str, address: &str| format!("{{name: {name}, address: '{address}', asn: 64500}}");
    for (peers, stay, refused) in [
        ([("tor2", "10.0.1.7"), ("tor2", "2001:db8:ffff::1"), ("tor1", "192.0.2.254")], 2, 1),
        ([("a", "192.0.2.254"), ("w", "192.0.2.254"), ("w", "2001:db8:ffff::1")], 2, 1),
        ([("a", "192.0.2.254"), ("a", "192.0.2.254"), ("a", "192.0.2.254")], 1, 2),
    ] {
        let list = peers.map(|(name, address)| peer(name, address)).join(", ");
        let text = format!("{}    peers: [{list}]\n", FULL.split("    peers:").next().unwrap());
        let config = NodeConfig::from_yaml(&text, "x").unwrap();
        let bgp = config.bgp.as_ref().unwrap();
        assert_eq!((bgp.peers.len(), bgp.refused.len()), (stay, refused), "{bgp:?}");
        assert_eq!(NodeConfig::from_manifest(&Manifest::from(&config)).unwrap(), config);
    }
}

/// What an agent has written down of a NodeConfig is JSON, and a refused entry is in it as it was:
/// YAML has no place for some characters that JSON has.
#[test]
fn json_is_read_as_json() {
    let peer = r#"{"name": "tor\u007f", "address": "192.0.2.254", "asn": 64500}"#;
    let text = format!("{}    peers: [{peer}]\n", FULL.split("    peers:").next().unwrap());
    let config = NodeConfig::from_yaml(&text, "x").unwrap();
    assert_eq!(config.bgp.as_ref().unwrap().refused.len(), 1);
    let json = serde_json::to_string(&Manifest::from(&config)).unwrap();
    assert!(json.contains('\u{7f}'), "{json}");
    assert_eq!(NodeConfig::from_yaml(&json, "x").unwrap(), config);
}
