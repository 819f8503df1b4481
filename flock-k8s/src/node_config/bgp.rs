//! The BGP part of the custom resource.
//!
//! It describes the fields to the API server. The agent reads peers, and what announcements carry,
//! as [`flock_core::node_config`] does from a file: what the API server lets through and can't be
//! used is refused there, with every reason, and for its peer alone.

use std::net::Ipv4Addr;

use flock_core::node_config as core;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

const IPV4: &str =
    r"^((25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])\.){3}(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])$";
const ADDRESS: &str = r"^(((25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])\.){3}(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])|[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*)$";
const PEER_NAME: &str = r"^[A-Za-z][A-Za-z0-9-]{0,31}$";
const INTERFACE: &str = r"^[A-Za-z0-9._-]{1,15}$";
const COMMUNITY: &str =
    r"^([0-9]{1,5}:[0-9]{1,5}|no-export|no-advertise|no-peer|graceful-shutdown|blackhole)$";
const LARGE_COMMUNITY: &str = r"^[0-9]{1,10}:[0-9]{1,10}:[0-9]{1,10}$";
const SECRET_NAME: &str = r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$";
const SECRET_KEY: &str = r"^[A-Za-z0-9._-]{1,253}$";
const PATH: &str = r"^/";

/// Whom a node's prefixes are announced to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BgpSpec {
    /// Autonomous system number of the node.
    #[schemars(with = "i64", range(min = 1, max = 4_294_967_294_u32))]
    pub asn: u32,
    /// BGP identifier of the node, unique in its autonomous system. Without it, the node's first
    /// global IPv4 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", regex(pattern = IPV4))]
    pub router_id: Option<Ipv4Addr>,
    /// Over how many paths the kernel shares traffic to what several peers announce alike (ECMP).
    /// Default 16; 1 switches sharing off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i32", range(min = 1, max = 255))]
    pub maximum_paths: Option<u32>,
    /// Takes the node out of the network: announcements carry the community GRACEFUL_SHUTDOWN
    /// (RFC 8326) and the least preference, and are withdrawn after drainTime. Sessions stay.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drain: bool,
    /// After how many seconds of a drain announcements are withdrawn. Default 15.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i32", range(min = 0, max = 86_400))]
    pub drain_time: Option<u32>,
    /// What announcements to all peers carry. The local preference goes to internal peers and
    /// prepending to external ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ExportSpec")]
    pub export: Option<ExportSpec>,
    /// The routers that BGP sessions are held with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        with = "Vec<PeerSpec>",
        length(max = 256),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub peers: Vec<PeerEntry>,
}

/// An entry of the peers: one that cannot be read is refused by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PeerEntry {
    /// As the definition has it, without what this release does not know.
    Known(Box<PeerSpec>),
    /// What the API server of another definition has let through.
    Other(Value),
}

/// A router that a BGP session is held with, by address, or by interface, or by both where the
/// address is a link-local one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("anyOf" = [{"required": ["address"]}, {"required": ["interface"]}]))]
pub struct PeerSpec {
    /// Name of the peer, unique on the node: a letter, then letters, digits or dashes.
    #[schemars(regex(pattern = PEER_NAME))]
    pub name: String,
    /// Address of the peer, IPv6 or IPv4; a link-local one with its interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", regex(pattern = ADDRESS))]
    pub address: Option<String>,
    /// The node's interface that a link-local address is behind. Without an address, whoever opens
    /// a session from a link-local address there is the peer (BGP unnumbered).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", regex(pattern = INTERFACE))]
    pub interface: Option<String>,
    /// Autonomous system number of the peer; that of the node makes the session an internal one.
    #[schemars(with = "i64", range(min = 1, max = 4_294_967_294_u32))]
    pub asn: u32,
    /// TCP port that the peer listens on. Default 179.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i32", range(min = 1, max = 65_535))]
    pub port: Option<u32>,
    /// The node's address of the session, of the family of the peer's. Default: what the kernel
    /// chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", regex(pattern = ADDRESS))]
    pub local_address: Option<String>,
    /// Whether the node waits for the peer to open the session. Default false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "bool")]
    pub passive: Option<bool>,
    /// How many hops away the peer may be. Without it an external peer is on a link of the node,
    /// and an internal one anywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i32", range(min = 1, max = 255))]
    pub multihop: Option<u32>,
    /// Whether packets from further away than the peer is are dropped (GTSM, RFC 5082). Without
    /// multihop the peer is on a link of the node. The peer has to send with a TTL of 255. Default
    /// false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "bool")]
    pub ttl_security: Option<bool>,
    /// Hold time that is offered, in seconds: 0 for none, or at least 3 (RFC 4271). Default 90.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i32", range(min = 0, max = 65_535))]
    pub hold_time: Option<u32>,
    /// How often keepalives are sent, in seconds; less than the hold time. Default: a third of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i32", range(min = 1, max = 65_534))]
    pub keepalive_time: Option<u32>,
    /// The Secret with the password of the session (TCP MD5, RFC 2385): 1 to 80 printable ASCII
    /// characters. Without the password the session is not tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "PasswordSecret")]
    pub password_secret: Option<PasswordSecret>,
    /// A file with the password where the agent runs, of mode 0600, in place of passwordSecret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", regex(pattern = PATH), length(max = 4_096))]
    pub password_file: Option<String>,
    /// Has BFD watch the session (RFC 5880); an empty object takes the defaults.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "BfdSpec")]
    pub bfd: Option<BfdSpec>,
    /// What happens to routes when the node's BIRD or the peer restarts (RFC 4724).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "GracefulRestartSpec")]
    pub graceful_restart: Option<GracefulRestartSpec>,
    /// What the session carries. Default: the family of the peer's address. IPv4 over IPv6 takes
    /// next hops of IPv6 (RFC 8950).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Vec<FamilyWord>", length(min = 1, max = 2))]
    pub families: Option<Vec<String>>,
    /// What is taken of what the peer sends: all, default (the default routes) or none. Default all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ImportWord")]
    pub import: Option<String>,
    /// How many prefixes of each family the peer may bring. Default: any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "MaxPrefixesSpec")]
    pub max_prefixes: Option<MaxPrefixesSpec>,
    /// What announcements to this peer carry, beside and before what is said of all peers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ExportSpec")]
    pub export: Option<ExportSpec>,
}

