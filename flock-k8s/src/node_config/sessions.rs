//! The sessions with a node's BGP peers, as the status of its NodeConfig shows them.

use std::collections::BTreeSet;
use std::time::SystemTime;

use flock_core::drain::{DrainPhase, DrainReason};
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
    /// The drain, while there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "DrainStatus")]
    pub drain: Option<DrainStatus>,
    /// Each peer of the NodeConfig that is in force.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<PeerStatus>,
}

/// A drain that goes on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DrainStatus {
    /// Marked while announcements carry GRACEFUL_SHUTDOWN, Withdrawn when nothing is announced.
    pub state: String,
    /// Since when the node is drained; not there where it was to be drained when it booted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Time")]
    pub since: Option<Time>,
    /// Why: NodeConfig, Cordon, Shutdown.
    pub reasons: Vec<String>,
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

impl DrainStatus {
    /// Begun at `since`, to the second.
    pub fn new(phase: &DrainPhase, since: Option<SystemTime>, reasons: &BTreeSet<DrainReason>) -> Self {
        let reasons = reasons.iter().map(ToString::to_string).collect();
        Self { state: phase.to_string(), since: seconds(since), reasons }
    }
}

impl PeerStatus {
    /// The same, since `at`, to the second.
    #[must_use]
    pub fn since(self, at: Option<SystemTime>) -> Self {
        Self { since: seconds(at), ..self }
    }
}

fn seconds(at: Option<SystemTime>) -> Option<Time> {
    let since_epoch = at?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Some(Time(Timestamp::from_second(i64::try_from(since_epoch.as_secs()).ok()?).ok()?))
}

impl RoutesStatus {
    /// No table has 2^63 routes.
    pub fn new(received: u64, advertised: u64) -> Self {
        let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        Self { received: count(received), advertised: count(advertised) }
    }
}
