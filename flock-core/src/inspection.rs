//! Judging a node from outside: does what the records say agree with the leases, the kernel
//! and the BGP speaker?
//!
//! A [`Look`] is what was seen at about one time, [`Look::differences`] says what of it does
//! not agree. Whoever looks at a node that is at work looks more than once, and believes
//! what was there each time ([`lasting`]): nothing that is just being made or taken away is
//! a difference.
//!
//! The agent is asked for what only it knows, its [`View`]; all the rest is looked at
//! without it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::attachment::{Addresses, AttachmentKey};
use crate::drain::Draining;
use crate::node_config::Manifest;

mod attachments;
mod look;
mod node;
mod work;

pub use look::{Kernel, Look};

/// How long something has to be there that a node at work may pass through.
pub const PATIENCE: Duration = Duration::from_secs(3);

/// What an agent says of itself: what is in force, who holds what, what it works on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct View {
    /// The NodeConfig in force.
    pub node_config: Manifest,
    /// The boot that it runs in.
    pub boot_id: String,
    /// Who holds which addresses, ordered by key.
    pub leases: Vec<HeldLease>,
    /// Attachments that are being made, changed or taken away, or wait for that; ordered by key.
    pub busy: Vec<Busy>,
    /// Attachments with anycast addresses whose pods are ready, so that they serve them.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub ready: BTreeSet<AttachmentKey>,
    /// Anycast addresses that were withdrawn a moment ago, with the attachments that served them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub withdrawing: BTreeMap<IpAddr, BTreeSet<AttachmentKey>>,
    /// The drain that goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draining: Option<Draining>,
    /// The control socket of the BGP speaker that the agent configures, if it configures one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speaker: Option<std::path::PathBuf>,
}

/// An attachment that is worked on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Busy {
    /// Which.
    pub key: AttachmentKey,
    /// What is done with it.
    pub work: Work,
    /// For how long, in milliseconds, without a break.
    pub for_ms: u64,
    /// Why the last attempt has failed, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What is done with an attachment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Work {
    /// Requests for it are carried out or wait for each other.
    Request,
    /// It is taken away, again and again until that succeeds.
    Deletion,
}

/// The addresses that an attachment holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldLease {
    /// Who.
    pub key: AttachmentKey,
    /// What.
    #[serde(flatten)]
    pub addresses: Addresses,
}

/// What a BGP speaker has of Flock's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Spoken {
    /// The prefixes that it has taken from the kernel in order to announce them.
    pub prefixes: BTreeSet<IpNet>,
    /// The names of the peers that it is configured with.
    pub peers: BTreeSet<String>,
}

/// Something that does not agree.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    /// Whose: a pod, a file, the node, BIRD.
    pub subject: String,
    /// What was found, and what was expected.
    pub found: String,
    /// Of what goes on: for how long, and why without success. No two looks see the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub so_far: Option<String>,
    /// What would mend it.
    pub remedy: Remedy,
}

/// What would mend a difference.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Remedy {
    /// `flock-agent check --repair`.
    Repair,
    /// A new start of the agent, or `flock-agent check --offline --repair` while there is none.
    Restart,
    /// What a person has to do, or to wait for.
    ByHand(String),
}

impl Difference {
    pub(crate) fn new(subject: impl fmt::Display, found: impl fmt::Display, remedy: Remedy) -> Self {
        Self { subject: subject.to_string(), found: found.to_string(), so_far: None, remedy }
    }

    /// Whether another look has seen the same.
    pub fn is_same(&self, other: &Self) -> bool {
        let Self { subject, found, so_far: _, remedy } = self;
        (subject, found, remedy) == (&other.subject, &other.found, &other.remedy)
    }

    /// What was found, with all that is known of it.
    pub fn details(&self) -> String {
        let so_far = self.so_far.iter().map(|so_far| format!(" {so_far}"));
        std::iter::once(self.found.clone()).chain(so_far).collect()
    }

    /// Whether a node at work may pass through this: it is not one attachment's, and those who
    /// change it don't do so at once. BIRD is configured within a second, the summaries of old
    /// prefixes stay for some.
    pub fn may_pass(&self) -> bool {
        self.subject == node::NODE || self.subject == node::SPEAKER
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; to mend it: {}", self.subject, self.details(), self.remedy)
    }
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Repair => "flock-agent check --repair",
            Self::Restart => {
                "start flock-agent anew, or stop it and run flock-agent check --offline --repair"
            }
            Self::ByHand(what) => what,
        })
    }
}

/// What was there in `before` and is still there in `now`, in the order of `now`.
pub fn lasting(before: &[Difference], now: Vec<Difference>) -> Vec<Difference> {
    now.into_iter().filter(|difference| before.iter().any(|seen| seen.is_same(difference))).collect()
}
