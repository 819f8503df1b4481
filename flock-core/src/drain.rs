//! Taking a node out of the network before it goes down, [`Draining`].
//!
//! A route that is withdrawn is missed by whatever is on its way. So a node that is to go says first
//! that it will (RFC 8326): what it announces carries GRACEFUL_SHUTDOWN and is preferred to nothing
//! else ([`DrainPhase::Marked`]). After a time that lets the network choose other ways where there are
//! any, it withdraws everything ([`DrainPhase::Withdrawn`]); its sessions stay, so that the node
//! itself still reaches the network. When the drain ends, everything is announced as before.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How far a drain is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DrainPhase {
    /// Announcements carry GRACEFUL_SHUTDOWN (RFC 8326) and the least preference that there is.
    Marked,
    /// Nothing is announced.
    Withdrawn,
}

/// Why a node is drained. There may be several reasons at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum DrainReason {
    /// Its NodeConfig says so.
    NodeConfig,
    /// It is cordoned, and its operator wants it to be drained then.
    Cordon,
    /// It shuts down.
    Shutdown,
}

/// A drain that goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Draining {
    /// Since when, in milliseconds of the Unix epoch; 0 where the node has announced nothing since its
    /// boot, so that there is nothing to be marked.
    pub since_ms: u64,
    /// Why, at least one.
    pub reasons: BTreeSet<DrainReason>,
    /// Everything has been withdrawn, and stays so until the drain ends, whatever its time is by now.
    #[serde(default)]
    pub withdrawn: bool,
}

/// What one agent tells the next one, within one boot: a drain is not begun anew, and nothing is
/// announced once more that was withdrawn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DrainRecord {
    /// The boot in which it was written.
    pub boot_id: String,
    /// The drain that went on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draining: Option<Draining>,
}

impl DrainPhase {
    /// Where a drain is that has gone on for `elapsed`, if announcements are withdrawn after `time`.
    pub fn after(elapsed: Duration, time: Duration) -> Self {
        if elapsed < time { Self::Marked } else { Self::Withdrawn }
    }
}

impl fmt::Display for DrainPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Marked => "Marked",
            Self::Withdrawn => "Withdrawn",
        })
    }
}

impl fmt::Display for DrainReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NodeConfig => "NodeConfig",
            Self::Cordon => "Cordon",
            Self::Shutdown => "Shutdown",
        })
    }
}
