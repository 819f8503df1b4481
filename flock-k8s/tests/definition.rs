//! The definition of the custom resource: that what is committed is what the types say, and that
//! what it lets through and what it refuses is what the agent can use.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

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

#[test]
fn the_spec_is_written_as_the_agent_reads_it_from_a_file() {
    let full = json!({
        "cidr6": "2001:db8:1::/64", "cidr4": "10.0.1.0/24", "mtu": 1500,
        "bgp": {
            "asn": 4_294_967_294_u32, "routerId": "192.0.2.1",
            "peers": [{"name": "tor1", "address": "2001:db8:ffff::1", "asn": 64500}],
        },
    });
    let of_the_api: NodeConfigSpec = serde_json::from_value(full.clone()).unwrap();
    let of_a_file: core::Spec = serde_json::from_value(full.clone()).unwrap();
    assert_eq!(serde_json::to_value(&of_the_api).unwrap(), full);
    assert_eq!(core::Spec::from(of_the_api), of_a_file);
    // And every field has its place in the definition.
    for (pointer, part) in [("", &full), ("/properties/bgp", &full["bgp"])] {
        let spec = spec();
        let properties = spec.pointer(pointer).unwrap()["properties"].as_object().unwrap();
        assert!(properties.keys().eq(part.as_object().unwrap().keys()), "{properties:?}");
    }
}
