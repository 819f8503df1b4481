//! The definition of the custom resource: that what is committed is what the types say, and that
//! what it lets through and what it refuses is what the agent can use.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use flock_core::node_config as core;
use flock_k8s::node_config::{NodeConfigSpec, definition};
use proptest::prelude::*;
use regex::Regex;
use serde_json::{Value, json};

fn schema() -> Value {
    let definition = serde_json::to_value(definition()).unwrap();
    definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

fn spec() -> Value {
    schema()["properties"]["spec"].clone()
}

fn pattern(pointer: &str) -> Regex {
    Regex::new(spec().pointer(pointer).unwrap()["pattern"].as_str().unwrap()).unwrap()
}

#[test]
fn the_committed_file_is_what_the_types_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/base/crd.yaml");
    let committed: Value = serde_saphyr::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    // As the file has it, where 68.0 is a number like 68.
    let expected = serde_saphyr::to_string(&definition()).unwrap();
    let expected: Value = serde_saphyr::from_str(&expected).unwrap();
    assert_eq!(committed, expected, "{}: `make crd` writes it anew", path.display());
}

/// What Kubernetes asks of a structural schema, and 1.20 does not know yet.
#[test]
fn it_is_structural_and_for_old_releases() {
    fn check(path: &str, schema: &Value) {
        let keys = schema.as_object().unwrap();
        assert!(keys.contains_key("type"), "{path} has no type");
        for unknown in ["$ref", "x-kubernetes-validations", "oneOf", "x-kubernetes-preserve-unknown-fields"] {
            assert!(!keys.contains_key(unknown), "{path} has {unknown}");
        }
        assert!(path.is_empty() || path == ".status" || !keys.contains_key("nullable"), "{path} may be null");
        assert!(keys.contains_key("description") || path.contains("[]"), "{path} has no description");
        for alternative in schema["anyOf"].as_array().into_iter().flatten() {
            assert_eq!(alternative.as_object().unwrap().keys().collect::<Vec<_>>(), ["required"], "{path}");
        }
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            check(&format!("{path}.{name}"), property);
        }
        if let Some(items) = keys.get("items") {
            check(&format!("{path}[]"), items);
            if schema["x-kubernetes-list-type"] == "map" {
                let key = &schema["x-kubernetes-list-map-keys"][0];
                assert!(
                    items["required"].as_array().unwrap().contains(key),
                    "{path} is a map by what may be missing"
                );
            }
        }
    }
    check("", &schema());
}

#[test]
fn at_least_one_prefix_is_asked_for_and_peers_are_unique_by_name() {
    let spec = spec();
    assert_eq!(spec["anyOf"], json!([{"required": ["cidr6"]}, {"required": ["cidr4"]}]));
    assert_eq!(
        spec["properties"]["bgp"]["properties"]["peers"]["x-kubernetes-list-map-keys"],
        json!(["name"])
    );
    assert_eq!(schema()["required"], json!(["spec"]));
}

#[test]
fn what_is_mistyped_is_refused() {
    for (pointer, wrong) in [
        ("/properties/cidr6", "2001:db8:1::"),
        ("/properties/cidr6", "2001:db8:1::/129"),
        ("/properties/cidr6", "2001:db8:1::/0"),
        ("/properties/cidr6", "10.0.1.0/24"),
        ("/properties/cidr6", "2001:db8:1::/64 "),
        ("/properties/cidr4", "10.0.1.0"),
        ("/properties/cidr4", "10.0.1.0/33"),
        ("/properties/cidr4", "10.0.1/24"),
        ("/properties/cidr4", "10.0.256.0/24"),
        ("/properties/cidr4", "2001:db8:1::/64"),
        ("/properties/bgp/properties/routerId", "192.0.2"),
        ("/properties/bgp/properties/routerId", "2001:db8::1"),
        ("/properties/bgp/properties/peers/items/properties/name", "1st"),
        ("/properties/bgp/properties/peers/items/properties/name", "a;b"),
        ("/properties/bgp/properties/peers/items/properties/name", "a23456789012345678901234567890123"),
        ("/properties/bgp/properties/peers/items/properties/address", "tor1.example.com"),
        ("/properties/bgp/properties/peers/items/properties/address", "192.0.2.256"),
        ("/properties/bgp/properties/peers/items/properties/address", "fe80::1%eth0"),
        ("/properties/bgp/properties/peers/items/properties/localAddress", "eth0"),
        ("/properties/bgp/properties/peers/items/properties/interface", "eth*"),
        ("/properties/bgp/properties/peers/items/properties/interface", "sixteen-bytes-xx"),
        ("/properties/bgp/properties/peers/items/properties/passwordFile", "secrets/tor1"),
        ("/properties/bgp/properties/peers/items/properties/passwordSecret/properties/name", "Bgp"),
        ("/properties/bgp/properties/peers/items/properties/passwordSecret/properties/name", "bgp-"),
        ("/properties/bgp/properties/peers/items/properties/passwordSecret/properties/key", "a/b"),
        ("/properties/bgp/properties/peers/items/properties/export/properties/communities/items", "64512"),
        (
            "/properties/bgp/properties/peers/items/properties/export/properties/communities/items",
            "64512:1:2",
        ),
        ("/properties/bgp/properties/peers/items/properties/export/properties/communities/items", "no-such"),
        (
            "/properties/bgp/properties/peers/items/properties/export/properties/anycast/properties/largeCommunities/items",
            "64512:1",
        ),
    ] {
        assert!(!pattern(pointer).is_match(wrong), "{pointer} lets {wrong} through");
    }
}

