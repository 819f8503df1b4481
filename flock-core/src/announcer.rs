//! The contract of announcing routes, [`RouteAnnouncer`].

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use async_trait::async_trait;
use ipnet::IpNet;

use crate::drain::DrainPhase;
use crate::node_config::{Bgp, Export, Peer};
use crate::retry::Retry;

#[cfg(feature = "conformance")]
pub mod conformance;
mod memory;

pub use memory::MemoryAnnouncer;

/// Makes what the network hears equal to what is wanted.
///
/// # Contract
///
/// - **Full state**: each call says everything that is to be announced; what an
///   earlier call said and this one does not is withdrawn. The last call wins.
/// - **Nothing else, ever**: only the prefixes of the wanted state are announced.
/// - **Level-triggered**: a backend may apply several calls together, and goes on
///   trying to apply the last one by itself while its speaker is away.
/// - **Idempotent and cheap**: a call that changes nothing does nothing.
/// - **Sessions stay**: a change of prefixes never resets a session with a peer.
/// - **A refused state changes nothing**: what was announced before stays.
#[cfg_attr(feature = "mocks", mockall::automock)]
#[async_trait]
pub trait RouteAnnouncer: fmt::Debug + Send + Sync + 'static {
    /// Takes `wanted` as the state to reach. Success means that it is reached, or
    /// that the backend has taken it over and will reach it without another call.
    async fn sync(&self, wanted: &Announcements) -> Result<(), AnnounceError>;
}

/// Everything that a node tells its peers, and to whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcements {
    /// The local autonomous system number. Without peers it has no meaning.
    pub asn: u32,
    /// The BGP identifier (RFC 4271, section 4.2).
    pub router_id: Ipv4Addr,
    /// Over how many paths the kernel shares traffic to what peers announce alike; 1 for over one
    /// only, at least 1.
    pub maximum_paths: u8,
    /// What announcements to all peers carry.
    pub export: Export,
    /// Whom to talk to, each [resolved](Peer::is_resolved). The order has no meaning.
    pub peers: Vec<Peer>,
    /// The node's prefixes.
    pub summaries: BTreeSet<IpNet>,
    /// The anycast addresses that pods of this node serve.
    pub anycast: BTreeSet<IpAddr>,
    /// Those that pods of this node would serve if they were ready, or served until a moment ago.
    /// Nobody is told of them. A backend that takes routes from the kernel may prepare itself: then
    /// what is announced follows the kernel's routes, and readiness that comes and goes changes
    /// nothing else.
    pub standby: BTreeSet<IpAddr>,
    /// Pods' own addresses outside the summaries, which are announced each by itself: they were
    /// given out before the node's prefixes changed.
    pub exceptions: BTreeSet<IpAddr>,
    /// How far the node is drained: whether all of that is marked, or is told to nobody.
    pub drain: Option<DrainPhase>,
}

impl Announcements {
    /// Nothing to nobody, from the speaker `router_id` of the autonomous system `asn`; to be filled
    /// by struct update.
    pub fn new(asn: u32, router_id: Ipv4Addr) -> Self {
        Self {
            asn,
            router_id,
            maximum_paths: Bgp::DEFAULT_MAXIMUM_PATHS,
            export: Export::default(),
            peers: Vec::new(),
            summaries: BTreeSet::new(),
            anycast: BTreeSet::new(),
            standby: BTreeSet::new(),
            exceptions: BTreeSet::new(),
            drain: None,
        }
    }
}

/// Why the wanted state is not reached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnnounceError {
    /// The speaker is not there.
    #[error("BIRD can't be reached at {endpoint}: {reason}; is it running with this control socket?")]
    Unreachable {
        /// Where it was looked for.
        endpoint: String,
        /// The system's answer.
        reason: String,
    },
    /// The speaker is there but does not answer in time.
    #[error("BIRD at {endpoint} did not answer within {seconds} s")]
    Timeout {
        /// Where it was asked.
        endpoint: String,
        /// How long was waited.
        seconds: u64,
    },
    /// The speaker does not take the configuration.
    #[error("BIRD refused the configuration: {message}; the last good one stays")]
    Refused {
        /// The speaker's own words, with file and line.
        message: String,
    },
    /// The configuration could not be written.
    #[error("can't write {path}: {reason}")]
    Write {
        /// The file.
        path: String,
        /// The system's answer.
        reason: String,
    },
    /// The wanted state can't be expressed.
    #[error("the announcements can't be rendered: {0}")]
    Invalid(String),
    /// Another backend failed.
    #[error("announcer: {0}")]
    Backend(String),
}

impl AnnounceError {
    /// A speaker that is away comes back; what it refuses it refuses again.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Unreachable { .. } | Self::Timeout { .. } | Self::Write { .. } | Self::Backend(_) => {
                Retry::Later
            }
            Self::Refused { .. } | Self::Invalid(_) => Retry::Never,
        }
    }
}
