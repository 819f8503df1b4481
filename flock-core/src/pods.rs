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
///   woken by its arrival. One that is there is the answer whatever the deadline is, also
///   if it has passed: so asks who does not want to wait. It never answers with an older pod of the same name when
///   a UID is given.
/// - [`changes`](Self::changes) begins with the present state of every pod that the
///   source knows at the moment of the call, those that are terminating too; a source
///   that has not listed its pods yet tells them when it has. Then it tells each change
///   once, in order for one pod: also that a pod is there for the first time, and that
///   one is gone. What is no change is not told.
/// - In place of a pod with another UID, first the old one is told to be terminating,
///   if it was not yet, and then the state of the new one.
/// - A reader that is too slow, and one that listens again after a time in which the
///   source could not see its pods, may be told only the last change of a pod, never none.
#[cfg_attr(feature = "mocks", mockall::automock)]
#[async_trait]
pub trait PodSource: fmt::Debug + Send + Sync + 'static {
    /// The pod that `wanted` names.
    async fn pod(&self, wanted: &PodRef, deadline: Instant) -> Result<PodInfo, PodError>;

    /// How the pods are, and the changes from now on.
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
///
/// The default is what counts where nothing is known of a pod: it has no annotations,
/// and is ready.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodInfo {
    /// Where it has one.
    pub uid: Option<PodUid>,
    /// All of them; Flock reads its own.
    pub annotations: BTreeMap<String, String>,
    /// Whether it serves.
    pub state: PodState,
}

/// Whether a pod serves, as the API server sees it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PodState {
    /// Its condition `Ready` is not true: it has not started yet, or can't serve now.
    NotReady,
    /// It serves. A pod of a source that knows nothing of readiness counts as ready.
    #[default]
    Ready,
    /// It is being deleted, whatever its condition says: from its deletion timestamp
    /// on, and when it is gone.
    Terminating,
}

/// How a pod is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodChange {
    /// Which, by name.
    pub pod: PodKey,
    /// By the UID that the container runtime knows it by, where it has one. Of a static
    /// pod that is not the UID of the object which stands for it at the API server.
    pub uid: Option<PodUid>,
    /// How it is.
    pub state: PodState,
}

impl PodChange {
    /// What a reader is to be told, in this order, of a pod that it knows to be as `old`
    /// says, and that is now as `new` says. `None` stands for a pod that is not there.
    ///
    /// ```
    /// use flock_core::name::PodKey;
    /// use flock_core::pods::{PodChange, PodState};
    ///
    /// let pod = PodKey::new("default", "web-0")?;
    /// let old = PodChange { pod: pod.clone(), uid: Some("1".into()), state: PodState::Ready };
    /// let new = PodChange { pod, uid: Some("2".into()), state: PodState::NotReady };
    /// let gone = PodChange { state: PodState::Terminating, ..old.clone() };
    /// let told: Vec<_> = PodChange::between(Some(&old), Some(&new)).collect();
    /// assert_eq!(told, [gone, new]);
    /// # Ok::<(), flock_core::name::NameError>(())
    /// ```
    pub fn between(old: Option<&Self>, new: Option<&Self>) -> impl Iterator<Item = Self> + use<> {
        let stays = new.is_some_and(|new| old.is_some_and(|old| old.uid == new.uid));
        let ended = old.filter(|old| !stays && old.state != PodState::Terminating);
        let ended = ended.map(|old| Self { state: PodState::Terminating, ..old.clone() });
        ended.into_iter().chain(new.filter(|_| !stays || old != new).cloned())
    }
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