proptest! {
    /// The patterns refuse nothing that the agent can use.
    #[test]
    fn addresses_and_prefixes_are_let_through(bits in any::<u128>(), length in 1..=128_u8) {
        let v6 = std::net::Ipv6Addr::from(bits);
        let v4 = std::net::Ipv4Addr::from(u32::try_from(bits >> 96).unwrap());
        let (cidr6, cidr4) = (format!("{v6}/{length}"), format!("{v4}/{}", length % 32 + 1));
        prop_assert!(pattern("/properties/cidr6").is_match(&cidr6));
        prop_assert!(pattern("/properties/cidr4").is_match(&cidr4));
        prop_assert!(pattern("/properties/bgp/properties/routerId").is_match(&v4.to_string()));
        let peer = pattern("/properties/bgp/properties/peers/items/properties/address");
        prop_assert!(peer.is_match(&v6.to_string()));
        prop_assert!(peer.is_match(&v4.to_string()));
    }

    #[test]
    fn peer_names_are_let_through(name in "[A-Za-z][A-Za-z0-9-]{0,31}") {
        prop_assert!(pattern("/properties/bgp/properties/peers/items/properties/name").is_match(&name));
    }
}

/// A spec that says everything.
fn full() -> Value {
    let attributes = |more: &Value| {
        let mut attributes = json!({
            "communities": ["64512:100", "no-export"], "largeCommunities": ["64512:1:2"], "med": 10,
        });
        attributes.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        attributes
    };
    let export = |more: &Value| {
        let mut export = attributes(more);
        for kind in ["summaries", "anycast", "exceptions"] {
            export[kind] = attributes(more);
        }
        export
    };
    let peer = json!({
        "name": "tor1", "address": "2001:db8:ffff::1", "asn": 64500, "port": 1179,
        "localAddress": "2001:db8:ffff::2", "passive": true, "multihop": 2, "ttlSecurity": true,
        "holdTime": 30, "keepaliveTime": 10, "passwordSecret": {"name": "bgp", "key": "tor1"},
        "bfd": {"minRxMs": 100, "minTxMs": 100, "multiplier": 3},
        "gracefulRestart": {"mode": "restart", "restartTime": 60, "longLived": {"staleTime": 600}},
        "families": ["ipv6", "ipv4"], "import": "default",
        "maxPrefixes": {"count": 100, "action": "block"}, "export": export(&json!({"prepend": 2})),
    });
    let others = [
        json!({"name": "tor2", "address": "fe80::1", "interface": "eth1", "asn": 64512, "passwordFile": "/x"}),
        json!({"name": "tor3", "interface": "eth1", "asn": 64512, "export": export(&json!({"localPreference": 50}))}),
    ];
    json!({
        "cidr6": "2001:db8:1::/64", "cidr4": "10.0.1.0/24", "mtu": 1500,
        "anycastPrefixes": ["2001:db8:a::/48"], "staticPrefixes": ["203.0.113.0/24"],
        "bgp": {
            "asn": 64512, "routerId": "192.0.2.1", "maximumPaths": 8, "drain": true, "drainTime": 60,
            "export": export(&json!({"localPreference": 200, "prepend": 1})),
            "peers": ([[peer].as_slice(), &others].concat()),
        },
    })
}

