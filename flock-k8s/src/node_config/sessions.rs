//! The sessions with a node's BGP peers, as the status of its NodeConfig shows them.

use std::time::SystemTime;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The sessions with the node's BGP peers, as BIRD has them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BgpStatus {
    /// With how many of the peers there is a session, like 1/2; ?/2 while BIRD does not answer.
    pub established: String,
    /// Why nothing is known of the sessions, where BIRD does not answer. They may go on or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub message: Option<String>,
    /// Each peer of the NodeConfig that is in force.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<PeerStatus>,
}

/// The session with a peer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PeerStatus {
    /// Name of the peer.
    pub name: String,
    /// Where it is: an address, an address and an interface (fe80::1%eth0), or an interface (%eth0).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub address: Option<String>,
    /// Its autonomous system number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i64")]
    pub asn: Option<u32>,
    /// State of the session (RFC 4271, section 8.2.2) in BIRD's word, like Established; Refused where
    /// the entry of the NodeConfig can't be used, and Unknown where BIRD has not said anything of it.
    pub state: String,
    /// Since when it is up, or else since when it is tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Time")]
    pub since: Option<Time>,
    /// Why it is not up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub last_error: Option<String>,
    /// Routes of IPv4, where the session carries it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "RoutesStatus")]
    pub ipv4: Option<RoutesStatus>,
    /// Routes of IPv6, where the session carries it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "RoutesStatus")]
    pub ipv6: Option<RoutesStatus>,
}

/// How many routes of a family a session has. Counted from time to time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RoutesStatus {
    /// Taken from the peer.
    pub received: i64,
    /// Told to the peer.
    pub advertised: i64,
}

impl PeerStatus {
    /// The same, since `at`, to the second.
    #[must_use]
    pub fn since(self, at: Option<SystemTime>) -> Self {
        let seconds = at.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
        let since = seconds.and_then(|at| Timestamp::from_second(i64::try_from(at.as_secs()).ok()?).ok());
        Self { since: since.map(Time), ..self }
    }
}

impl RoutesStatus {
    /// No table has 2^63 routes.
    pub fn new(received: u64, advertised: u64) -> Self {
        let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        Self { received: count(received), advertised: count(advertised) }
    }
}
