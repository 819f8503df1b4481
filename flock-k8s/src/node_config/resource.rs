//! The custom resource as the API server knows it.
#![allow(clippy::duplicated_attributes, reason = "several columns have the same type and priority")]

use flock_core::ipam::Usage;
use flock_core::node_config as core;
use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::bgp::BgpSpec;
use super::sessions::BgpStatus;

// Patterns are for what is easily mistyped. What they let through and can't be used all the
// same, the agent refuses with a better message than a pattern has.
const CIDR6: &str = r"^[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*/([1-9]|[1-9][0-9]|1[01][0-9]|12[0-8])$";
const CIDR4: &str = r"^((25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])\.){3}(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])/([1-9]|[12][0-9]|3[0-2])$";
const PREFIX: &str = r"^[0-9A-Fa-f:.]+/[0-9]{1,3}$";

/// What a node's pods get, and to whom it is announced. At least one of cidr6 and cidr4 must be
/// set.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "flock.fritzlab.net",
    version = "v1alpha1",
    kind = "NodeConfig",
    status = "NodeConfigStatus",
    derive = "PartialEq",
    shortname = "fnc",
    category = "flock",
    doc = "The addresses that Flock gives to the pods of one node, and the BGP peers that hear of \
           them. It is named as the node.",
    printcolumn(
        name = "IPv6",
        type_ = "string",
        json_path = ".spec.cidr6",
        description = "Prefix of the node's pods"
    ),
    printcolumn(
        name = "IPv4",
        type_ = "string",
        json_path = ".spec.cidr4",
        description = "Prefix of the node's pods"
    ),
    printcolumn(
        name = "ASN",
        type_ = "integer",
        json_path = ".spec.bgp.asn",
        description = "Autonomous system of the node"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether it is in force and pods get their addresses"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        description = "Why it is ready or not, in a word"
    ),
    printcolumn(
        name = "Peers",
        type_ = "string",
        json_path = ".status.bgp.established",
        description = "With how many of the BGP peers there is a session"
    ),
    printcolumn(
        name = "Drain",
        type_ = "string",
        json_path = ".status.bgp.drain.state",
        description = "Whether the node is drained, and how far: Marked, then Withdrawn"
    ),
    printcolumn(
        name = "Used6",
        type_ = "integer",
        json_path = ".status.addresses.ipv6.inUse",
        description = "IPv6 addresses in use",
        priority = 1
    ),
    printcolumn(
        name = "Used4",
        type_ = "integer",
        json_path = ".status.addresses.ipv4.inUse",
        description = "IPv4 addresses in use",
        priority = 1
    ),
    printcolumn(
        name = "Free4",
        type_ = "string",
        json_path = ".status.addresses.ipv4.free",
        description = "IPv4 addresses that can be given now",
        priority = 1
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        description = "Why it is ready or not, in words",
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("anyOf" = [{"required": ["cidr6"]}, {"required": ["cidr4"]}]))]
pub struct NodeConfigSpec {
    /// The IPv6 prefix that the node's pods get their addresses from, like 2001:db8:1::/64. It is
    /// this node's alone, and is announced as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", regex(pattern = CIDR6))]
    pub cidr6: Option<String>,
    /// The IPv4 prefix that the node's pods get their addresses from, like 10.0.1.0/24. It is this
    /// node's alone, and is announced as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", regex(pattern = CIDR4))]
    pub cidr4: Option<String>,
    /// MTU of the pods' interfaces, in bytes. With cidr6 at least 1280. Without it, that of the
    /// interface that the node's default route leaves by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i32", range(min = 68, max = 65_535))]
    pub mtu: Option<u32>,
    /// Prefixes of the addresses that pods of the node may serve beside their own, as they ask for
    /// in the annotation flock.fritzlab.net/anycast. Without any, no pod may.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(regex(pattern = PREFIX)))]
    pub anycast_prefixes: Vec<String>,
    /// Prefixes beside cidr6 and cidr4 of which a pod may ask for an address exactly, in the
    /// annotations flock.fritzlab.net/ipv6 and ipv4. Such an address is announced by itself, and
    /// may move with its pod between the nodes that list the prefix.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(regex(pattern = PREFIX)))]
    pub static_prefixes: Vec<String>,
    /// Whom the prefixes are announced to. Without it, nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "BgpSpec")]
    pub bgp: Option<BgpSpec>,
}

/// What became of a NodeConfig, written by the agent of its node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeConfigStatus {
    /// The generation that the rest of the status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i64")]
    pub observed_generation: Option<i64>,
    /// Ready says whether the configuration is in force and the node's pods get their addresses
    /// from it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// How many addresses are in use.
    #[serde(default, skip_serializing_if = "AddressesStatus::is_empty")]
    pub addresses: AddressesStatus,
    /// The sessions with the node's BGP peers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "BgpStatus")]
    pub bgp: Option<BgpStatus>,
}

/// How many addresses are in use, by family. Counted from time to time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AddressesStatus {
    /// Of the IPv6 prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "PrefixStatus")]
    pub ipv6: Option<PrefixStatus>,
    /// Of the IPv4 prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "PrefixStatus")]
    pub ipv4: Option<PrefixStatus>,
}

impl AddressesStatus {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// How full a prefix is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PrefixStatus {
    /// The prefix.
    pub prefix: String,
    /// Addresses that pods have.
    pub in_use: i64,
    /// Addresses that were released and rest before they are given again.
    pub resting: i64,
    /// Addresses that can be given now. A decimal number in a string: a /64 has more than a number
    /// in JSON can say exactly.
    pub free: String,
}

impl From<NodeConfigSpec> for core::Spec {
    fn from(spec: NodeConfigSpec) -> Self {
        let NodeConfigSpec { cidr6, cidr4, mtu, anycast_prefixes, static_prefixes, bgp } = spec;
        Self { cidr6, cidr4, mtu, anycast_prefixes, static_prefixes, bgp: bgp.map(Into::into) }
    }
}

impl From<&Usage> for PrefixStatus {
    fn from(usage: &Usage) -> Self {
        // No node has 2^63 pods.
        let count = |count: u128| i64::try_from(count).unwrap_or(i64::MAX);
        Self {
            prefix: usage.prefix.to_string(),
            in_use: count(usage.in_use),
            resting: count(usage.resting),
            free: usage.free().to_string(),
        }
    }
}

impl<'a> FromIterator<&'a Usage> for AddressesStatus {
    /// As [`Ipam::usage`](flock_core::ipam::Ipam::usage) says it.
    fn from_iter<T: IntoIterator<Item = &'a Usage>>(usages: T) -> Self {
        usages.into_iter().fold(Self::default(), |mut all, usage| {
            match usage.prefix {
                IpNet::V6(_) => all.ipv6 = Some(usage.into()),
                IpNet::V4(_) => all.ipv4 = Some(usage.into()),
            }
            all
        })
    }
}
