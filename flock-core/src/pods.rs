//! The contract of knowing the node's pods, [`PodSource`].

use std::collections::BTreeMap;
use std::fmt;
use std::time::Instant;

use async_trait::async_trait;
use futures_core::stream::BoxStream;

use crate::name::PodKey;
use crate::retry::Retry;

#[cfg(feature = "conformance")]
pub mod conformance;
mod directory;
mod fixed;

pub use directory::PodDirectory;
pub use fixed::FixedPods;

/// Knows the pods of this node and tells when one changes.
///
/// # Contract
///
/// - [`pod`](Self::pod) waits for a pod that is not there yet until the deadline,
///   woken by its arrival; it never answers with an older pod of the same name when
///   a UID is given.
/// - [`changes`](Self::changes) says each change after the moment of the call once,
///   in order for one pod; a reader that is too slow may get only the last change of
///   a pod, never none.
#[cfg_attr(feature = "mocks", mockall::automock)]
#[async_trait]
pub trait PodSource: fmt::Debug + Send + Sync + 'static {
    /// The pod that `wanted` names.
    async fn pod(&self, wanted: &PodRef, deadline: Instant) -> Result<PodInfo, PodError>;

    /// The changes from now on.
    fn changes(&self) -> BoxStream<'static, PodChange>;
}

/// A pod's UID, as the API server and the runtime write it.
pub type PodUid = String;

/// Which pod is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodRef {
    /// By name.
    pub key: PodKey,
    /// And, where it is known, this very one and not an older one of the same name.
    pub uid: Option<PodUid>,
}

/// What Flock needs to know of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodInfo {
    /// Where it has one.
    pub uid: Option<PodUid>,
    /// All of them; Flock reads its own.
    pub annotations: BTreeMap<String, String>,
}

/// Something that happened to a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PodChange {
    /// Its readiness is now this.
    Ready(PodKey, bool),
    /// It is terminating or gone.
    Gone(PodKey),
}

/// Why nothing is known of a pod.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PodError {
    /// It did not appear in time.
    #[error("pod {pod} did not appear {source_name} within the deadline")]
    NotFound {
        /// Which.
        pod: PodKey,
        /// Where it was looked for, in words.
        source_name: String,
    },
    /// What is there of it can't be read.
    #[error("{path}: {reason}")]
    Invalid {
        /// Where it stands.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The source is away.
    #[error("pods: {0}")]
    Backend(String),
}

impl PodError {
    /// A pod may still come; a file that can't be read must be mended.
    pub fn retry(&self) -> Retry {
        match self {
            Self::NotFound { .. } | Self::Backend(_) => Retry::Later,
            Self::Invalid { .. } => Retry::Never,
        }
    }
}
