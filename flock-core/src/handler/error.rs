//! What can go wrong in a call, and the one place where it becomes a CNI error.

use std::path::PathBuf;

use crate::annotations::AnnotationError;
use crate::announcer::AnnounceError;
use crate::attachment::AttachmentKey;
use crate::cni;
use crate::dataplane::{DataplaneError, Drift};
use crate::deletions::QueueError;
use crate::handler::mend::in_a_line;
use crate::ipam::IpamError;
use crate::name::InterfaceName;
use crate::pods::PodError;
use crate::retry::Retry;
use crate::store::StoreError;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum HandlerError {
    /// The pod's annotations can't be met.
    #[error(transparent)]
    Annotations(#[from] AnnotationError),
    /// Address management.
    #[error(transparent)]
    Ipam(#[from] IpamError),
    /// The record.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The kernel.
    #[error(transparent)]
    Dataplane(#[from] DataplaneError),
    /// The announcements.
    #[error(transparent)]
    Announce(#[from] AnnounceError),
    /// The pods.
    #[error(transparent)]
    Pods(#[from] PodError),
    /// The queue of deletions.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// ADD and CHECK need a namespace.
    #[error("CNI_NETNS is not set: expected the path of the container's network namespace")]
    NoNamespace,
    /// Both names that the host side could have belong to others.
    #[error("both {first} and {second}, the names for the host side of {key}, belong to other attachments")]
    NoHostInterface {
        /// The preferred name.
        first: InterfaceName,
        /// The other one.
        second: InterfaceName,
        /// Whose host side it would be.
        key: AttachmentKey,
    },
    /// CHECK of what was never added, or is deleted.
    #[error("there is no attachment {0} on this node; it was never added, or has been deleted")]
    Unknown(AttachmentKey),
    /// The container is in another namespace than at its ADD.
    #[error("{key} was added to another network namespace than {}", .netns.display())]
    OtherNamespace {
        /// Which attachment.
        key: AttachmentKey,
        /// Where the runtime says it is.
        netns: PathBuf,
    },
    /// CHECK found differences.
    #[error("{key} is not as it should be: {}", in_a_line(.drifts))]
    Drifted {
        /// Which attachment.
        key: AttachmentKey,
        /// All of them.
        drifts: Vec<Drift>,
    },
    /// The result that the runtime has is not what the record says.
    #[error("prevResult is not what {key} was given: {}", .missing.join("; "))]
    PrevResult {
        /// Which attachment.
        key: AttachmentKey,
        /// What is missing there.
        missing: Vec<String>,
    },
    /// GC could not delete all that it should.
    #[error("GC deleted {deleted} attachments and could not delete {}: {}", .left.len(), named(.left))]
    Gc {
        /// How many it did delete.
        deleted: usize,
        /// Those that are left over, and why.
        left: Vec<(AttachmentKey, HandlerError)>,
    },
}

fn named(left: &[(AttachmentKey, HandlerError)]) -> String {
    left.iter().map(|(key, error)| format!("{key}: {error}")).collect::<Vec<_>>().join("; ")
}

impl HandlerError {
    /// Whether it helps to try again.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Ipam(error) => error.retry(),
            Self::Store(error) => error.retry(),
            Self::Dataplane(error) => error.retry(),
            Self::Announce(error) => error.retry(),
            Self::Pods(error) => error.retry(),
            Self::Gc { left, .. } => {
                let later = left.iter().any(|(_, error)| error.retry() == Retry::Later);
                if later { Retry::Later } else { Retry::Never }
            }
            Self::Queue(_) => Retry::Later,
            Self::Annotations(_)
            | Self::NoNamespace
            | Self::NoHostInterface { .. }
            | Self::Unknown(_)
            | Self::OtherNamespace { .. }
            | Self::Drifted { .. }
            | Self::PrevResult { .. } => Retry::Never,
        }
    }

    fn code(&self) -> cni::Code {
        match self {
            Self::NoNamespace | Self::Dataplane(DataplaneError::NotANamespace { .. }) => {
                cni::Code::INVALID_ENVIRONMENT
            }
            Self::Unknown(_) => cni::Code::UNKNOWN_CONTAINER,
            Self::Store(_) => cni::Code::IO_FAILURE,
            Self::Drifted { .. } | Self::PrevResult { .. } | Self::OtherNamespace { .. } => {
                cni::Code::CHECK_FAILED
            }
            _ if self.retry() == Retry::Later => cni::Code::TRY_AGAIN_LATER,
            Self::Gc { left, .. } => left.first().map_or(cni::Code::INTERNAL, |(_, error)| error.code()),
            Self::Ipam(_) => cni::Code::ADDRESS,
            Self::Dataplane(_) | Self::NoHostInterface { .. } => cni::Code::DATAPLANE,
            Self::Announce(_) => cni::Code::ANNOUNCEMENT,
            Self::Annotations(_) | Self::Pods(_) => cni::Code::POD,
            Self::Queue(_) => cni::Code::TRY_AGAIN_LATER,
        }
    }
}

impl From<HandlerError> for cni::Error {
    fn from(error: HandlerError) -> Self {
        let msg = error.to_string();
        let details = match &error {
            HandlerError::Drifted { drifts, .. } => {
                drifts.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
            }
            HandlerError::Gc { .. } => {
                "everything else of GC was done; what is left over can be deleted by the next GC, or with DEL"
                    .to_owned()
            }
            _ => String::new(),
        };
        Self { code: error.code(), msg, details }
    }
}