#[test]
fn the_spec_is_written_as_the_agent_reads_it_from_a_file() {
    let full = full();
    let of_the_api: NodeConfigSpec = serde_json::from_value(full.clone()).unwrap();
    let of_a_file: core::Spec = serde_json::from_value(full.clone()).unwrap();
    assert_eq!(serde_json::to_value(&of_the_api).unwrap(), full);
    assert_eq!(core::Spec::from(of_the_api.clone()), of_a_file);
    let config = read(of_the_api);
    let bgp = config.bgp.unwrap();
    assert_eq!((bgp.refused, bgp.peers.len()), (Vec::new(), 3));
    let definition = fields(&spec());
    let known = of_value(&full);
    assert_eq!(definition, known, "every field has its place in the definition");
}

/// The paths of all fields that a schema has.
fn fields(schema: &Value) -> BTreeSet<String> {
    let nested = |name: &str, schema: &Value| {
        let below = fields(schema).into_iter().map(|field| format!("{name}.{field}"));
        below.chain([name.to_owned()]).collect::<Vec<_>>()
    };
    let mut found: BTreeSet<String> = schema.get("items").map(fields).unwrap_or_default();
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        found.extend(nested(name, property));
    }
    found
}

/// The paths of all fields that are set.
fn of_value(value: &Value) -> BTreeSet<String> {
    match value {
        Value::Array(items) => items.iter().flat_map(of_value).collect(),
        Value::Object(members) => {
            let below = |(name, value): (&String, &Value)| {
                let below = of_value(value).into_iter().map(|field| format!("{name}.{field}"));
                below.chain([name.clone()]).collect::<Vec<_>>()
            };
            members.iter().flat_map(below).collect()
        }
        _ => BTreeSet::new(),
    }
}

fn read(spec: NodeConfigSpec) -> core::NodeConfig {
    core::NodeConfig::from_manifest(&core::Manifest {
        api_version: core::API_VERSION.to_owned(),
        kind: core::KIND.to_owned(),
        metadata: core::Metadata { name: "host001".to_owned() },
        spec: spec.into(),
    })
    .unwrap()
}

/// Should a definition of another release let it through.
#[test]
fn a_peer_that_can_not_be_read_is_refused_alone() {
    let peers = json!([
        {"name": "wrong", "address": "192.0.2.1", "asn": "64500"},
        {"name": "later", "address": "192.0.2.2", "asn": 64500, "colour": "red"},
        "tor",
    ]);
    let spec = json!({"cidr4": "10.0.1.0/24", "bgp": {"asn": 64512, "peers": peers}});
    let bgp = read(serde_json::from_value(spec).unwrap()).bgp.unwrap();
    assert_eq!(bgp.peers.iter().map(|peer| peer.name.as_str()).collect::<Vec<_>>(), ["later"]);
    let refused: Vec<String> = bgp.refused.iter().map(ToString::to_string).collect();
    assert_eq!(
        refused,
        [
            "peer wrong: asn is \"64500\", expected 0 to 4294967295",
            "peer unnamed: the entry is no object, expected name, address, asn and more",
        ]
    );
}

#[test]
fn numbers_are_bounded_as_the_agent_bounds_them() {
    let pointer = "/properties/bgp/properties/peers/items/properties";
    let spec = spec();
    let peer = spec.pointer(pointer).unwrap();
    for (field, least, most) in [
        ("/port", 1.0, 65_535.0),
        ("/multihop", 1.0, 255.0),
        ("/holdTime", 0.0, 65_535.0),
        ("/bfd/properties/minRxMs", 10.0, 60_000.0),
        ("/gracefulRestart/properties/restartTime", 0.0, 4_095.0),
        ("/gracefulRestart/properties/longLived/properties/staleTime", 0.0, 16_777_215.0),
        ("/maxPrefixes/properties/count", 1.0, 4_294_967_295.0),
        ("/export/properties/prepend", 0.0, 16.0),
        ("/export/properties/anycast/properties/med", 0.0, 4_294_967_295.0),
    ] {
        let field = peer.pointer(field).unwrap();
        assert_eq!([&field["minimum"], &field["maximum"]], [&json!(least), &json!(most)], "{field}");
    }
    assert_eq!(peer["import"]["enum"], json!(["all", "default", "none"]));
    assert_eq!(peer["families"]["items"]["enum"], json!(["ipv6", "ipv4"]));
    assert_eq!(
        peer["gracefulRestart"]["properties"]["mode"]["enum"],
        json!(["restart", "helper", "disabled"])
    );
    assert_eq!(
        peer["maxPrefixes"]["properties"]["action"]["enum"],
        json!(["restart", "disable", "block", "warn"])
    );
    assert_eq!(spec.pointer("/properties/bgp/properties/peers").unwrap()["maxItems"], 256);
}