/// Where in the agent's namespace a password is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PasswordSecret {
    /// Name of the Secret.
    #[schemars(regex(pattern = SECRET_NAME))]
    pub name: String,
    /// Which of its values is the password. Default password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", regex(pattern = SECRET_KEY))]
    pub key: Option<String>,
}

/// Intervals of BFD.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BfdSpec {
    /// How often the node can receive, in milliseconds. Default 300.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i32", range(min = 10, max = 60_000))]
    pub min_rx_ms: Option<u32>,
    /// How often the node wants to send, in milliseconds. Default 300.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i32", range(min = 10, max = 60_000))]
    pub min_tx_ms: Option<u32>,
    /// After how many missing packets the peer counts as gone. Default 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i32", range(min = 1, max = 255))]
    pub multiplier: Option<u32>,
}

/// The node's part in graceful restarts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GracefulRestartSpec {
    /// Restart: both keep the routes of the other who restarts. helper: the node keeps those of the
    /// peer. disabled: neither. Default restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "GracefulRestartWord")]
    pub mode: Option<String>,
    /// How long the peer is asked to wait for the node, in seconds. Default 120.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i32", range(min = 0, max = 4_095))]
    pub restart_time: Option<u32>,
    /// Has the peer keep stale routes beyond that, where there are no others (RFC 9494).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "LongLivedSpec")]
    pub long_lived: Option<LongLivedSpec>,
}

/// Long-lived graceful restart.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LongLivedSpec {
    /// For how long, in seconds.
    #[schemars(with = "i32", range(min = 0, max = 16_777_215))]
    pub stale_time: u32,
}

/// How much a peer may bring.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MaxPrefixesSpec {
    /// How many prefixes, of each family.
    #[schemars(with = "i64", range(min = 1, max = 4_294_967_295_u32))]
    pub count: u32,
    /// What happens beyond them: restart starts the session anew, disable ends it until the
    /// configuration changes, block takes no more, warn logs it. Default restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ActionWord")]
    pub action: Option<String>,
}

/// What announcements carry, and what those of one kind carry beyond that: communities add up, of
/// a number the most specific one counts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExportSpec {
    /// What all of them carry.
    #[serde(flatten)]
    pub all: AttributesSpec,
    /// What the node's prefixes carry beyond that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "AttributesSpec")]
    pub summaries: Option<AttributesSpec>,
    /// What anycast addresses carry beyond that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "AttributesSpec")]
    pub anycast: Option<AttributesSpec>,
    /// What pods' addresses outside the node's prefixes carry beyond that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "AttributesSpec")]
    pub exceptions: Option<AttributesSpec>,
}

/// BGP attributes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AttributesSpec {
    /// Standard communities (RFC 1997) like 64512:100, or no-export, no-advertise, no-peer,
    /// graceful-shutdown, blackhole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Vec<CommunityText>", length(max = 64))]
    pub communities: Option<Vec<String>>,
    /// Large communities (RFC 8092) like 64512:1:2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Vec<LargeCommunityText>", length(max = 64))]
    pub large_communities: Option<Vec<String>>,
    /// Local preference, for internal peers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i64", range(min = 0, max = 4_294_967_295_u32))]
    pub local_preference: Option<u32>,
    /// Multi-exit discriminator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i64", range(min = 0, max = 4_294_967_295_u32))]
    pub med: Option<u32>,
    /// How many times more the node's AS number stands in the AS path, for external peers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i32", range(min = 0, max = 16))]
    pub prepend: Option<u32>,
}

/// A standard community.
#[derive(JsonSchema)]
#[schemars(transparent)]
struct CommunityText(
    #[schemars(regex(pattern = COMMUNITY))]
    #[expect(dead_code, reason = "it stands for a schema")]
    String,
);

/// A large community.
#[derive(JsonSchema)]
#[schemars(transparent)]
struct LargeCommunityText(
    #[schemars(regex(pattern = LARGE_COMMUNITY))]
    #[expect(dead_code, reason = "it stands for a schema")]
    String,
);

macro_rules! words {
    ($doc:literal $name:ident: $($variant:ident)*) => {
        #[doc = $doc]
        #[derive(JsonSchema)]
        #[serde(rename_all = "camelCase")]
        #[expect(dead_code, reason = "it stands for a schema")]
        enum $name { $($variant),* }
    };
}

words!("An address family." FamilyWord: Ipv6 Ipv4);
words!("What is taken." ImportWord: All Default None);
words!("The node's part." GracefulRestartWord: Restart Helper Disabled);
words!("What happens." ActionWord: Restart Disable Block Warn);

impl From<BgpSpec> for core::BgpSpec {
    fn from(spec: BgpSpec) -> Self {
        let BgpSpec { asn, router_id, maximum_paths, drain, drain_time, export, peers } = spec;
        let export = export.as_ref().map(written);
        Self {
            asn,
            router_id,
            maximum_paths,
            drain,
            drain_time,
            export,
            peers: peers.iter().map(written).collect(),
        }
    }
}

/// What [`flock_core`] reads. Writing to a value fails for nothing that is here.
fn written<T: Serialize>(part: &T) -> Value {
    serde_json::to_value(part).unwrap_or_default()
}
